"""The transformer layer that every part uses, with rotary positions in time and action conditioning."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldflow.flow.cache import LayerCache


class TimeRotary(nn.Module):
    """Rotary positions (RoFormer) over frame indices, exactly periodic.

    The frequencies are whole multiples of 2 pi / period with period = 4 W, so that the rotation of
    frame t is a table look-up at t mod period: frame 10,000 is rotated with the same bits as frame
    10,000 mod period. Attention spans less than W frames, so no two offsets are confused.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, window: int) -> None:
        super().__init__()
        self.period = 4 * window
        pairs = head_dim // 2
        top = max(self.period // 4, 1)  # the fastest pair turns by a quarter circle a frame
        multiples = torch.logspace(0, math.log2(top), pairs, base=2.0, dtype=torch.float64).round()
        times = torch.arange(self.period, dtype=torch.float64)
        angles = 2.0 * math.pi / self.period * times[:, None] * multiples
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (..., head_dim / 2) of integer frame indices (...)."""
        index = times % self.period
        return self.cos[index], self.sin[index]


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs of x (B, heads, S, head_dim) by angles given as (B or 1, 1, S, head_dim / 2)."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention over S tokens, or from S tokens to a cached window."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x (B, S, width); mask bool, true where a query (row) sees a key, broadcast to (B, heads, S, K)."""
        queries, keys, values = rearrange(
            self.qkv(x), "b s (three h d) -> three b h s d", three=3, h=self.heads
        )
        if rotation is not None:
            queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        if cache is not None:
            keys, values = cache.write(keys, values)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out(rearrange(mixed, "b h s d -> b s (h d)"))


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP; a condition, if any, scales and shifts both norms (adaptive norm).

    Args:
        width: features of a token.
        heads: attention heads.
        condition: size of the conditioning vector; 0 for a layer without one. Its projection starts
            at zero, so conditioning starts as the identity.
    """

    def __init__(self, width: int, heads: int, condition: int = 0) -> None:
        super().__init__()
        affine = condition == 0
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=affine)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=affine)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.modulation = nn.Linear(condition, 4 * width) if condition else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def modulate(self, condition: Tensor | None) -> tuple[Tensor, ...] | None:
        """The layer's scales and shifts (B, S or 1, width) of a condition (B, S or 1, condition)."""
        if self.modulation is None:
            return None
        if condition is None:
            raise ValueError("this layer is conditioned and got no condition")
        return self.modulation(condition).chunk(4, dim=-1)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        modulation: tuple[Tensor, ...] | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        h = self.norm_attention(x)
        if modulation is not None:
            h = torch.addcmul(modulation[1], h, 1.0 + modulation[0])
        x = x + self.attention(h, mask, rotation, cache)
        h = self.norm_mlp(x)
        if modulation is not None:
            h = torch.addcmul(modulation[3], h, 1.0 + modulation[2])
        return x + self.mlp(h)
