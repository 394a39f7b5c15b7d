"""Whether what looks strange in a dream is wrong: scores of dreamed frames against true errors.

A frame's true error is its mean squared error against the real frame at the same step of the same
episode, under the same actions. The recorded episode is one of many that the game could have gone
through from there, so the error holds what no world could know.

Four rank correlations (Spearman), each over all dreams and steps, with bootstrap intervals over
clips, each from an episode of its own:

- frame: of a frame's score with its error;
- window: of the means of both over the last k steps;
- running: of the mean score of the dream so far with the frame's error, as errors add up;
- within step: of score and error among the dreams at one step, mean over steps. The others also
  see that errors grow with time; the number of the step, as a score of its own, shows how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.detectors.detector import Detector
from worldflow.evaluation.rank_correlation import spearman
from worldflow.evaluation.resampling import episode_weights, interval
from worldflow.evaluation.simulate import Dreams
from worldflow.metrics import masked_mean, squared_error

FEWEST = 3  # clips at a step for a correlation within it


def dream_error_figures(
    clips: RealClips,
    dreams: Dreams,
    detectors: Sequence[Detector],
    context: int,
    window: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Rank correlations with the true error, and errors by the dream's own scores; JSON-able.

    Args:
        clips: whose first `context` frames were given.
        dreams: of the rest.
        detectors: score the dreamed frames as they are shown.
        context: K.
        window: k.
        resamples: of the clips.
        seed: of the resamples.
    """
    samples, count = dreams.frames.shape[:2]
    given = np.broadcast_to(
        clips.frames[None, :, :context], (samples, *clips.frames[:, :context].shape)
    )
    shown = np.concatenate([given, dreams.frames], axis=2).reshape(-1, *clips.frames.shape[1:])
    actions = np.tile(clips.actions, (samples, *[1] * (clips.actions.ndim - 1)))
    own = {
        "novelty of the dream": dreams.novelty,
        "NLL of the dream": -dreams.log_likelihood,
        "uncertainty of the dream": dreams.uncertainty,
    }
    scores = dict(own)
    for detector in detectors:
        scored = detector.score(shown, actions)[:, context:]
        scores[f"{detector.name} of the shown frames"] = scored.reshape(samples, count, -1)
    valid = clips.valid[:, context:]
    scores["number of the step"] = np.broadcast_to(
        np.arange(valid.shape[1], dtype=np.float64), (samples, *valid.shape)
    )
    error = squared_error(dreams.frames, clips.frames[None, :, context:])
    weights = episode_weights(count, resamples, seed)
    return {
        "clips": count,
        "dreams": samples,
        "steps": valid.shape[1],
        "window": window,
        "correlations": {
            name: correlations(values, error, valid, window, weights)
            for name, values in scores.items()
        },
        "error_by_tenths": {
            name: error_by_tenths(values, error, valid) for name, values in own.items()
        },
    }


def error_by_tenths(score: np.ndarray, error: np.ndarray, valid: np.ndarray) -> list[float]:
    """Mean error of the frames in each tenth of a score, from the lowest to the highest.

    Args:
        score: (S, B, T), finite where valid.
        error: (S, B, T).
        valid: (B, T) bool; ten frames or more, else there are fewer parts.
    """
    there = np.broadcast_to(valid, score.shape)
    ordered = error[there][np.argsort(score[there], kind="stable")]
    return [float(part.mean()) for part in np.array_split(ordered, min(10, len(ordered)))]


def correlations(
    score: np.ndarray, error: np.ndarray, valid: np.ndarray, window: int, weights: np.ndarray
) -> dict[str, dict[str, float | None]]:
    """The four of one score.

    Args:
        score: (S, B, T), finite where valid.
        error: (S, B, T).
        valid: (B, T) bool, of an episode's beginning only.
        window: k; a window's correlation is left out where no episode is that long.
        weights: (R, B), see `episode_weights`.
    """
    _, count, steps = score.shape
    rows = np.broadcast_to(np.arange(count)[None, :, None], score.shape)
    there = np.broadcast_to(valid, score.shape)
    safe = np.where(there, score, 0.0)
    running = np.cumsum(safe, axis=2) / np.arange(1, steps + 1)
    found = {
        "frame": spearman(score[there], error[there], weights[:, rows[there]]),
        "running": spearman(running[there], error[there], weights[:, rows[there]]),
    }
    late = there[..., window - 1 :]
    if late.any():
        kept = weights[:, rows[..., window - 1 :][late]]
        found["window"] = spearman(
            _moving_mean(safe, window)[late], _moving_mean(error, window)[late], kept
        )
    each = []
    for step in range(steps):
        if valid[:, step].sum() >= FEWEST:
            at = there[..., step]
            pairs = score[..., step][at], error[..., step][at]
            each.append(spearman(*pairs, weights[:, rows[..., step][at]]))
    if each:
        # a resample may hold one clip of a late step, which has no correlation
        found["within step"] = masked_mean(np.stack(each), np.isfinite(each))
    return {name: interval(values).to_dict() for name, values in found.items()}


def _moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Over `window` steps of (S, B, T): (S, B, T - window + 1)."""
    views = np.lib.stride_tricks.sliding_window_view(values, window, axis=2)
    return np.asarray(views.mean(axis=-1))
