"""The blocks of the flow: autoregressive affine maps within a frame and across frames.

A block gives the parameters (mu, scale) of each token from the tokens before it in the block's
order. Its forward direction is one pass; its inverse is the sampler's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldflow.errors import ConfigError
from worldflow.flow.affine import Affine, AffineHead
from worldflow.flow.attention import TransformerLayer, attention_bias
from worldflow.flow.cache import WindowCache
from worldflow.flow.transformer import TransformerConfig, VideoTransformer


def shift_tokens(x: Tensor, flip: bool = False) -> Tensor:
    """Each token becomes the one before it, the first becomes zero; tokens on the second-last axis.

    With `flip` the order is reversed: each token becomes the one after it, the last becomes zero.
    """
    return F.pad(x[..., 1:, :], (0, 0, 0, 1)) if flip else F.pad(x[..., :-1, :], (0, 0, 1, 0))


class CausalTokens(nn.Module):
    """A transformer over the N tokens of one frame in which a token sees those before it only.

    Args:
        config: its size.
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
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        bias = attention_bias(mask.T if flip else mask, like=self.position)
        self.register_buffer("bias", bias.detach(), persistent=False)

    @property
    def order(self) -> list[int]:
        """The order in which tokens depend on each other."""
        order = list(range(len(self.position)))
        return order[::-1] if self.flip else order

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """x (B, N, C) to features (B, N, width).

        Args:
            x: the tokens.
            given: what else is known of each token: `position`, and more where there is more, in
                one sum (B, N, width) or (N, width) that is made before the sampler's iterations.
        """
        h = self.embed(shift_tokens(x, self.flip)) + given
        for layer in self.layers:
            h = layer(h, self.bias)
        return h


class LocalBlock(nn.Module):
    """Autoregressive over the N tokens of one frame; it never sees another frame.

    Args:
        config: size of its transformer.
        tokens: N.
        channels: C.
        flip: whether the order of the tokens is reversed.
    """

    def __init__(self, config: TransformerConfig, tokens: int, channels: int, flip: bool) -> None:
        super().__init__()
        self.within = CausalTokens(config, tokens, channels, flip)
        self.head = AffineHead(config.width, channels)

    @property
    def order(self) -> list[int]:
        """The order in which tokens depend on each other."""
        return self.within.order

    def forward(self, x: Tensor) -> Affine:
        """Parameters for x (B, N, C)."""
        return self.head(self.within(x, self.within.position))


@dataclass
class GlobalConfig:
    """Size of the global block.

    Attributes:
        past: of the deep transformer over past frames.
        within: of the shallow one over the frame's earlier tokens; of depth 0 if there shall be
            none ("frame-parallel": given the past, only the local blocks tie a frame's tokens).
    """

    past: TransformerConfig = field(default_factory=lambda: TransformerConfig(192, 5, 6))
    within: TransformerConfig = field(default_factory=lambda: TransformerConfig(128, 1, 4))

    def __post_init__(self) -> None:
        if self.past.depth < 1:
            raise ConfigError("global_block.past.depth is 0; the past would not be read")


class GlobalBlock(nn.Module):
    """Autoregressive over tokens in (time, token) order, conditioned on the actions.

    A deep transformer reads all that is known before the frame is made; a shallow one adds the
    tokens of the frame itself that came before. So a step runs the deep one once, and the sampler
    iterates over the shallow one alone.

        h_t = past(u_<t, a_<=t)        (mu, scale)_(t, i) = head(within(h_t, u_(t, <i)))

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
        width = config.past.width
        self.embed = nn.Linear(channels, width)
        self.past = VideoTransformer(config.past, tokens, window, condition)
        self.within: CausalTokens | None = None
        if config.within.depth:
            self.within = CausalTokens(config.within, tokens, channels, flip=False)
            self.project = nn.Linear(width, config.within.width)
            width = config.within.width
        self.features = width  # of what `read_past` gives
        self.head = AffineHead(width, channels)

    @property
    def order(self) -> list[int]:
        """The order in which the tokens of a frame depend on each other; empty if they do not."""
        return self.within.order if self.within is not None else []

    def forward(self, hidden: Tensor, condition: Tensor) -> Affine:
        """Parameters for whole clips: hidden (B, T, N, C), condition (B, T, D)."""
        previous = torch.cat((torch.zeros_like(hidden[:, :1]), hidden[:, :-1]), dim=1)
        features = self._project(self.past(self.embed(previous), condition))
        flat = (rearrange(x, "b t n d -> (b t) n d") for x in (hidden, features))
        affine = self.affine(*flat)
        return Affine(*(x.reshape(hidden.shape) for x in affine))

    def read_past(self, previous: Tensor, condition: Tensor, cache: WindowCache) -> Tensor:
        """What is known of the next frame: features (B, N, width) for `affine`.

        Args:
            previous: the last frame (B, N, C).
            condition: of the next frame, (B, D).
            cache: of the frames before; the last frame is written into it.
        """
        context = self.past.begin_step(condition, cache)
        return self._project(self.past.step(self.embed(previous), context))

    def affine(self, hidden: Tensor, features: Tensor) -> Affine:
        """Parameters for a frame, one pass: hidden (B, N, C), features as of `read_past`."""
        return self.head(features if self.within is None else self.within(hidden, features))

    def _project(self, features: Tensor) -> Tensor:
        if self.within is None:
            return features
        return self.project(features) + self.within.position
