"""The second stage: flow, denoiser and heads on the frozen codec's latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler
from worldflow.errors import ConfigError
from worldflow.training.batches import Episodes
from worldflow.training.engine import Engine
from worldflow.training.flow_gradients import (
    Counts,
    FlowGradients,
    Piece,
    clip_noise,
    some_text,
)
from worldflow.training.flow_validation import FlowValidation
from worldflow.training.logger import RunLogger
from worldflow.training.loop import STREAMS, StageConfig, row_generators
from worldflow.training.order import EpochOrder
from worldflow.training.parts import PARTS
from worldflow.training.prefetch import Prefetch
from worldflow.world_model import WorldModel


def check_shares(where: str, action_dropout: float, text_dropout: float) -> None:
    """Raises ConfigError unless both are shares."""
    for name, share in (("action_dropout", action_dropout), ("text_dropout", text_dropout)):
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"{where}.{name} is {share}; it is a share, 0 to 1")


@dataclass
class FlowTraining(StageConfig):
    """Training of flow, denoiser and heads.

    Attributes:
        clip: frames of a training clip.
        head_weight: of the heads' losses beside the denoiser's.
        action_dropout: share of the clips whose actions are hidden, so that the world also learns
            to go on where they are not known.
        text_dropout: share of the clips whose caption is hidden, likewise, independently of the
            actions: guidance needs it.
        part: "all", or a part of a world that was given with `from=`, whose past stays as it is,
            see `worldflow.training.frozen_past`: "within", the maps within a frame, "denoiser", the
            denoiser and the heads, "heads", these alone, or "end", the head of the end alone where
            it reads the episode, which needs no past.
        rare: of such a part: share of what an update sees that is drawn from the least likely
            frames, at the start; it falls to none.
        accumulate: pieces in which each rank computes its part of a batch, one after the other:
            with more of them a larger batch fits into memory.
    """

    steps: int = 4000
    batch: int = 8
    learning_rate: float = 1e-3
    clip: int = 8
    head_weight: float = 0.3
    action_dropout: float = 0.1
    text_dropout: float = 0.1
    part: str = "all"
    rare: float = 0.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip < 1 or self.accumulate < 1:
            raise ConfigError(
                f"training.flow.clip={self.clip} and training.flow.accumulate={self.accumulate} "
                "must be positive"
            )
        check_shares("training.flow", self.action_dropout, self.text_dropout)
        if self.part not in PARTS:
            raise ConfigError(f"training.flow.part is {self.part!r}; use one of {', '.join(PARTS)}")
        if not 0.0 <= self.rare <= 1.0 or (self.rare and self.part == "all"):
            raise ConfigError(
                f"training.flow.rare is {self.rare}; it is a share, 0 to 1, and 0 with "
                "training.flow.part=all"
            )

    @property
    def frames(self) -> int:
        """Of an update."""
        return self.batch * self.clip


@dataclass
class Work:
    """What a rank computes in an update.

    Attributes:
        pieces: this rank's clips.
        counts: of the whole batch.
    """

    pieces: list[Piece]
    counts: Counts


class FlowStage:
    """Trains everything but the codec.

    Args:
        world: its codec is frozen.
        config: how.
        episodes: encoded by the codec.
        dataset: where they come from.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        seed: of all random choices.
        engine: computes the updates.

    Attributes:
        measured: what is measured and saved, see `Engine.measured`.

    Raises:
        ConfigError: the batch does not divide by the engine's ranks.
    """

    name = "flow"

    def __init__(
        self,
        world: WorldModel,
        config: FlowTraining,
        episodes: Episodes,
        dataset: EpisodeDataset,
        train: np.ndarray,
        held_out: np.ndarray,
        seed: int,
        engine: Engine | None = None,
    ) -> None:
        self.world, self.config, self.episodes, self.seed = world, config, episodes, seed
        self.dataset, self.engine = dataset, engine or Engine()
        self.train = ClipSampler(dataset.lengths, train, config.clip, over_end=True)
        self.held_out = ClipSampler(dataset.lengths, held_out, config.clip, over_end=True)
        self._validation = FlowValidation(episodes, dataset, self.held_out, seed)
        self._order = EpochOrder(len(self.train), config.batch, (seed, STREAMS[self.name]))
        self._rows = self.engine.ranks.rows(config.batch, config.accumulate, "training.flow.batch")
        self.measured = self.engine.measured(world)
        self._gradients = FlowGradients(world, self.engine, config.head_weight)
        self._work = Prefetch.beside(self.engine.ranks.device, self._prepare)

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        return self._gradients.modules()

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of all that the stage trains, see `FlowGradients`.

        Returns:
            the losses; on several ranks each has its own share of them.
        """
        work = self._work.batch(step)
        figures: dict[str, Tensor] = {}
        for index, piece in enumerate(work.pieces):
            last = index + 1 == len(work.pieces)
            with self.engine.reduction(self._gradients.losses, last):
                shares, _ = self._gradients.backward(piece, work.counts)
            figures = {n: share + figures.get(n, 0.0) for n, share in shares.items()}
        return figures

    def validate(self, step: int, logger: RunLogger) -> None:
        """Measure on held-out clips, see `FlowValidation`."""
        self._validation.measure(self.measured, step, logger)

    def _prepare(self, step: int) -> Work:
        clip, shape = self.config.clip, (self.world.tokens, self.world.channels)
        picks = self.train.picks(self._order.positions(step))
        pieces = []
        for rows in self._rows:
            batch = self.episodes.batch([picks[row] for row in rows], clip)
            generators = row_generators(self.seed, self.name, step, rows)
            dropout = self.config.action_dropout
            noise, batch.known = clip_noise(generators, (clip, *shape), batch.known, dropout)
            batch.text = some_text(generators, batch.text, self.config.text_dropout)
            pieces.append(Piece(batch, noise))
        return Work(pieces, Counts.of(picks, self.dataset.lengths, clip))
