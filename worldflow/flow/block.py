"""The blocks of the flow: autoregressive affine maps within a frame and across frames.

A block gives the parameters (mu, scale) of each token from the tokens before it in the block's
order. Its forward direction is one pass; its inverse is the sampler's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflow.errors import ConfigError
from worldflow.flow.affine import Affine, AffineHead
from worldflow.flow.attention import TransformerLayer, attention_bias
from worldflow.flow.cache import WindowCache
from worldflow.flow.outcomes import Mixture, Outcomes, Scored, score_alone
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
        outcomes: K, ways that a token can go, see `worldflow.flow.outcomes`; 1: a plain flow.
    """

    past: TransformerConfig = field(default_factory=lambda: TransformerConfig(192, 5, 6))
    within: TransformerConfig = field(default_factory=lambda: TransformerConfig(128, 1, 4))
    outcomes: int = 1

    def __post_init__(self) -> None:
        if self.past.depth < 1:
            raise ConfigError("global_block.past.depth is 0; the past would not be read")
        if self.outcomes < 1:
            raise ConfigError(f"global_block.outcomes is {self.outcomes}; 1 is the least")


class GlobalBlock(nn.Module):
    """Autoregressive over tokens in (time, token) order, conditioned on the actions.

    A deep transformer reads all that is known before the frame is made; a shallow one adds the
    tokens of the frame itself that came before. So a step runs the deep one once, and the sampler
    iterates over the shallow one alone.

        h_t = past(u_<t, a_<=t)        (mu, scale)_(t, i) = head(within(h_t, u_(t, <i)))

    With several outcomes there are as many (mu, scale), of which one is drawn.

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
        self.features = width  # of what `affine` is given
        self.outcomes = Outcomes(config.outcomes, width, channels)
        self.head = AffineHead(width, channels)

    @property
    def order(self) -> list[int]:
        """The order in which the tokens of a frame depend on each other; empty if they do not."""
        return self.within.order if self.within is not None else []

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """What is known of each frame of whole clips: features (B, T, N, width) for `affine`.

        Args:
            hidden: (B, T, N, C).
            condition: (B, T, D).
        """
        return self.project_past(self.past_of(hidden, condition))

    def past_of(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """The deep transformer's part of `forward`: features (B, T, N, width of the past)."""
        previous = torch.cat((torch.zeros_like(hidden[:, :1]), hidden[:, :-1]), dim=1)
        return self.past(self.embed(previous), condition)

    def project_past(self, past: Tensor) -> Tensor:
        """The rest of `forward`: features (..., N, width) for `affine` from those of `past_of`."""
        if self.within is None:
            return past
        return self.project(past) + self.within.position

    def read_past(self, previous: Tensor, condition: Tensor, cache: WindowCache) -> Tensor:
        """What is known of the next frame: features (B, N, width) for `affine`.

        Args:
            previous: the last frame (B, N, C).
            condition: of the next frame, (B, D).
            cache: of the frames before; the last frame is written into it.
        """
        context = self.past.begin_step(condition, cache)
        return self.project_past(self.past.step(self.embed(previous), context))

    def affine(self, hidden: Tensor, features: Tensor, chance: Tensor | None = None) -> Affine:
        """Parameters for a frame, one pass.

        Args:
            hidden: (B, N, C).
            features: as of `read_past`.
            chance: chooses the outcome of each token, (B, N) in [0, 1); None: there is one only.

        Raises:
            ValueError: there are several outcomes, and no chance.
        """
        if chance is not None:
            mixture = self._mixture(hidden, features)
            return mixture.take(mixture.choose(chance))
        if self.outcomes.count > 1:
            raise ValueError("a token has several outcomes here: give the chance of each")
        return self.head(self._inside(hidden, features))

    def mixture(self, hidden: Tensor, features: Tensor) -> Mixture:
        """The outcomes of the tokens of a frame, one pass, as `affine`."""
        return self._mixture(hidden, features)

    def _mixture(self, hidden: Tensor, features: Tensor) -> Mixture:
        # of its own, so that a compiled `affine` does not pass through a compiled `mixture`
        inside = self._inside(hidden, features)
        return self.outcomes(inside, self.head(inside))

    def score(self, hidden: Tensor, features: Tensor) -> Scored:
        """The likelihood of the tokens of frames: hidden (M, N, C), features (M, N, width)."""
        if self.outcomes.count == 1:
            return score_alone(self.affine(hidden, features), hidden)
        return self.mixture(hidden, features).score(hidden)

    def _inside(self, hidden: Tensor, features: Tensor) -> Tensor:
        return features if self.within is None else self.within(hidden, features)
