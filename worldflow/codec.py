"""The codec: frames to a grid of latent tokens of unit scale, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldflow.data.frames import to_float, to_uint8
from worldflow.errors import ConfigError
from worldflow.pixels import PixelLikelihood

# How far a training batch's statistics may differ from the running ones, see `LatentScale`.
RENORM_RATIO, RENORM_SHIFT = 2.0, 1.0


@dataclass
class CodecConfig:
    """Size of the codec.

    Attributes:
        channels: C, channels of a token.
        widths: features after each halving of the resolution; their number gives the stride
            2^len(widths), so four of them make 4 x 4 tokens of a 64 x 64 frame.
    """

    channels: int = 16
    widths: list[int] = field(default_factory=lambda: [32, 64, 128, 192])

    def __post_init__(self) -> None:
        if self.channels < 1 or not self.widths or any(w < 8 or w % 8 for w in self.widths):
            raise ConfigError(
                f"codec.channels={self.channels} must be positive and codec.widths={self.widths} "
                "positive multiples of 8"
            )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks, and of its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SumOverRanks.apply(gradients[0])


class LatentScale(nn.BatchNorm2d):
    """Standardises latents (B, C, H, W) per channel.

    Attributes:
        over_ranks: whether the statistics of a training batch are those of all ranks' batches,
            which are of one size; set while a codec is trained on several.
        steady: whether training standardises by the running statistics, as a frozen codec does,
            and by those of the batch only as far as the two differ by more than `RENORM_RATIO` and
            `RENORM_SHIFT` (batch renormalisation, 1702.03275). Gradients are those of the batch's
            statistics, so that an encoder gains nothing from larger or smaller latents. Set where
            others learn from the latents: those of a small batch are shifted by its own mean.
    """

    over_ranks = False
    steady = False

    def forward(self, latents: Tensor) -> Tensor:
        if not self.training:
            return super().forward(latents)
        latents = latents.float()  # also under autocast
        if not self.over_ranks and not self.steady:
            return super().forward(latents)
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None
        mean = self._over_ranks(latents.mean(dim=(0, 2, 3)))
        centred = latents - mean[:, None, None]
        variance = self._over_ranks(centred.square().mean(dim=(0, 2, 3)))
        with torch.no_grad():
            ranks = dist.get_world_size() if self.over_ranks else 1
            count = ranks * latents.numel() // latents.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        standard = centred * (variance + self.eps).rsqrt()[:, None, None]
        if not self.steady:
            return standard
        with torch.no_grad():
            inverse = (self.running_var + self.eps).rsqrt()
            ratio = (variance + self.eps).sqrt() * inverse
            shift = (mean - self.running_mean) * inverse
            ratio = ratio.clamp(1.0 / RENORM_RATIO, RENORM_RATIO)[:, None, None]
            shift = shift.clamp(-RENORM_SHIFT, RENORM_SHIFT)[:, None, None]
        return standard * ratio + shift

    def _over_ranks(self, values: Tensor) -> Tensor:
        """The mean of the ranks' values."""
        return _SumOverRanks.apply(values) / dist.get_world_size() if self.over_ranks else values


