"""Noisy latents of unlabelled video, made a slice at a time, and the order to go through them."""

from __future__ import annotations

import torch
from torch import Tensor

from worldflow.errors import DataError
from worldflow.randomness import Generators, normal
from worldflow.world_model import WorldModel

# Frames that the encoder sees at once: its activations outweigh the latents a hundredfold.
ENCODED_AT_ONCE = 32


@torch.inference_mode()
def noisy_draws(
    world: WorldModel, frames: Tensor, samples: int, generator: Generators
) -> tuple[Tensor, ...]:
    """`samples` draws of y~ of the same video, each (B, T, N, C).

    The first is what `WorldModel.noisy_latents` draws from the same generators.

    Args:
        world: whose codec and sigma count.
        frames: (B, T, H, W, 3) uint8.
        samples: number of draws.
        generator: one for the batch or one a row, see `worldflow.randomness`.

    Raises:
        DataError: frames of another size than the world's, or none.
    """
    shape, wanted = tuple(frames.shape), tuple(world.frame_shape)
    if len(shape) != 5 or shape[2:] != wanted or frames.dtype != torch.uint8:
        raise DataError(
            f"frames have shape {shape} and type {frames.dtype}; this world needs "
            f"(B, T, {', '.join(map(str, wanted))}) uint8"
        )
    if not shape[0] or not shape[1]:
        raise DataError("there are no frames; give at least one")
    parts = frames.split(ENCODED_AT_ONCE, dim=1)
    latents = torch.cat([world.codec.encode_frames(part) for part in parts], dim=1)
    sigma = world.config.sigma
    return tuple(
        latents + sigma * normal(generator, len(latents), latents.shape[1:], like=latents)
        for _ in range(samples)
    )


def check_finite(log_prob: Tensor, frame: int) -> None:
    """Raises DataError unless the log-likelihoods of a frame, of any shape, are numbers."""
    if not log_prob.isfinite().all():
        raise DataError(
            f"the log-likelihood of frame {frame} is not finite under some action; the world's "
            "weights are broken: restore them or pretrain again"
        )
