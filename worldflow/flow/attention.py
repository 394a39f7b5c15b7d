"""The transformer layer of every part: rotary positions in time, conditioning on actions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflow.flow.cache import LayerCache

MOST_KEYS = 512  # of `_attention_by_products`


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


# cosines and signed sines, see `TimeRotary`
Rotation = tuple[Tensor, Tensor]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2) of x (..., head_dim), see `TimeRotary`."""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def attention_bias(visible: Tensor, like: Tensor) -> Tensor:
    """0 where a query (row) may see a key, -infinity elsewhere; made once, added in every layer."""
    return torch.zeros_like(visible, dtype=like.dtype).masked_fill(~visible, -math.inf)


def _attention_by_products(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, dtype: torch.dtype
) -> Tensor:
    """`scaled_dot_product_attention` in `dtype`, as two products and a softmax.

    In bfloat16 the fused kernel's backward pass on CPUs takes twice the time of this: products of
    matrices use the processor's bfloat16 units, the kernel's do not. But this keeps a number for
    each pair of tokens and head, so it is for short clips.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scaled = queries.to(dtype) * queries.shape[-1] ** -0.5
        scores = scaled @ keys.to(dtype).transpose(-1, -2) + bias.to(dtype)
        return torch.softmax(scores, dim=-1) @ values.to(dtype)


class Attention(nn.Module):
    """Multi-head self-attention over S tokens, or from S tokens to a cached window."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, width) to queries, keys and values (B, heads, S, head_dim).

        Args:
            x: tokens.
            rotation: of the tokens' times, (B or 1, 1, S or 1, head_dim) each.
        """
        batch, tokens, _ = x.shape
        # (3, B, heads, S, head_dim)
        parts = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        queries_and_keys, values = parts[:2], parts[2]
        if rotation is not None:
            queries_and_keys = rotate(queries_and_keys, rotation)
        return queries_and_keys[0], queries_and_keys[1], values

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """What S queries read from the keys, (B, S, width).

        Args:
            queries: (B, heads, S, head_dim).
            keys: (B, heads, keys, head_dim), and so are the values.
            values: what is read.
            bias: see `attention_bias`, broadcast to (B, heads, S, keys).
        """
        kind, short = queries.device.type, keys.shape[-2] <= MOST_KEYS
        half = torch.is_autocast_enabled(kind) and torch.is_grad_enabled()
        if kind == "cpu" and half and short:
            mixed = _attention_by_products(
                queries, keys, values, bias, torch.get_autocast_dtype(kind)
            )
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))


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
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Tokens x (B, S, width) to the same shape.

        Args:
            x: tokens.
            bias: see `attention_bias`, broadcast to (B, heads, S, keys).
            modulation: see `Modulation`.
            rotation: see `Attention.project`.
            cache: where keys and values are written, and read back with those of past frames.
        """
        queries, keys, values = self.before_cache(x, modulation, rotation)
        if cache is not None:
            keys, values = cache.write(keys, values)
        return self.after_cache(x, queries, keys, values, bias, modulation)

    def before_cache(
        self, x: Tensor, modulation: Modulation | None, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The first half of `forward`: queries, keys and values."""
        h = self.norm_attention(x)
        if modulation is not None:
            scale, shift, _, _ = modulation
            h = torch.addcmul(shift, h, scale)
        return self.attention.project(h, rotation)

    def after_cache(
        self,
        x: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        modulation: Modulation | None,
    ) -> Tensor:
        """The second half: attention to all keys, and the MLP."""
        x = x + self.attention.mix(queries, keys, values, bias)
        h = self.norm_mlp(x)
        if modulation is not None:
            _, _, scale, shift = modulation
            h = torch.addcmul(shift, h, scale)
        return x + self.mlp(h)
