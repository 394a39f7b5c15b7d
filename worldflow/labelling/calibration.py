"""Whether a posterior is as sure as it is right, and one number that mends it."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_TEMPER = 10.0


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


def fit_temper(log_posterior: np.ndarray, log_prior: np.ndarray, truth: np.ndarray) -> float:
    """The temper of the greatest likelihood of true actions, between 0 and `MAX_TEMPER`.

    That likelihood's log is concave in the temper, so the sign of its slope is enough to bisect.

    Args:
        log_posterior: (M, n), finite.
        log_prior: (n,).
        truth: (M,) int.
    """
    ratio = log_posterior - log_prior
    observed = np.take_along_axis(ratio, truth[:, None], axis=1).mean()
    low, high = 0.0, MAX_TEMPER
    for _ in range(50):
        middle = 0.5 * (low + high)
        posterior = np.exp(tempered(log_posterior, log_prior, middle))
        expected = (posterior * ratio).sum(1).mean()
        low, high = (middle, high) if observed > expected else (low, middle)
    return 0.5 * (low + high)


def reliability(posterior: np.ndarray, truth: np.ndarray, bins: int = 10) -> list[dict[str, Any]]:
    """How often the likeliest action is right, by how likely it is.

    Args:
        posterior: (M, n).
        truth: (M,) int.
        bins: equal parts of the range from 1/n, the least that the likeliest can have, to 1.

    Returns:
        of each bin: its ends, the number of transitions, and, unless there are none, their mean
        confidence and accuracy.
    """
    confidence, right = posterior.max(axis=1), posterior.argmax(axis=1) == truth
    edges = np.linspace(1.0 / posterior.shape[1], 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    rows = []
    for index in range(bins):
        here = place == index
        count = int(here.sum())
        rows.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "count": count,
                "confidence": float(confidence[here].mean()) if count else None,
                "accuracy": float(right[here].mean()) if count else None,
            }
        )
    return rows


def calibration_error(rows: list[dict[str, Any]]) -> float:
    """Expected calibration error of `reliability`'s rows: mean |accuracy - confidence|."""
    filled = [row for row in rows if row["count"]]
    gaps = [row["count"] * abs(row["accuracy"] - row["confidence"]) for row in filled]
    return float(sum(gaps) / sum(row["count"] for row in filled))


def mean_nll(log_posterior: np.ndarray, truth: np.ndarray) -> float:
    """Mean of -log p(true action) in nats: (M, n) and (M,)."""
    return float(-np.take_along_axis(log_posterior, truth[:, None], axis=1).mean())
