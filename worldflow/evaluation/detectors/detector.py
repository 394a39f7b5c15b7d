"""What a detector of strangeness is."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Detector(Protocol):
    """Gives every frame of a video a number that is larger the stranger the frame is.

    Detectors are subclasses.

    Attributes:
        name: short, for tables and charts.
    """

    name: str

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Scores (B, T); NaN where a frame has too short a past in its clip.

        Args:
            frames: (B, T, H, W, 3) uint8.
            actions: (B, T, ...); `actions[:, t]` led to `frames[:, t]`.
        """
        ...

    def of_window(self, scores: np.ndarray) -> np.ndarray:
        """The score (B,) of windows of which all frames have scores (B, k): their mean."""
        return np.asarray(scores.mean(axis=1))
