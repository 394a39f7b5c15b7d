"""Figures of merit: peak signal-to-noise ratio, and intervals for means over episodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

PEAK = 255.0
# PSNR of equal images would be infinite, and means over it meaningless.
PSNR_LIMIT = 100.0
AT_ONCE = 2**20  # values drawn at a time by the bootstrap


@dataclass(frozen=True)
class Estimate:
    """A mean over independent episodes or clips, with its interval.

    Attributes:
        mean: of the values.
        std: sample standard deviation of the values; 0 for one value.
        low: lower end of the 95% bootstrap interval of the mean.
        high: upper end.
        count: number of values.
    """

    mean: float
    std: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, float]:
        """A JSON-able form."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.count})"


def squared_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared error of uint8 images (..., H, W, 3), in squared grey levels: (...,).

    Raises:
        ValueError: wrong dtypes, or shapes that do not broadcast.
    """
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {a.dtype} and {b.dtype}")
    difference = a.astype(np.float32) - b.astype(np.float32)
    return np.square(difference).mean(axis=(-3, -2, -1), dtype=np.float64)


def psnr(error: float, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB of one mean squared error, at most `PSNR_LIMIT`."""
    return float(decibels(np.array(error), peak))


def decibels(error: np.ndarray, peak: float = PEAK) -> np.ndarray:
    """As `psnr`, of an array of mean squared errors; NaN stays NaN."""
    smallest = peak**2 / 10 ** (PSNR_LIMIT / 10)
    return 10 * np.log10(peak**2 / np.maximum(error, smallest))


def masked_mean(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean over the first axis of `values` (B, T) where `valid` (B, T); NaN where nothing is."""
    count = valid.sum(axis=0)
    total = np.where(valid, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def psnr_over_time(error: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """PSNR (T,) of the mean over clips of squared errors (B, T) where `valid` (B, T).

    The errors are averaged, not the decibels: one exact image would otherwise outweigh all others.
    """
    return decibels(masked_mean(error, valid))


def bootstrap(
    values: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of independent values (n,) with its percentile bootstrap interval.

    Raises:
        ValueError: no values, values that are not finite, or a confidence outside (0, 1).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"needs finite values of shape (n,), got shape {values.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    generator, means = np.random.default_rng(seed), np.empty(resamples)
    rows = max(AT_ONCE // len(values), 1)
    for start in range(0, resamples, rows):
        some = means[start : start + rows]
        some[:] = values[generator.integers(len(values), size=(len(some), len(values)))].mean(
            axis=1
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), std, float(low), float(high), len(values))
