"""Whether a posterior is as sure as it is right, and one number that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

MAX_TEMPER = 10.0
PASSES, PIECES = 6, 16  # 10 / 16^6: to less than a millionth

# The log posterior of transitions (M, n), finite, and their true actions (M,) int.
Judged = tuple[np.ndarray, np.ndarray]


def tempered(log_posterior: np.ndarray, log_prior: np.ndarray, temper: float) -> np.ndarray:
    """The log posterior (..., n) whose log-likelihood differences are multiplied by `temper`.

    Proportional to p(a) (p(a | x) / p(a))^temper: 1 leaves it as it is, 0 gives the prior. What the
    frames say of an action is scaled as a whole, delayed effects and means over noise included;
    the histories of the beam are weighed as they were.

    Args:
        log_posterior: (..., n), finite.
        log_prior: (n,).
        temper: not negative.
    """
    scores = log_prior + temper * (log_posterior - log_prior)
    return scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)


def fit_temper(parts: Callable[[], Iterable[Judged]], log_prior: np.ndarray) -> float:
    """The temper of the greatest likelihood of true actions, between 0 and `MAX_TEMPER`.

    That likelihood's log is concave in the temper, so its slope changes its sign once: `PASSES`
    times over all transitions, the interval in which it does is narrowed to one of `PIECES`.

    Args:
        parts: gives the transitions again at each call, some at a time, so that they need not be
            in memory.
        log_prior: (n,).
    """
    low, high = 0.0, MAX_TEMPER
    for _ in range(PASSES):
        tempers = np.linspace(low, high, PIECES + 1)
        slopes = np.zeros(PIECES - 1)
        for log_posterior, truth in parts():
            ratio = log_posterior - log_prior
            observed = np.take_along_axis(ratio, truth[:, None], axis=1).sum()
            for k, temper in enumerate(tempers[1:-1]):
                posterior = np.exp(tempered(log_posterior, log_prior, temper))
                slopes[k] += observed - (posterior * ratio).sum()
        rising = int((slopes > 0).sum())
        low, high = tempers[rising], tempers[rising + 1]
    return float(0.5 * (low + high))


class Reliability:
    """How often the likeliest action is right, by how likely it is; counted part by part.

    Args:
        choices: n.
        bins: equal parts of the range from 1/n, the least that the likeliest can have, to 1.
    """

    def __init__(self, choices: int, bins: int = 10) -> None:
        self._edges = np.linspace(1.0 / choices, 1.0, bins + 1)
        self._sums = np.zeros((3, bins))  # transitions, their confidence, and right ones

    def add(self, posterior: np.ndarray, truth: np.ndarray) -> None:
        """Count transitions: (M, n) and (M,) int."""
        confidence, right = posterior.max(axis=1), posterior.argmax(axis=1) == truth
        bins = self._sums.shape[1]
        place = np.clip(np.searchsorted(self._edges, confidence, side="right") - 1, 0, bins - 1)
        for row, values in zip(self._sums, (np.ones(len(truth)), confidence, right), strict=True):
            row += np.bincount(place, values, minlength=bins)

    def rows(self) -> list[dict[str, Any]]:
        """Of each bin: its ends, how many transitions, and their mean confidence and accuracy.

        The latter are None where there are none.
        """
        ends = zip(self._edges[:-1].tolist(), self._edges[1:].tolist(), strict=True)
        return [
            {
                "low": low,
                "high": high,
                "count": int(count),
                "confidence": confidence / count if count else None,
                "accuracy": right / count if count else None,
            }
            for (low, high), (count, confidence, right) in zip(
                ends, self._sums.T.tolist(), strict=True
            )
        ]


def calibration_error(rows: list[dict[str, Any]]) -> float:
    """Expected calibration error of the rows of `Reliability`: mean |accuracy - confidence|."""
    filled = [row for row in rows if row["count"]]
    gaps = [row["count"] * abs(row["accuracy"] - row["confidence"]) for row in filled]
    return float(sum(gaps) / sum(row["count"] for row in filled))


def summed_nll(log_posterior: np.ndarray, truth: np.ndarray) -> float:
    """Sum of -log p(true action) in nats: (M, n) and (M,)."""
    return float(-np.take_along_axis(log_posterior, truth[:, None], axis=1).sum())
