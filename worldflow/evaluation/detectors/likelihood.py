"""Strangeness by the world's own exact likelihood."""

from __future__ import annotations

import numpy as np

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.detectors.detector import Detector
from worldflow.evaluation.simulate import scores
from worldflow.world_model import WorldModel
from worldflow.world_state import Scores


class WorldScores:
    """What a world says of videos. The last one is kept, as several detectors ask for the same.

    Args:
        world: in eval mode.
        batch: clips scored at once.
        seed: of the noise on the latents.
    """

    def __init__(self, world: WorldModel, batch: int, seed: int) -> None:
        self.world, self._batch, self._seed = world, batch, seed
        self._last: tuple[np.ndarray, np.ndarray, Scores] | None = None

    def of(self, frames: np.ndarray, actions: np.ndarray) -> Scores:
        """Fields (B, T) of frames (B, T, H, W, 3) uint8 under actions (B, T, ...)."""
        last = self._last
        if last is None or last[0] is not frames or last[1] is not actions:
            clips = RealClips(frames, actions, np.ones(frames.shape[:2], np.bool_))
            found = scores(self.world, clips, actions, self._batch, self._seed)
            last = self._last = frames, actions, found
        return last[2]


class Novelty(Detector):
    """The world's calibrated, two-sided score of a frame given its past and actions."""

    name = "novelty"

    def __init__(self, scored: WorldScores) -> None:
        self._scored = scored

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """See `Detector`."""
        return self._scored.of(frames, actions).novelty.numpy()


class WindowNovelty(Detector):
    """The same of the last `window` frames together, which the world is calibrated for."""

    name = "window novelty"

    def __init__(self, scored: WorldScores, window: int) -> None:
        self._scored, self._window = scored, window
        self._measure = scored.world.calibration.require("seen")

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """See `Detector`; of the frames up to each, `window` of them or as many as there are."""
        statistics = self._scored.of(frames, actions).statistics
        return self._measure.over(statistics, self._window).numpy()

    def of_window(self, scores: np.ndarray) -> np.ndarray:
        """See `Detector`: that of the window's last frame has all of them in it."""
        return np.asarray(scores[:, -1])


class NegativeLogLikelihood(Detector):
    """-log p, one-sided: what seems natural, and finds simple images the less strange."""

    name = "NLL"

    def __init__(self, scored: WorldScores) -> None:
        self._scored = scored

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """See `Detector`."""
        return -self._scored.of(frames, actions).log_likelihood.numpy()
