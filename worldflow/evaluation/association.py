"""How two lists of numbers go together, and intervals for what is more than a mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000
TAIL = 0.025  # of a 95% interval


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 1 .. n of values (n,), the smallest first; equal values share their mean rank."""
    values = np.asarray(values, dtype=np.float64)
    smaller = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return smaller + (equal + 1) / 2


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of values (n,) and (n,); NaN where either does not vary."""
    x, y = (np.asarray(v, dtype=np.float64) - np.mean(v) for v in (a, b))
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else float("nan")


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of values (n,) and (n,), ties included; see `pearson`."""
    return pearson(ranks(a), ranks(b))


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> dict[str, float] | None:
    """Sum of `numerators` (n,) over sum of `denominators` (n,), with its interval over the rows.

    Returns:
        None where the denominators sum to 0.
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)

    def statistic(rows: np.ndarray) -> float:
        below = bottom[rows].sum()
        return float(top[rows].sum() / below) if below else float("nan")

    return interval(statistic, len(top))


def interval(
    statistic: Callable[[np.ndarray], float], count: int, seed: int = 0
) -> dict[str, float] | None:
    """A statistic of independent rows, with its 95% percentile bootstrap interval.

    Args:
        statistic: of row indices (count,), NaN where it is not defined; resamples in which it is
            not are left out.
        count: number of rows.
        seed: of the resampling.

    Returns:
        `mean` (the statistic of all rows), `low`, `high` and `count`; None where the statistic is
        not defined.
    """
    value = statistic(np.arange(count))
    if np.isnan(value):
        return None
    picks = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    resampled = np.array([statistic(rows) for rows in picks])
    low, high = np.nanquantile(resampled, [TAIL, 1 - TAIL])
    return {"mean": value, "low": float(low), "high": float(high), "count": count}


def estimate_text(estimate: dict[str, float] | None) -> str:
    """An estimate with its interval, for people."""
    if estimate is None:
        return "undefined"
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
