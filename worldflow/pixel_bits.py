"""How many bits a world needs at most for a byte of a frame: a bound on its likelihood of pixels.

    log p(x) >= E[log p(x | y~) + log p(y~)] - E[log q(y~ | x)]

y~ is drawn from q(y~ | x) = N(encode(x), sigma^2), whose entropy is a constant; log p(y~) is the
flow's exact likelihood, and p(x | y~) that of whole bytes around what the codec decodes. The bound
is of the frames, so that worlds of different codecs and sigmas compare, which NLLs of latents do
not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldflow.codec import Codec
from worldflow.novelty import bits_per_dim, noise_floor
from worldflow.world_model import WorldModel

CHUNK = 64  # frames decoded at once


@torch.no_grad()
def fit_pixel_scale(codec: Codec, frames: Tensor, sigma: float, seed: int) -> None:
    """Fit p(x | y~) by maximum likelihood to frames (B, H, W, 3) uint8; the codec is frozen."""
    frames = frames.to(next(codec.parameters()).device)
    latents = torch.cat([codec.encode_frames(chunk) for chunk in frames.split(CHUNK)])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    noisy = latents + sigma * noise.to(latents)
    codec.likelihood.fit(torch.cat([codec.decode(chunk) for chunk in noisy.split(CHUNK)]), frames)


@torch.no_grad()
def pixel_bits(
    world: WorldModel, frames: Tensor, noisy: Tensor, log_prob: Tensor
) -> dict[str, Tensor]:
    """Bits per dimension of each frame, of which there are 3 * H * W: (B, T) each.

    Args:
        world: its scale of pixels is fitted.
        frames: (B, T, H, W, 3) uint8.
        noisy: their latents with noise of the world's sigma, (B, T, N, C).
        log_prob: of the noisy latents under the flow, (B, T) nats.

    Returns:
        `total`, in the mean over the noise no less than what the world truly needs; and its two
        parts: `pixels`, given the latents, and `latents`.
    """
    pieces = zip(frames.flatten(0, 1).split(CHUNK), noisy.flatten(0, 1).split(CHUNK), strict=True)
    given = torch.cat([world.codec.log_prob(x, y) for x, y in pieces]).reshape(log_prob.shape)
    entropy = world.dimensions * noise_floor(world.config.sigma)
    dimensions = math.prod(world.frame_shape)
    rate = log_prob + entropy
    parts = {"total": given + rate, "pixels": given, "latents": rate}
    return {name: bits_per_dim(value, dimensions) for name, value in parts.items()}
