"""The blocks of the flow: autoregressive affine maps within a frame and across frames.

A block gives the parameters (mu, scale) of each token from the tokens before it in the block's
order. Its forward direction is one pass; its inverse is the sampler's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldflow.errors import ConfigError
from worldflow.flow.affine import Affine, AffineHead
from worldflow.flow.attention import TransformerLayer, attention_bias
from worldflow.flow.cache import WindowCache
from worldflow.flow.transformer import (
    StepContext,
    TransformerConfig,
    VideoTransformer,
    within_frame_mask,
)


def shift_tokens(x: Tensor) -> Tensor:
    """Token i becomes token i - 1, token 0 becomes zero; tokens on the second-last axis."""
    return torch.cat((torch.zeros_like(x[..., :1, :]), x[..., :-1, :]), dim=-2)


class LocalBlock(nn.Module):
    """Autoregressive over the N tokens of one frame; it never sees another frame.

    Args:
        config: size of its transformer.
        tokens: N.
        channels: C.
        flip: whether the order of the tokens is reversed.
    """

    bias: Tensor

    def __init__(self, config: TransformerConfig, tokens: int, channels: int, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        self.embed = nn.Linear(channels, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, config.width))
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.heads) for _ in range(config.depth)
        )
        self.head = AffineHead(config.width, channels)
        bias = attention_bias(within_frame_mask(tokens, causal=True), like=self.position)
        self.register_buffer("bias", bias.detach(), persistent=False)

    @property
    def order(self) -> list[int]:
        """The order in which tokens depend on each other."""
        order = list(range(len(self.position)))
        return order[::-1] if self.flip else order

    def forward(self, x: Tensor) -> Affine:
        """Parameters for x (B, N, C), in x's own token order."""
        if self.flip:
            x = x.flip(1)
        h = self.embed(shift_tokens(x)) + self.position
        for layer in self.layers:
            h = layer(h, self.bias)
        mu, log_scale = self.head(h)
        return Affine(mu.flip(1), log_scale.flip(1)) if self.flip else Affine(mu, log_scale)


@dataclass
class GlobalConfig(TransformerConfig):
    """Size of the global block.

    Attributes:
        causal_layers: how many of the layers, the last ones, see the earlier tokens of the frame
            that is being made. All other layers see past frames only, so that a step runs them
            once, while the sampler iterates over these. 0 makes the frame's tokens independent
            given the past ("frame-parallel"): the local blocks alone tie them together.
    """

    causal_layers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.causal_layers <= self.depth:
            raise ConfigError(
                f"global_block.causal_layers is {self.causal_layers}; it must be in "
                f"0..{self.depth}, the block's depth"
            )


class GlobalCaches(NamedTuple):
    """Keys and values of the layers that see the past only, and of the causal ones."""

    past: WindowCache
    within: WindowCache

    def clone(self) -> GlobalCaches:
        """A copy that shares no memory."""
        return GlobalCaches(self.past.clone(), self.within.clone())

    def advanced(self) -> GlobalCaches:
        """The same memory, one frame later."""
        return GlobalCaches(self.past.advanced(), self.within.advanced())

    def rows(self, index: Tensor) -> GlobalCaches:
        """The rows `index` (B',)."""
        return GlobalCaches(self.past.rows(index), self.within.rows(index))

    @staticmethod
    def where(rows: Tensor, a: GlobalCaches, b: GlobalCaches) -> GlobalCaches:
        """Rows of `a` where `rows` (B,) is true, rows of `b` elsewhere."""
        return GlobalCaches(
            WindowCache.where(rows, a.past, b.past), WindowCache.where(rows, a.within, b.within)
        )


@dataclass
class FrameContext:
    """What is known of a frame before it is made: features (B, N, width) of its past and action."""

    features: Tensor
    within: StepContext


class GlobalBlock(nn.Module):
    """Autoregressive over tokens in (time, token) order, conditioned on the actions.

    Layers that see all past frames give features of what is to come; the causal layers add the
    tokens of the frame itself that came before:

        h_t = past(u_<t, a_<=t)        (mu, scale)_(t, i) = head(within(h_<=t, u_<t, u_(t, <i)))

    Args:
        config: its size.
        tokens: N.
        channels: C.
        window: W, frames that attention spans.
        condition: size of a frame's conditioning vector.
    """

    def __init__(
        self, config: GlobalConfig, tokens: int, channels: int, window: int, condition: int
    ) -> None:
        super().__init__()
        self.config, self.tokens = config, tokens
        size = {"width": config.width, "heads": config.heads}
        past = TransformerConfig(depth=config.depth - config.causal_layers, **size)
        within = TransformerConfig(depth=config.causal_layers, **size)
        self.embed_previous = nn.Linear(channels, config.width)
        self.past = VideoTransformer(past, tokens, window, condition, causal=False)
        self.embed = nn.Linear(channels, config.width)
        self.within = VideoTransformer(within, tokens, window, condition, causal=True)
        self.head = AffineHead(config.width, channels)

    @property
    def order(self) -> list[int]:
        """The order in which the tokens of a frame depend on each other; empty if they do not."""
        return list(range(self.tokens)) if self.config.causal_layers else []

    def forward(self, hidden: Tensor, condition: Tensor) -> Affine:
        """Parameters for whole clips: hidden (B, T, N, C), condition (B, T, D)."""
        previous = torch.cat((torch.zeros_like(hidden[:, :1]), hidden[:, :-1]), dim=1)
        features = self.past(self.embed_previous(previous), condition)
        if self.order:
            features = self.within(features + self.embed(shift_tokens(hidden)), condition)
        return self.head(features)

    def empty_caches(self, batch: int) -> GlobalCaches:
        """The caches before the first frame."""
        return GlobalCaches(self.past.empty_cache(batch), self.within.empty_cache(batch))

    def begin_frame(
        self, previous: Tensor, condition: Tensor, caches: GlobalCaches
    ) -> FrameContext:
        """The layers that run once a frame: previous frame (B, N, C), its condition (B, D).

        This and the passes of `step` write the frame's keys and values into `caches`.
        """
        context = self.past.begin_step(condition, caches.past)
        features = self.past.step(self.embed_previous(previous), context)
        return FrameContext(features, self.within.begin_step(condition, caches.within))

    def step(self, hidden: Tensor, context: FrameContext) -> Affine:
        """One pass over the current frame, hidden (B, N, C)."""
        if not self.order:
            return self.head(context.features)
        features = context.features + self.embed(shift_tokens(hidden))
        return self.head(self.within.step(features, context.within))
