"""Spearman's rank correlation under weights."""

from __future__ import annotations

import numpy as np

CHUNK = 50  # weightings at once


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rank correlation of x and y (n,) under each of R weightings (R, n): (R,).

    A weight is how often a pair counts; ties share their mean rank. NaN where x or y is constant.

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    if x.ndim != 1 or y.shape != x.shape or weights.shape[1:] != x.shape:
        raise ValueError(f"x {x.shape}, y {y.shape} and weights {weights.shape} do not fit")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("some values are NaN")
    pieces = [weights[start : start + CHUNK] for start in range(0, len(weights), CHUNK)]
    return np.concatenate([_pearson(_ranks(x, w), _ranks(y, w), w) for w in pieces])


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks (R, n), from half to the total weight."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.append(0, np.flatnonzero(ranked[1:] != ranked[:-1]) + 1)
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(ranked))))
    sums = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(sums, axis=1) - (sums - 1.0) / 2
    ranks = np.empty_like(weights, dtype=np.float64)
    ranks[:, order] = middle[:, group]
    return ranks


def _pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=1, keepdims=True)
    a = a - (weights * a).sum(axis=1, keepdims=True) / total
    b = b - (weights * b).sum(axis=1, keepdims=True) / total
    power = (weights * a**2).sum(axis=1) * (weights * b**2).sum(axis=1)
    covariance = (weights * a * b).sum(axis=1)
    return np.divide(
        covariance, np.sqrt(power), out=np.full(len(power), np.nan), where=power > 1e-9
    )
