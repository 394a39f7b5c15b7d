"""The blocks of the flow: autoregressive affine maps within a frame and across frames.

A block gives the parameters (mu, scale) of each token from the tokens before it in the block's
order. Its forward direction is one pass; its inverse is the sampler's business.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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


class GlobalBlock(nn.Module):
    """Autoregressive over tokens in (time, token) order, conditioned on the actions.

    The parameters of token i of frame t see: tokens before i of the same frame, through the input;
    token i of frame t - 1, through the input; and all tokens of the window, through attention.

    Args:
        config: size of its transformer.
        tokens: N.
        channels: C.
        window: W, frames that attention spans.
        condition: size of a frame's conditioning vector.
    """

    def __init__(
        self, config: TransformerConfig, tokens: int, channels: int, window: int, condition: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, config.width)
        self.embed_previous = nn.Linear(channels, config.width)
        self.transformer = VideoTransformer(config, tokens, window, condition, causal=True)
        self.head = AffineHead(config.width, channels)

    @property
    def order(self) -> list[int]:
        """The order in which the tokens of a frame depend on each other."""
        return list(range(self.transformer.tokens))

    def _inputs(self, hidden: Tensor, previous: Tensor) -> Tensor:
        return self.embed(shift_tokens(hidden)) + self.embed_previous(previous)

    def forward(self, hidden: Tensor, condition: Tensor) -> Affine:
        """Parameters for whole clips: hidden (B, T, N, C), condition (B, T, D)."""
        previous = torch.cat((torch.zeros_like(hidden[:, :1]), hidden[:, :-1]), dim=1)
        features = self.transformer(self._inputs(hidden, previous), condition)
        return self.head(features)

    def begin_step(self, condition: Tensor, cache: WindowCache) -> StepContext:
        """Prepare the passes over one frame, see `VideoTransformer.begin_step`."""
        return self.transformer.begin_step(condition, cache)

    def step(self, hidden: Tensor, previous: Tensor, context: StepContext) -> Affine:
        """Parameters for the current frame: hidden, previous frame (B, N, C)."""
        return self.head(self.transformer.step(self._inputs(hidden, previous), context))
