"""The second stage: flow, denoiser and heads on the frozen codec's latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler
from worldflow.errors import ConfigError
from worldflow.randomness import normal, uniform
from worldflow.training.batches import Batch, Episodes
from worldflow.training.engine import Engine
from worldflow.training.flow_validation import FlowValidation
from worldflow.training.logger import RunLogger
from worldflow.training.loop import STREAMS, StageConfig, row_generators
from worldflow.training.losses import DenoiserLoss, FlowLoss, on_device
from worldflow.training.order import EpochOrder
from worldflow.training.prefetch import Prefetch
from worldflow.world_model import WorldModel

# What the score estimates is a standard normal number (the noise on a latent over sigma). Values
# beyond this are errors of a half-trained flow, rare but large enough to drown all others.
SCORE_LIMIT = 4.0


@dataclass
class FlowTraining(StageConfig):
    """Training of flow, denoiser and heads.

    Attributes:
        clip: frames of a training clip.
        head_weight: of the heads' losses beside the denoiser's.
        action_dropout: share of the clips whose actions are hidden, so that the world also learns
            to go on where they are not known.
        accumulate: pieces in which each rank computes its part of a batch, one after the other:
            with more of them a larger batch fits into memory.
    """

    steps: int = 4000
    batch: int = 8
    learning_rate: float = 1e-3
    clip: int = 8
    head_weight: float = 0.3
    action_dropout: float = 0.1
    accumulate: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip < 1 or self.accumulate < 1:
            raise ConfigError(
                f"training.flow.clip={self.clip} and training.flow.accumulate={self.accumulate} "
                "must be positive"
            )
        if not 0.0 <= self.action_dropout <= 1.0:
            raise ConfigError(
                f"training.flow.action_dropout is {self.action_dropout}; it is a share, 0 to 1"
            )

    @property
    def frames(self) -> int:
        """Of an update."""
        return self.batch * self.clip


@dataclass
class Piece:
    """Clips that are computed at once, and the noise on their latents (B, T, N, C)."""

    batch: Batch
    noise: Tensor


@dataclass
class Work:
    """What a rank computes in an update.

    Attributes:
        pieces: this rank's clips.
        frames: valid frames of the whole batch, on all ranks.
        later: those of them that have a past in their clip; at least 1.
    """

    pieces: list[Piece]
    frames: int
    later: int


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
        self.engine.prepare(self.modules())
        self._flow_loss = self.engine.replicated(FlowLoss(world))
        self._denoiser_loss = self.engine.replicated(DenoiserLoss(world))
        self._work = Prefetch(self._prepare)

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        world = self.world
        heads = [h for h in (world.reward_head, world.termination_head) if h is not None]
        return [world.conditioning, world.flow, world.denoiser, *heads]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the flow's NLL, of the denoiser's error and of the heads' losses.

        One backward pass of the NLL gives both the flow's gradients and, at its input, the score
        that the denoiser learns: the target costs nothing extra.

        Returns:
            the losses; on several ranks each has its own share of them.
        """
        work = self._work.batch(step)
        figures: dict[str, Tensor] = {}
        for index, piece in enumerate(work.pieces):
            last = index + 1 == len(work.pieces)
            with self.engine.reduction((self._flow_loss, self._denoiser_loss), last):
                shares = self._backward(piece, work)
            figures = {n: share + figures.get(n, 0.0) for n, share in shares.items()}
        return figures

    def validate(self, step: int, logger: RunLogger) -> None:
        """Measure on held-out clips, see `FlowValidation`."""
        self._validation.measure(self.measured, step, logger)

    def _prepare(self, step: int) -> Work:
        clip, shape = self.config.clip, (self.world.tokens, self.world.channels)
        picks = self.train.picks(self._order.positions(step))
        counts = [min(clip, int(self.dataset.lengths[i]) - start) for i, start in picks]
        pieces = []
        for rows in self._rows:
            batch = self.episodes.batch([picks[row] for row in rows], clip)
            # each row has its own, so that its noise does not depend on the number of ranks
            generators = row_generators(self.seed, self.name, step, rows)
            noise = normal(generators, len(rows), (clip, *shape), like=batch.latents)
            hidden = uniform(generators, len(rows), like=noise) < self.config.action_dropout
            batch.known = batch.known & ~hidden[:, None]
            pieces.append(Piece(batch, noise))
        return Work(pieces, sum(counts), max(sum(counts) - len(counts), 1))

    def _backward(self, piece: Piece, work: Work) -> dict[str, Tensor]:
        """Add the gradients of one piece; returns its share of the losses."""
        ranks, sigma = self.engine.ranks, self.world.config.sigma
        batch = on_device(piece.batch, ranks.device)
        noisy = (batch.latents + sigma * piece.noise.to(ranks.device)).requires_grad_()
        latents = work.frames * self.world.dimensions
        with self.engine.autocast():
            nll = self._flow_loss(noisy, batch) / latents
        # the engine averages gradients over ranks; what is wanted is their sum
        (ranks.size * nll).backward()
        assert noisy.grad is not None
        score = (sigma * latents / ranks.size * noisy.grad).clamp(-SCORE_LIMIT, SCORE_LIMIT)
        with self.engine.autocast():
            sums = self._denoiser_loss(noisy.detach(), score, batch)
        losses = {n: s / (work.frames if n == "denoiser" else work.later) for n, s in sums.items()}
        weight = {name: 1.0 if name == "denoiser" else self.config.head_weight for name in losses}
        total = sum(weight[name] * loss for name, loss in losses.items())
        (ranks.size * total).backward()
        return {"nll": nll.detach(), **{name: loss.detach() for name, loss in losses.items()}}
