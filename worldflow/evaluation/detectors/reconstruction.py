"""Strangeness by the codec: what it never learned to show, it shows badly."""

from __future__ import annotations

import numpy as np
import torch

from worldflow.evaluation.detectors.detector import Detector
from worldflow.evaluation.simulate import chunks
from worldflow.metrics import squared_error
from worldflow.world_model import WorldModel


class ReconstructionError(Detector):
    """Mean squared error of a frame through the world's codec and back, in squared grey levels.

    Args:
        world: in eval mode.
        batch: clips at once.
    """

    name = "codec"

    def __init__(self, world: WorldModel, batch: int) -> None:
        self._world, self._batch = world, batch

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """See `Detector`; actions and past play no part."""
        pieces = [frames[piece] for piece in chunks(len(frames), self._batch)]
        shown = [self._world.reconstruct(torch.from_numpy(piece)).numpy() for piece in pieces]
        errors = [squared_error(*both) for both in zip(pieces, shown, strict=True)]
        return np.concatenate(errors)
