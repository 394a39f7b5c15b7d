"""The transformer layer of every part: rotary positions in time, conditioning on actions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
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
        cos, sin = angles.cos().float(), angles.sin().float()
        self.register_buffer("cos", torch.cat((cos, cos), dim=1), persistent=False)
        self.register_buffer("sin", torch.cat((-sin, sin), dim=1), persistent=False)

    def forward(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (..., head_dim) of integer frame indices (...), for `rotate`."""
        index = times % self.period
        return self.cos[index], self.sin[index]


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2) of x (..., head_dim), see `TimeRotary`."""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def attention_bias(visible: Tensor, like: Tensor) -> Tensor:
    """0 where a query (row) may see a key, -infinity elsewhere; made once, added in every layer."""
    return torch.zeros_like(visible, dtype=like.dtype).masked_fill(~visible, -math.inf)


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
        bias: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x (B, S, width) to the same shape.

        Args:
            x: tokens.
            bias: see `attention_bias`, broadcast to (B, heads, S, keys).
            rotation: cosines and sines of the tokens' times, (B or 1, 1, S, head_dim).
            cache: where keys and values are written, and read back with those of past frames.
        """
        batch, tokens, width = x.shape
        # (3, B, heads, S, head_dim)
        parts = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        queries_and_keys, values = parts[:2], parts[2]
        if rotation is not None:
            queries_and_keys = rotate(queries_and_keys, rotation)
        queries, keys = queries_and_keys
        if cache is not None:
            keys, values = cache.write(keys, values)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Modulation(NamedTuple):
    """Factor and shift of each norm of a layer, (B, S or 1, width)."""

    scale_attention: Tensor
    shift_attention: Tensor
    scale_mlp: Tensor
    shift_mlp: Tensor


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP; a modulation, if any, scales and shifts both norms.

    Args:
        width: features of a token.
        heads: attention heads.
        modulated: whether `forward` gets a modulation; the norms then have no parameters.
    """

    def __init__(self, width: int, heads: int, modulated: bool = False) -> None:
        super().__init__()
        affine = not modulated
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=affine)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=affine)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        modulation: Modulation | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        h = self.norm_attention(x)
        if modulation is not None:
            h = torch.addcmul(modulation.shift_attention, h, modulation.scale_attention)
        x = x + self.attention(h, bias, rotation, cache)
        h = self.norm_mlp(x)
        if modulation is not None:
            h = torch.addcmul(modulation.shift_mlp, h, modulation.scale_mlp)
        return x + self.mlp(h)
