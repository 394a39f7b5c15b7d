"""The first stage: the codec learns to reconstruct single frames from noisy latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.codec import Codec, reconstruction_loss, saliency
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.frames import to_float
from worldflow.data.windows import ClipSampler
from worldflow.evaluation.metrics import psnr
from worldflow.randomness import normal, uniform
from worldflow.training.engine import Engine
from worldflow.training.logger import RunLogger
from worldflow.training.loop import STREAMS, StageConfig, row_generators, step_generators
from worldflow.training.order import EpochOrder
from worldflow.training.prefetch import Prefetch
from worldflow.world_model import WorldModel

STATISTICS_FRAMES = 2048
PICTURE_FRAMES = 8


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
        self.world, self.config, self.dataset, self.seed = world, config, dataset, seed
        self.engine = engine or Engine()
        self.train = ClipSampler(dataset.lengths, train, clip=2)
        self.held_out = ClipSampler(dataset.lengths, held_out, clip=2)
        self._order = EpochOrder(len(self.train), config.batch, (seed, STREAMS[self.name]))
        # the latents' scale is that of a whole batch, so that there are no pieces
        [self._rows] = self.engine.ranks.rows(config.batch, 1, "training.codec.batch")
        self.measured = self.engine.measured(world)
        self._loss = self.engine.replicated(CodecLoss(world.codec))
        self._batches = Prefetch(self._prepare)
        frames = self._sample(self.train, STATISTICS_FRAMES, 0)[1]
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

    @torch.no_grad()
    def validate(self, step: int, logger: RunLogger) -> None:
        """PSNR of held-out frames through codec and back, over all and over salient pixels."""
        codec = self.measured.codec.eval()
        frames = self._sample(self.held_out, 64, 0)
        previous, pixels = (part.to(self.engine.ranks.device) for part in frames)
        decoded = codec.decode(codec.encode(pixels)).clamp(-1.0, 1.0)
        salient = saliency(pixels, previous, self.background).expand_as(pixels) > 0.2
        error = (decoded - pixels).square() / 4.0  # of a range of 1
        figures = {"held_out_psnr": psnr(error.mean().item())}
        if salient.any():
            figures["held_out_psnr_salient"] = psnr(error[salient].mean().item())
        logger.scalars(step, figures)
        rows = [torch.cat(list(row[:PICTURE_FRAMES]), dim=2) for row in (pixels, decoded)]
        picture = torch.cat(rows, dim=1).add(1.0).mul(127.5).round().clamp(0, 255)
        logger.picture(step, "real_above_codec", picture.byte().movedim(0, -1).cpu().numpy())

    @torch.no_grad()
    def freeze(self) -> None:
        """Set the latents' scale to that of the final encoder, and end the codec's training.

        Each rank does it by itself, on the same frames.
        """
        codec = self.world.codec
        codec.scale.reset_running_stats()
        codec.scale.momentum = None  # a plain average over the batches that follow
        codec.scale.over_ranks = False
        codec.train()
        frames = self._sample(self.train, STATISTICS_FRAMES, self.config.steps)[1]
        for chunk in frames.split(256):
            codec.encode(chunk.to(self.engine.ranks.device))
        codec.eval().requires_grad_(False)

    def _prepare(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This rank's frames of an update, (previous, current), and the noise on their latents."""
        rng, _ = step_generators(self.seed, self.name, step)
        picks = self.train.picks(self._order.positions(step))
        flips = rng.random(len(picks)) < 0.5
        previous, pixels = self._read([picks[row] for row in self._rows], flips[self._rows])
        generators = row_generators(self.seed, self.name, step, self._rows)
        # the decoder shows denoised latents, whose remaining error lies between 0 and sigma
        level = uniform(generators, len(pixels), like=pixels).sqrt()[:, None, None]
        shape = (self.world.tokens, self.world.channels)
        noise = normal(generators, len(pixels), shape, like=pixels)
        return previous, pixels, self.world.config.sigma * level * noise

    def _sample(self, sampler: ClipSampler, count: int, step: int) -> tuple[Tensor, Tensor]:
        """Frames drawn with replacement, (previous, current)."""
        rng, _ = step_generators(self.seed, self.name, step)
        picks = sampler.sample(count, rng)
        return self._read(picks, rng.random(count) < 0.5)

    def _read(self, picks: list[tuple[int, int]], flips: np.ndarray) -> tuple[Tensor, Tensor]:
        """(previous, current) pixels (B, 3, H, W); an episode of one frame is its own past."""
        pairs = [self.dataset.read(i, start, start + 2).frames for i, start in picks]
        # read pairs in both orders, so that the first frame of an episode is learned as well
        first = np.stack([p[-1] if flip else p[0] for p, flip in zip(pairs, flips, strict=True)])
        second = np.stack([p[0] if flip else p[-1] for p, flip in zip(pairs, flips, strict=True)])
        return to_float(torch.from_numpy(first)), to_float(torch.from_numpy(second))
