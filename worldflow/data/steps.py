"""What lies between the frames: which action led to which frame, and what a skip makes of several.

The one place where actions are shifted. Everywhere else `actions[t]` led to `frames[t]`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.data.formats.base import RawEpisode
from worldflow.errors import ConfigError, DataError

AGGREGATES = ("mode", "last", "mean")


class Step(NamedTuple):
    """What led to a frame: the action (zero where not known), reward, and whether it ended all."""

    action: np.ndarray
    known: bool
    reward: float
    terminated: bool


class Steps:
    """The steps of one recorded episode, from kept frame to kept frame.

    Args:
        raw: the episode.
        spec: of the actions.
        alignment: of actions, rewards and terminations, see
            `worldflow.data.formats.base.ALIGNMENTS`.
        aggregate: what a skip makes of its actions: the most frequent ("mode", of several the
            last), the "last" or the "mean".

    Raises:
        DataError: an action outside the spec, a reward that is no number, or arrays of different
            lengths.
    """

    def __init__(self, raw: RawEpisode, spec: ActionSpec, alignment: str, aggregate: str) -> None:
        self.name, self.spec, self.aggregate = raw.name, spec, aggregate
        given = [v for v in (raw.actions, raw.rewards, raw.terminated) if v is not None]
        self._entries = {len(values) for values in given}
        if len(self._entries) > 1:
            raise DataError(
                f"{raw.name}: actions, rewards and terminations have {sorted(self._entries)} "
                "entries; they must be of one length"
            )
        # entry k of an array led to frame k + shift
        between = raw.frames is not None and self._entries == {raw.frames - 1}
        self._shift = 0 if alignment == "led_to" and not between else 1
        self._actions = None
        if raw.actions is not None and spec.kind != "none":
            try:
                self._actions = spec.validate(raw.actions.reshape(-1, *spec.shape))
            except (DataError, ValueError) as error:
                raise DataError(f"{raw.name}: {error}; repair or remove the episode") from error
        self._known, self._rewards = raw.known, raw.rewards
        if raw.rewards is not None and not np.isfinite(raw.rewards).all():
            raise DataError(f"{raw.name}: a reward is not a number; repair or remove the episode")
        self._terminated = raw.terminated

    def recorded(self) -> np.ndarray | None:
        """The actions (K, ...) that are known and led to a frame; None if there are none at all.

        The last of "taken_at", which led to a frame that was not recorded, counts too.
        """
        if self._actions is None:
            return None
        unused = 1 - self._shift  # of "led_to" the first, which led to no frame
        known = slice(None) if self._known is None else self._known[unused:]
        return self._actions[unused:][known]

    def first(self) -> Step:
        """The step of a frame that nothing led to."""
        return Step(np.zeros(self.spec.shape, self.spec.dtype), False, 0.0, False)

    def between(self, before: int, at: int) -> Step:
        """All that led from frame `before` to frame `at`, as one step.

        Rewards are added, one termination terminates, and one unknown action makes all unknown.
        Between a frame and itself there is no action, so it is not known.
        """
        span = slice(before + 1 - self._shift, at + 1 - self._shift)
        action, known, _, _ = self.first()
        if self._actions is not None and at > before:
            known = self._known is None or bool(self._known[span].all())
            action = self._aggregated(self._actions[span]) if known else action
        return Step(action, known, *self._arrived(span))

    def after(self, last: int, frames: int) -> tuple[float, bool]:
        """Reward and termination of all that came after the last frame that is kept.

        That is what led to recorded frames that are skipped, and what a step taken at the last of
        them brought, whose own frame was not recorded.

        Args:
            last: index of the last frame that is kept.
            frames: how many frames were recorded.

        Raises:
            DataError: actions, rewards or terminations are not of this many frames.
        """
        allowed = (frames,) if self._shift == 0 else (frames, frames - 1)
        if self._entries and not self._entries <= set(allowed):
            raise DataError(
                f"{self.name}: {frames} frames but {self._entries.pop()} actions, rewards or "
                f"terminations; {' or '.join(map(str, allowed))} are needed"
            )
        return self._arrived(slice(last + 1 - self._shift, None))

    def _arrived(self, span: slice) -> tuple[float, bool]:
        reward = 0.0 if self._rewards is None else float(self._rewards[span].sum())
        return reward, self._terminated is not None and bool(self._terminated[span].any())

    def _aggregated(self, actions: np.ndarray) -> np.ndarray:
        if len(actions) == 0:
            raise DataError(f"{self.name}: fewer actions than frames; one for each is needed")
        if len(actions) == 1 or self.aggregate == "last":
            return actions[-1]
        if self.aggregate == "mean":
            return actions.mean(axis=0)
        # of the reversed actions the first index is the last occurrence
        values, last, counts = np.unique(
            actions[::-1], axis=0, return_index=True, return_counts=True
        )
        best = np.flatnonzero(counts == counts.max())
        return values[best[np.argmin(last[best])]]


def check_aggregate(aggregate: str | None, spec: ActionSpec) -> str:
    """The rule by which a skip's actions become one; None: "mean" of a box, "mode" of all else.

    Raises:
        ConfigError: an unknown rule, or one that does not fit the actions.
    """
    aggregate = aggregate or ("mean" if spec.kind == "box" else "mode")
    if aggregate not in AGGREGATES:
        raise ConfigError(f"data.aggregate is {aggregate!r}; use one of {', '.join(AGGREGATES)}")
    if aggregate == "mean" and spec.kind == "discrete":
        raise ConfigError("data.aggregate=mean is for boxes; use 'mode' or 'last'")
    return aggregate
