"""Bootstrap over episodes of figures that are no means: every resample is a weight an episode.

Frames of one episode resemble each other, so episodes are drawn, not frames. Drawing an episode
twice is the same as counting it twice; so a figure that takes weights is computed for all resamples
at once, and figures of the same episodes under the same seed have the same resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 95% bootstrap interval over episodes."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """A JSON-able form; None where the figure is not defined."""
        return {k: v if math.isfinite(v) else None for k, v in vars(self).items()}


def episode_weights(episodes: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of E episodes counts: (1 + resamples, E), the first row all ones.

    Raises:
        ValueError: no episodes, or a negative number of resamples.
    """
    if episodes < 1 or resamples < 0:
        raise ValueError(f"cannot draw {resamples} resamples of {episodes} episodes")
    drawn = np.random.default_rng(seed).multinomial(
        episodes, np.full(episodes, 1.0 / episodes), size=resamples
    )
    return np.concatenate([np.ones((1, episodes)), drawn])


def interval(replicates: np.ndarray) -> Interval:
    """Of a figure (1 + resamples,) under `episode_weights`; resamples without a value are left out.

    Raises:
        ValueError: another shape.
    """
    if replicates.ndim != 1 or len(replicates) == 0:
        raise ValueError(f"needs replicates of shape (1 + resamples,), got {replicates.shape}")
    drawn = replicates[1:][np.isfinite(replicates[1:])]
    if len(drawn) == 0:
        return Interval(float(replicates[0]), math.nan, math.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(replicates[0]), float(low), float(high))