class Codec(nn.Module):
    """A convolutional autoencoder whose decoder is trained on noisy latents (SimFlow, 2512.04084).

    Latents are standardised per channel by running statistics, as sigma means nothing without a
    fixed scale: an encoder that could grow its outputs would outgrow the noise.

    Args:
        config: size.
        frame_shape: (H, W), multiples of the stride.
    """

    def __init__(self, config: CodecConfig, frame_shape: tuple[int, int]) -> None:
        super().__init__()
        stride = 2 ** len(config.widths)
        height, width = frame_shape
        if height % stride or width % stride:
            raise ConfigError(
                f"frames of {height} x {width} do not divide by the codec's stride {stride}; "
                "resize them, or change the length of world.codec.widths"
            )
        self.config = config
        self.grid = (height // stride, width // stride)
        widths = list(config.widths)
        down: list[nn.Module] = []
        for before, after in zip([3, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
        down += [_Residual(widths[-1]), nn.Conv2d(widths[-1], config.channels, 1)]
        self.encoder = nn.Sequential(*down)
        self.scale = LatentScale(config.channels, affine=False, momentum=0.01)
        up: list[nn.Module] = [
            nn.Conv2d(config.channels, widths[-1], 3, padding=1),
            _Residual(widths[-1]),
        ]
        for before, after in zip(widths[::-1], widths[-2::-1], strict=False):
            up += [
                nn.Conv2d(before, 4 * after, 3, padding=1),
                nn.PixelShuffle(2),
                nn.SiLU(),
                _Residual(after),
            ]
        up += [nn.Conv2d(widths[0], 12, 3, padding=1), nn.PixelShuffle(2)]
        self.decoder = nn.Sequential(*up)
        self.likelihood = PixelLikelihood()
        # convolutions run several times faster on CPUs in this memory format
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def tokens(self) -> int:
        """N, tokens of a frame."""
        return self.grid[0] * self.grid[1]

    @property
    def idle_biases(self) -> list[nn.Parameter]:
        """Those that the standardisation takes away: their gradients are rounding errors."""
        last = len(self.encoder) - 1
        names = f"{last - 1}.second.bias", f"{last}.bias"
        return [self.encoder.get_parameter(name) for name in names]

    def encode(self, pixels: Tensor) -> Tensor:
        """float pixels (B, 3, H, W) to latents (B, N, C) of unit scale."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        latents = self.scale(self.encoder(pixels))
        return rearrange(latents, "b c h w -> b (h w) c").contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, N, C) to float pixels (B, 3, H, W), about in [-1, 1]."""
        grid = rearrange(latents, "b (h w) c -> b c h w", h=self.grid[0])
        return self.decoder(grid.contiguous(memory_format=torch.channels_last))

    def encode_frames(self, frames: Tensor) -> Tensor:
        """uint8 frames (..., H, W, 3) to latents (..., N, C)."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        latents = self.encode(to_float(flat).to(self.dtype))
        return latents.reshape(*frames.shape[:-3], *latents.shape[1:])

    def decode_frames(self, latents: Tensor) -> Tensor:
        """latents (..., N, C) to uint8 frames (..., H, W, 3)."""
        flat = latents.reshape(-1, *latents.shape[-2:])
        frames = to_uint8(self.decode(flat))
        return frames.reshape(*latents.shape[:-2], *frames.shape[1:])

    def log_prob(self, frames: Tensor, noisy: Tensor) -> Tensor:
        """log p(x | y~) in nats, (...): uint8 frames (..., H, W, 3), noisy latents (..., N, C)."""
        decoded = self.decode(noisy.reshape(-1, *noisy.shape[-2:]))
        flat = frames.reshape(-1, *frames.shape[-3:])
        return self.likelihood(decoded, flat).reshape(noisy.shape[:-2])


def saliency(pixels: Tensor, previous: Tensor, background: Tensor) -> Tensor:
    """How much a pixel differs from the mean frame or the last: (B, 1, H, W) in [0, 1].

    What matters to an agent (a ball, a fireball) is small; a plain mean over pixels ignores it.
    """
    from_background = (pixels - background).abs().amax(1, keepdim=True)
    from_previous = (pixels - previous).abs().amax(1, keepdim=True)
    return torch.maximum(from_background, from_previous).clamp(0.0, 1.0)


def reconstruction_loss(decoded: Tensor, pixels: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of absolute and squared error.

    Args:
        decoded: (B, 3, H, W).
        pixels: (B, 3, H, W).
        weight: (B, 1, H, W).
    """
    error = (decoded - pixels).abs()
    return (weight * (0.5 * error + error.square())).mean() / weight.mean()
