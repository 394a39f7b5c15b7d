"""Frames for the codec, what is measured on them, and what is set from them when it is done."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldflow.codec import Codec, saliency
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.frames import to_float, to_uint8
from worldflow.data.windows import ClipSampler
from worldflow.metrics import psnr
from worldflow.pixel_bits import fit_pixel_scale
from worldflow.training.logger import RunLogger
from worldflow.training.loop import step_generators
from worldflow.world_model import WorldModel

STATISTICS_FRAMES = 2048
FIT_FRAMES = 128
MEASURED_FRAMES = 64
PICTURE_FRAMES = 8


class FramePairs:
    """Pairs of consecutive frames.

    Args:
        dataset: where the frames are.
        episodes: indices of the episodes to read from.
        seed: of random choices.
    """

    def __init__(self, dataset: EpisodeDataset, episodes: np.ndarray, seed: int) -> None:
        self.clips = ClipSampler(dataset.lengths, episodes, clip=2)
        self._dataset, self._seed = dataset, seed

    def read(self, picks: list[tuple[int, int]], flips: np.ndarray) -> tuple[Tensor, Tensor]:
        """(previous, current) pixels (B, 3, H, W); an episode of one frame is its own past."""
        pairs = [self._dataset.read(i, start, start + 2).frames for i, start in picks]
        # read pairs in both orders, so that the first frame of an episode is learned as well
        first = np.stack([p[-1] if flip else p[0] for p, flip in zip(pairs, flips, strict=True)])
        second = np.stack([p[0] if flip else p[-1] for p, flip in zip(pairs, flips, strict=True)])
        return to_float(torch.from_numpy(first)), to_float(torch.from_numpy(second))

    def sample(self, count: int, step: int = 0) -> tuple[Tensor, Tensor]:
        """Pairs drawn with replacement, the same ones for the same step."""
        rng, _ = step_generators(self._seed, "codec", step)
        picks = self.clips.sample(count, rng)
        return self.read(picks, rng.random(count) < 0.5)


@torch.no_grad()
def measure_codec(
    codec: Codec, pairs: FramePairs, background: Tensor, step: int, logger: RunLogger
) -> None:
    """Log the PSNR of frames through codec and back, over all and over salient pixels."""
    codec.eval()
    previous, pixels = (part.to(background.device) for part in pairs.sample(MEASURED_FRAMES))
    decoded = codec.decode(codec.encode(pixels)).clamp(-1.0, 1.0)
    salient = saliency(pixels, previous, background).expand_as(pixels) > 0.2
    error = (decoded - pixels).square() / 4.0  # of a range of 1
    figures = {"held_out_psnr": psnr(error.mean().item())}
    if salient.any():
        figures["held_out_psnr_salient"] = psnr(error[salient].mean().item())
    logger.scalars(step, figures)
    rows = [torch.cat(list(row[:PICTURE_FRAMES]), dim=2) for row in (pixels, decoded)]
    picture = torch.cat(rows, dim=1).add(1.0).mul(127.5).round().clamp(0, 255)
    logger.picture(step, "real_above_codec", picture.byte().movedim(0, -1).cpu().numpy())


@torch.no_grad()
def set_scale(codec: Codec, frames: Tensor) -> None:
    """Set the latents' scale to that of frames (B, 3, H, W) under the present encoder.

    Each rank does it by itself, on the same frames.
    """
    scale, device = codec.scale, next(codec.parameters()).device
    momentum, scale.momentum = scale.momentum, None  # a plain average over the batches that follow
    scale.reset_running_stats()
    scale.over_ranks = False
    codec.train()
    for chunk in frames.split(256):
        codec.encode(chunk.to(device))
    scale.momentum = momentum


def fit_likelihood(world: WorldModel, pairs: FramePairs, seed: int) -> None:
    """Fit the scale of the pixels' likelihood to frames; the codec is frozen."""
    frames = to_uint8(pairs.sample(FIT_FRAMES)[1])
    fit_pixel_scale(world.codec, frames, world.config.sigma, seed)
