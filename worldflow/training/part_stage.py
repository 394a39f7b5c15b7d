"""What the stages share that train a part of the world alone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor, nn

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler
from worldflow.training.batches import Episodes
from worldflow.training.engine import Engine
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.logger import RunLogger
from worldflow.world_model import WorldModel


class PartStage(ABC):
    """Trains a part of the world; all else is as the run found it.

    Args:
        world: grown from an earlier one.
        config: how.
        episodes: encoded by the codec.
        dataset: where they come from.
        train: indices of the episodes to learn from.
        seed: of all random choices.
        engine: computes the updates.

    Attributes:
        measured: what is measured and saved, see `Engine.measured`.
        clips: of the training episodes.
    """

    name = "flow"

    def __init__(
        self,
        world: WorldModel,
        config: FlowTraining,
        episodes: Episodes,
        dataset: EpisodeDataset,
        train: np.ndarray,
        seed: int,
        engine: Engine,
    ) -> None:
        self.world, self.config, self.episodes = world, config, episodes
        self.seed, self.engine = seed, engine
        self.clips = ClipSampler(dataset.lengths, train, config.clip, over_end=True)
        self.measured = engine.measured(world)

    @abstractmethod
    def modules(self) -> list[nn.Module]:
        """What the stage trains."""

    @abstractmethod
    def update(self, step: int) -> dict[str, Tensor]:
        """See `Stage.update`."""

    @abstractmethod
    def validate(self, step: int, logger: RunLogger) -> None:
        """Measure on held-out clips."""

    def train_alone(self) -> None:
        """Give gradients to the part, and to nothing else; the last step of the constructor."""
        self.world.requires_grad_(False)
        for module in self.modules():
            module.requires_grad_(True)
        self.engine.prepare(self.modules())
