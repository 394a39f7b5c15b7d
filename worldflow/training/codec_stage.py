"""The first stage: the codec learns to reconstruct single frames from noisy latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.codec import reconstruction_loss, saliency
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.frames import to_float
from worldflow.data.windows import ClipSampler
from worldflow.evaluation.metrics import psnr
from worldflow.training.logger import RunLogger
from worldflow.training.loop import StageConfig, step_generators
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


class CodecStage:
    """Trains `world.codec` on pairs of consecutive frames.

    Args:
        world: whose codec is trained.
        config: how.
        dataset: where the frames are.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        seed: of all random choices.
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
    ) -> None:
        self.world, self.config, self.dataset, self.seed = world, config, dataset, seed
        self.train = ClipSampler(dataset.lengths, train, clip=2)
        self.held_out = ClipSampler(dataset.lengths, held_out, clip=2)
        self._batches = Prefetch(lambda step: self._frames(self.train, config.batch, step))
        self.background = self._frames(self.train, STATISTICS_FRAMES, 0)[1].mean(0, keepdim=True)

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        return [self.world.codec]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the weighted reconstruction error at a noise between none and sigma."""
        self.world.codec.train()
        previous, pixels = self._batches.batch(step)
        _, generator = step_generators(self.seed, self.name, step)
        latents = self.world.codec.encode(pixels)
        # the decoder shows denoised latents, whose remaining error lies between 0 and sigma
        level = self.world.config.sigma * torch.rand(len(pixels), 1, 1, generator=generator).sqrt()
        noise = torch.randn(latents.shape, generator=generator)
        decoded = self.world.codec.decode(latents + level * noise)
        weight = 1.0 + self.config.saliency_weight * saliency(pixels, previous, self.background)
        loss = reconstruction_loss(decoded, pixels, weight)
        loss.backward()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def validate(self, step: int, logger: RunLogger) -> None:
        """PSNR of held-out frames through codec and back, over all and over salient pixels."""
        codec = self.world.codec.eval()
        previous, pixels = self._frames(self.held_out, 64, 0)
        decoded = codec.decode(codec.encode(pixels)).clamp(-1.0, 1.0)
        salient = saliency(pixels, previous, self.background).expand_as(pixels) > 0.2
        error = (decoded - pixels).square() / 4.0  # of a range of 1
        figures = {"held_out_psnr": psnr(error.mean().item())}
        if salient.any():
            figures["held_out_psnr_salient"] = psnr(error[salient].mean().item())
        logger.scalars(step, figures)
        rows = [torch.cat(list(row[:PICTURE_FRAMES]), dim=2) for row in (pixels, decoded)]
        picture = torch.cat(rows, dim=1).add(1.0).mul(127.5).round().clamp(0, 255)
        logger.picture(step, "real_above_codec", picture.byte().movedim(0, -1).numpy())

    @torch.no_grad()
    def freeze(self) -> None:
        """Set the latents' scale to that of the final encoder, and end the codec's training."""
        codec = self.world.codec
        codec.scale.reset_running_stats()
        codec.scale.momentum = None  # a plain average over the batches that follow
        codec.train()
        for chunk in self._frames(self.train, STATISTICS_FRAMES, self.config.steps)[1].split(256):
            codec.encode(chunk)
        codec.eval().requires_grad_(False)

    def _frames(self, sampler: ClipSampler, count: int, step: int) -> tuple[Tensor, Tensor]:
        """(previous, current) pixels (count, 3, H, W); an episode of one frame is its own past."""
        rng, _ = step_generators(self.seed, self.name, step)
        pairs = [
            self.dataset.read(episode, start, start + 2).frames
            for episode, start in sampler.sample(count, rng)
        ]
        # read pairs in both orders, so that the first frame of an episode is learned as well
        flips = rng.random(count) < 0.5
        first = np.stack([p[-1] if flip else p[0] for p, flip in zip(pairs, flips, strict=True)])
        second = np.stack([p[0] if flip else p[-1] for p, flip in zip(pairs, flips, strict=True)])
        return to_float(torch.from_numpy(first)), to_float(torch.from_numpy(second))
