"""How right a world's rewards and terminations are: on real frames, and in dreams beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldflow.evaluation.association import ratio
from worldflow.evaluation.clips import RecordedClips
from worldflow.evaluation.events import RewardEvents, first_only, match
from worldflow.evaluation.simulate import Dreams, chunks, clip_noise
from worldflow.heads.termination import PAST
from worldflow.metrics import masked_mean
from worldflow.world_model import WorldModel

TOLERANCES = (0, 2)  # steps within which a predicted event counts as the true one
THRESHOLD = 0.5  # of the probability above which a termination is predicted on real frames


@torch.no_grad()
def head_predictions(
    world: WorldModel, clips: RecordedClips, batch: int, seed: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What the heads say of real frames: rewards (B, T), probabilities of termination (B, T).

    Either is None where the world has no such head. The noise is that of `simulate.scores`.
    """
    rewards, probabilities = [], []
    for piece in chunks(len(clips.frames), batch):
        generators = [clip_noise(seed, n) for n in range(piece.start, piece.stop)]
        noisy = world.noisy_latents(torch.from_numpy(clips.frames[piece]), generators)
        text = clips.told(piece)
        condition = world.conditioning(torch.from_numpy(clips.actions[piece]), text=text)
        _, features = world.denoiser(noisy, condition)
        if world.reward_head is not None:
            rewards.append(world.reward_head.mean(world.reward_head(features)))
        if world.termination_head is not None:
            head = world.termination_head
            past = features
            if head.reads == PAST:
                past = world.flow.global_block(world.flow.hidden(noisy), condition)
            logits = head.of_clips(features, past, noisy, condition)
            probabilities.append(head.probability(logits))
    joined = [torch.cat(p).cpu().numpy() if p else None for p in (rewards, probabilities)]
    return joined[0], joined[1]


def signal_figures(
    world: WorldModel, clips: RecordedClips, dreams: Dreams, batch: int, seed: int
) -> dict[str, Any]:
    """Accuracy of reward and termination, JSON-able, with intervals over clips.

    Args:
        world: in eval mode.
        clips: reality, longer than the context.
        dreams: from their beginnings, under their actions.
        batch: clips scored at once.
        seed: of the noise.

    Returns:
        `reward` (see `reward_figures`) and `termination` (see `termination_figures`), None for a
        world without the head.
    """
    context = world.config.context
    rewards, probabilities = head_predictions(world, clips, batch, seed)
    valid = clips.valid[:, context:]
    found: dict[str, Any] = {"reward": None, "termination": None}
    if rewards is not None and dreams.rewards is not None:
        alive = np.broadcast_to(valid, dreams.rewards.shape)
        if dreams.terminated is not None:
            alive = alive & (np.cumsum(dreams.terminated, axis=-1) - dreams.terminated == 0)
        found["reward"] = reward_figures(
            clips.rewards[:, context:], rewards[:, context:], dreams.rewards, valid, alive
        )
    if probabilities is not None and dreams.terminated is not None:
        found["termination"] = termination_figures(
            clips.terminated[:, context:], probabilities[:, context:], dreams.terminated, valid
        )
    return found


def reward_figures(
    true: np.ndarray,
    on_real: np.ndarray,
    dreamed: np.ndarray,
    valid: np.ndarray,
    alive: np.ndarray,
) -> dict[str, Any]:
    """Errors of the reward, and precision and recall of rewards that are not the usual one.

    Args:
        true: rewards (B, T).
        on_real: the head's on real frames (B, T).
        dreamed: (S, B, T).
        valid: (B, T) bool, the real steps.
        alive: (S, B, T) bool, the real steps up to which a dream has not ended.

    Returns:
        JSON-able: `error`, mean absolute errors of the head on real frames, in dreams, and of
        always predicting the mean; `events`, or None where no reward is the usual one;
        `over_time`, mean rewards.
    """
    weights = valid.sum(axis=1)
    mean = true[valid].mean()
    errors = {
        "on real frames": (np.abs(on_real - true) * valid).sum(axis=1),
        "the mean reward": (np.abs(mean - true) * valid).sum(axis=1),
    }
    figures = {name: ratio(total, weights) for name, total in errors.items()}
    figures["in dreams"] = ratio(
        (np.abs(dreamed - true) * alive).sum(axis=(0, 2)), alive.sum(axis=(0, 2))
    )
    samples = len(dreamed)
    events = None
    if (kind := RewardEvents.of(true[valid])) is not None:
        actual = kind.of_rewards(true) & valid
        predicted = {
            "on real frames": (kind.of_rewards(on_real) & valid)[None],
            "in dreams": kind.of_rewards(dreamed) & alive,
        }
        events = {"usual": kind.usual, "margin": kind.margin} | {
            name: _matched(made, actual) for name, made in predicted.items()
        }
    curves = {"real": masked_mean(true, valid), "on real frames": masked_mean(on_real, valid)}
    flat = (samples * len(true), -1)
    curves["in dreams"] = masked_mean(dreamed.reshape(flat), alive.reshape(flat))
    return {"error": figures, "events": events, "over_time": _listed(curves)}


