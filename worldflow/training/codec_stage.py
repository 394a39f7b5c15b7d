"""The first stage: the codec learns to reconstruct single frames from noisy latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from worldflow.codec import Codec, reconstruction_loss, saliency
from worldflow.data.episodes import EpisodeDataset
from worldflow.randomness import normal, uniform
from worldflow.training.codec_frames import (
    STATISTICS_FRAMES,
    FramePairs,
    fit_likelihood,
    measure_codec,
    set_scale,
)
from worldflow.training.engine import Engine
from worldflow.training.logger import RunLogger
from worldflow.training.loop import STREAMS, StageConfig, row_generators, step_generators
from worldflow.training.order import EpochOrder
from worldflow.training.prefetch import Prefetch
from worldflow.world_model import WorldModel


@dataclass
class CodecTraining(StageConfig):
    """Training of the codec.

    Attributes:
        saliency_weight: how much more a pixel counts that differs from the background or from the
            frame before. Without it small things that matter vanish.
    """

    steps: int = 1000
    batch: int = 32
    learning_rate: float = 2e-3
    saliency_weight: float = 30.0


class CodecLoss(nn.Module):
    """The weighted error of frames that the codec decodes from noisy latents."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, pixels: Tensor, weight: Tensor, noise: Tensor) -> Tensor:
        """See `reconstruction_loss`.

        Args:
            pixels: (B, 3, H, W).
            weight: (B, 1, H, W).
            noise: (B, N, C), added to the latents.
        """
        latents = self.codec.encode(pixels) + noise
        return reconstruction_loss(self.codec.decode(latents).float(), pixels, weight)


class CodecStage:
    """Trains `world.codec` on pairs of consecutive frames.

    Args:
        world: whose codec is trained.
        config: how.
        dataset: where the frames are.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        seed: of all random choices.
        engine: computes the updates. The codec is small: it is never sharded.

    Attributes:
        measured: what is measured, see `Engine.measured`.

    Raises:
        ConfigError: the batch does not divide by the engine's ranks.
    """

    name = "codec"

    def __init__(
        self,
        world: WorldModel,
        config: CodecTraining,
        dataset: EpisodeDataset,
        train: np.ndarray,
        held_out: np.ndarray,
        seed: int,
        engine: Engine | None = None,
    ) -> None:
        self.world, self.config, self.seed = world, config, seed
        self.engine = engine or Engine()
        self.train = FramePairs(dataset, train, seed)
        self.held_out = FramePairs(dataset, held_out, seed)
        self._order = EpochOrder(len(self.train.clips), config.batch, (seed, STREAMS[self.name]))
        # the latents' scale is that of a whole batch, so that there are no pieces
        [self._rows] = self.engine.ranks.rows(config.batch, 1, "training.codec.batch")
        self.measured = self.engine.measured(world)
        self._loss = self.engine.replicated(CodecLoss(world.codec))
        self._batches = Prefetch.beside(self.engine.ranks.device, self._prepare)
        frames = self.train.sample(STATISTICS_FRAMES)[1]
        self.background = frames.mean(0, keepdim=True).to(self.engine.ranks.device)

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        return [self.world.codec]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the weighted reconstruction error at a noise between none and sigma.

        Returns:
            the loss; on several ranks each has its own share of it.
        """
        ranks, codec = self.engine.ranks, self.world.codec
        codec.train()
        codec.scale.over_ranks = ranks.size > 1
        previous, pixels, noise = (part.to(ranks.device) for part in self._batches.batch(step))
        weight = 1.0 + self.config.saliency_weight * saliency(pixels, previous, self.background)
        with self.engine.autocast():
            loss = self._loss(pixels, weight, noise)
        # of the mean weight of this rank to that of all, which is what the loss is relative to
        relative = weight.mean() / ranks.sum(weight.mean())
        (ranks.size * relative * loss).backward()
        return {"loss": (relative * loss).detach()}

    def validate(self, step: int, logger: RunLogger) -> None:
        """PSNR of held-out frames, see `measure_codec`."""
        measure_codec(self.measured.codec, self.held_out, self.background, step, logger)

    def freeze(self) -> None:
        """Set the latents' scale to that of the final encoder, and end the codec's training.

        Each rank does it by itself, on the same frames.
        """
        codec = self.world.codec
        set_scale(codec, self.train.sample(STATISTICS_FRAMES, self.config.steps)[1])
        codec.eval().requires_grad_(False)
        fit_likelihood(self.world, self.train, self.seed)

    def _prepare(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This rank's frames of an update, (previous, current), and the noise on their latents."""
        rng, _ = step_generators(self.seed, self.name, step)
        picks = self.train.clips.picks(self._order.positions(step))
        flips = rng.random(len(picks)) < 0.5
        previous, pixels = self.train.read([picks[row] for row in self._rows], flips[self._rows])
        generators = row_generators(self.seed, self.name, step, self._rows)
        # the decoder shows denoised latents, whose remaining error lies between 0 and sigma
        level = uniform(generators, len(pixels), like=pixels).sqrt()[:, None, None]
        shape = (self.world.tokens, self.world.channels)
        noise = normal(generators, len(pixels), shape, like=pixels)
        return previous, pixels, self.world.config.sigma * level * noise
