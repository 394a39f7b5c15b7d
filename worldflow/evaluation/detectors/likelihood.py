"""Strangeness by the world's own exact likelihood."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.simulate import scores
from worldflow.world_model import WorldModel
from worldflow.world_state import Scores


def strangeness(scored: Scores) -> Tensor:
    """The world's score of strangeness, (B, T): the one that agents are given."""
    return scored.novelty


class Novelty:
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
        return strangeness(_scores(self._world, frames, actions, self._batch, self._seed)).numpy()


class NegativeLogLikelihood:
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
