"""A small U-Net whose group norms are modulated by a conditioning vector."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflow.errors import ConfigError

GROUP = 32  # channels that are normalised together


@dataclass
class UNetConfig:
    """Size of the U-Net.

    Attributes:
        channels: of each resolution, the full one first; each next one has half the size.
        depth: residual blocks of each resolution on the way down; one more on the way up.
        condition: size of the conditioning vector.
    """

    channels: list[int] = field(default_factory=lambda: [64, 64, 96, 96])
    depth: int = 2
    condition: int = 256

    def __post_init__(self) -> None:
        if not self.channels or min(*self.channels, self.depth, self.condition) < 1:
            raise ConfigError(
                f"unet: channels={self.channels}, depth={self.depth} and condition="
                f"{self.condition} must be positive"
            )

    @property
    def stride(self) -> int:
        """That height and width must be multiples of."""
        return 2 ** (len(self.channels) - 1)


def zero(module: nn.Module) -> None:
    """Set all parameters to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


class AdaptiveGroupNorm(nn.Module):
    """Group norm with a scale and a shift that depend on the condition."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.groups = max(channels // GROUP, 1) if channels % GROUP == 0 else 1
        self.modulation = nn.Linear(condition, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, H, W), condition (B, D)."""
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        return F.group_norm(x, self.groups) * (1.0 + scale) + shift


class Residual(nn.Module):
    """Two convolutions, each after a modulated norm; the second one starts at zero."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.first_norm = AdaptiveGroupNorm(before, condition)
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second_norm = AdaptiveGroupNorm(after, condition)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        zero(self.second)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, before, H, W) to (B, after, H, W)."""
        h = self.first(F.silu(self.first_norm(x, condition)))
        return self.skip(x) + self.second(F.silu(self.second_norm(h, condition)))


class SelfAttention(nn.Module):
    """One head of attention over all places of an image; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.inputs = nn.Conv2d(channels, 3 * channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        zero(self.output)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W), the same shape out."""
        q, k, v = (part.flatten(2).mT for part in self.inputs(self.norm(x)).chunk(3, dim=1))
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.output(attended.mT.reshape(x.shape))


class UNet(nn.Module):
    """From images (B, in, H, W) and a condition (B, D) to images (B, out, H, W); zero at first."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        sizes, depth, width = config.channels, config.depth, config.condition
        self.depth = depth
        self.begin = nn.Conv2d(in_channels, sizes[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        kept, now = [sizes[0]], sizes[0]
        for level, size in enumerate(sizes):
            for _ in range(depth):
                self.down.append(Residual(now, size, width))
                now = size
                kept.append(now)
            if level + 1 < len(sizes):
                self.shrink.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                kept.append(now)
        self.middle = nn.ModuleList([Residual(now, now, width) for _ in range(2)])
        self.attention = SelfAttention(now)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, size in reversed(list(enumerate(sizes))):
            for _ in range(depth + 1):
                self.up.append(Residual(now + kept.pop(), size, width))
                now = size
            if level > 0:
                self.grow.append(nn.Conv2d(now, now, 3, padding=1))
        self.norm = AdaptiveGroupNorm(now, width)
        self.end = nn.Conv2d(now, out_channels, 3, padding=1)
        zero(self.end)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.begin(x)
        kept = [x]
        levels, depth = len(self.shrink) + 1, self.depth
        for level in range(levels):
            for block in self.down[level * depth : (level + 1) * depth]:
                x = block(x, condition)
                kept.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
                kept.append(x)
        x = self.middle[1](self.attention(self.middle[0](x, condition)), condition)
        for level in range(levels):
            for block in self.up[level * (depth + 1) : (level + 1) * (depth + 1)]:
                x = block(torch.cat((x, kept.pop()), dim=1), condition)
            if level < len(self.grow):
                x = self.grow[level](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.end(F.silu(self.norm(x, condition)))
