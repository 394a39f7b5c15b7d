"""Strangeness by the world's own exact likelihood."""

from __future__ import annotations

import numpy as np

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.detectors.detector import Detector
from worldflow.evaluation.simulate import scores
from worldflow.world_model import WorldModel
from worldflow.world_state import Scores


class Novelty(Detector):
    """The world's calibrated, two-sided score of a frame given its past and actions.

    Args:
        world: in eval mode.
        batch: clips scored at once.
        seed: of the noise on the latents.
    """

    name = "novelty"

    def __init__(self, world: WorldModel, batch: int, seed: int) -> None:
        self._world, self._batch, self._seed = world, batch, seed

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """See `Detector`."""
        scored = _scores(self._world, frames, actions, self._batch, self._seed)
        return scored.novelty.numpy()


class WindowNovelty(Detector):
    """The same of the last frames together, which the world is calibrated for.

    Args:
        world: in eval mode, calibrated for the window.
        window: frames.
        batch: clips scored at once.
        seed: of the noise on the latents.
    """

    name = "window novelty"

    def __init__(self, world: WorldModel, window: int, batch: int, seed: int) -> None:
        self._world, self._window, self._batch, self._seed = world, window, batch, seed
        self._measure = world.calibration.require("seen")

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """See `Detector`; of the frames up to each, `window` of them or as many as there are."""
        scored = _scores(self._world, frames, actions, self._batch, self._seed)
        return self._measure.over(scored.statistics, self._window).numpy()

    def of_window(self, scores: np.ndarray) -> np.ndarray:
        """See `Detector`: that of the window's last frame has all of them in it."""
        return np.asarray(scores[:, -1])


class NegativeLogLikelihood(Detector):
    """-log p, one-sided: what seems natural, and finds simple images the less strange.

    Args:
        world: in eval mode.
        batch: clips scored at once.
        seed: of the noise on the latents.
    """

    name = "NLL"

    def __init__(self, world: WorldModel, batch: int, seed: int) -> None:
        self._world, self._batch, self._seed = world, batch, seed

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """See `Detector`."""
        scored = _scores(self._world, frames, actions, self._batch, self._seed)
        return -scored.log_likelihood.numpy()


def _scores(
    world: WorldModel, frames: np.ndarray, actions: np.ndarray, batch: int, seed: int
) -> Scores:
    clips = RealClips(frames, actions, np.ones(frames.shape[:2], np.bool_))
    return scores(world, clips, actions, batch, seed)
