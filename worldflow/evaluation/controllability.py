"""Whether actions do in a dream what they do in reality.

Let x_t(a) be what a simulator shows at step t under actions a, and r_t(a) what reality shows.

    excess = sum over t of |x_t(b) - r_t(a)|^2 - |x_t(a) - r_t(a)|^2

is how much worse a dream under other actions b fits reality under its own actions a: 0 for a
simulator that ignores its actions, below 0 for one that gets them wrong. Chance that does not
depend on the actions is in both terms and drops out. What excess is possible is known in two ways:

- from recorded episodes alone, as the dream's own change D = sum of |x_t(b) - x_t(a)|^2 with the
  same noise: `agreement` = excess / D, the share of that change which reality confirms;
- from the real game, replayed under both actions, as the excess of reality as a simulator of
  itself: `controllability` = excess of the dream / excess of reality.

Both are 1 for reality itself. They differ for a world that reacts in the right way but too weakly,
whose agreement is above 1 and whose controllability is below 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from worldflow.evaluation.association import ratio
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.simulate import Dreams
from worldflow.metrics import masked_mean, squared_error


def other_actions(clips: RealClips, context: int) -> tuple[RealClips, np.ndarray] | None:
    """The clips, each with the actions of the next one after its given frames.

    So other actions are as likely, and as sticky, as the true ones.

    Args:
        clips: B of them.
        context: frames that are given.

    Returns:
        the clips, and the steps (B, T - context) that are real under both actions; None for a
        single clip, which has no other.
    """
    if len(clips.frames) < 2:
        return None
    actions = clips.actions.copy()
    actions[:, context:] = np.roll(clips.actions, -1, axis=0)[:, context:]
    valid = clips.valid & np.roll(clips.valid, -1, axis=0)
    return replace(clips, actions=actions), valid[:, context:]


def excess(wrong: np.ndarray, right: np.ndarray, reality: np.ndarray) -> np.ndarray:
    """|wrong - reality|^2 - |right - reality|^2 of uint8 images (..., H, W, 3): (...,)."""
    return squared_error(wrong, reality) - squared_error(right, reality)


def agreement_figures(
    clips: RealClips, true: Dreams, other: Dreams, valid: np.ndarray, context: int
) -> dict[str, Any]:
    """Agreement from recorded clips.

    Args:
        clips: reality.
        true: dreams under the clips' actions.
        other: dreams of the same noise under `other_actions`.
        valid: (B, T') bool, the steps that count.
        context: given frames.

    Returns:
        JSON-able: `agreement` with its interval over clips, 0 where actions change nothing in a
        dream; and over time, in squared grey levels, the errors under both actions and the change.
    """
    real = clips.frames[None, :, context:]
    errors = {
        "true actions": squared_error(true.frames, real).mean(axis=0),
        "other actions": squared_error(other.frames, real).mean(axis=0),
        "dream against dream": squared_error(true.frames, other.frames).mean(axis=0),
    }
    gained = (errors["other actions"] - errors["true actions"]) * valid
    change = errors["dream against dream"] * valid
    found = ratio(gained.sum(axis=1), change.sum(axis=1))
    ignored = {"mean": 0.0, "low": 0.0, "high": 0.0, "count": len(valid)}
    return {
        "agreement": found or ignored,
        "over_time": {
            n: [None if np.isnan(v) else float(v) for v in masked_mean(e, valid)]
            for n, e in errors.items()
        },
    }