def termination_figures(
    true: np.ndarray, on_real: np.ndarray, dreamed: np.ndarray, valid: np.ndarray
) -> dict[str, Any]:
    """Precision, recall and timing of terminations.

    Args:
        true: (B, T) bool.
        on_real: probabilities on real frames (B, T).
        dreamed: drawn at every step of S dreams (S, B, T) bool; the first of a dream ends it.
        valid: (B, T) bool, the real steps. Where a clip ends without termination, the dream's end
            after that is not counted.

    Returns:
        JSON-able. `on real frames`: a termination is predicted above `THRESHOLD`. `drawn on real
        frames`: expected precision and recall of drawing from the probability, as an env does.
        `in dreams`: the first end of a dream; `any` ignores how far it is off. `rate`: ends a step,
        in reality, drawn on real frames, and in dreams. `running`: share of clips that have not
        ended, over time.
    """
    ended = first_only(true & valid)
    soft = np.where(valid, on_real, 0.0)
    # after a real termination a dream that is late may still end
    after = np.cumsum(ended, axis=1) > 0
    ends = first_only(dreamed & (valid | after))
    steps = np.cumsum(ends, axis=-1) - ends == 0
    return {
        "on real frames": _matched((first_only((soft >= THRESHOLD) & valid))[None], ended),
        "drawn on real frames": {
            "precision": ratio((soft * ended).sum(axis=1), soft.sum(axis=1)),
            "recall": ratio((soft * ended).sum(axis=1), ended.sum(axis=1)),
        },
        "in dreams": _matched(ends, ended) | {"any": _matches(ends, ended, true.shape[1])},
        "rate": {
            "real": ratio(ended.sum(axis=1), valid.sum(axis=1)),
            "drawn on real frames": ratio(soft.sum(axis=1), valid.sum(axis=1)),
            "in dreams": ratio((ends & valid).sum(axis=(0, 2)), (steps & valid).sum(axis=(0, 2))),
        },
        "running": _listed(
            {
                "real": _running(ended, valid, after),
                "in dreams": _running(
                    ends.reshape(-1, ends.shape[-1]),
                    np.tile(valid, (len(ends), 1)),
                    np.tile(after, (len(ends), 1)),
                ),
            }
        ),
    }


def _running(ends: np.ndarray, valid: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Share of rows not ended by each step, of those whose clip was not cut before."""
    return masked_mean((np.cumsum(ends, axis=1) == 0).astype(np.float64), valid | after)


def _matched(predicted: np.ndarray, actual: np.ndarray) -> dict[str, Any]:
    return {str(tolerance): _matches(predicted, actual, tolerance) for tolerance in TOLERANCES}


def _matches(predicted: np.ndarray, actual: np.ndarray, tolerance: int) -> dict[str, Any]:
    """Predicted (S, B, T) beside actual (B, T)."""
    samples = len(predicted)
    rows = predicted.reshape(-1, predicted.shape[-1])
    return match(rows, np.tile(actual, (samples, 1)), tolerance).figures(samples)


def _listed(curves: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    return {n: [None if np.isnan(v) else float(v) for v in c] for n, c in curves.items()}
