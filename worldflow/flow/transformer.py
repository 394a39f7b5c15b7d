"""A transformer over a sliding window of frames of tokens, in full or frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from worldflow.errors import ConfigError
from worldflow.flow.attention import Modulation, TimeRotary, TransformerLayer, attention_bias
from worldflow.flow.cache import LayerCache, WindowCache


@dataclass
class TransformerConfig:
    """Size of a transformer.

    Attributes:
        width: features of a token.
        depth: number of layers; 0 where its place allows for none.
        heads: attention heads; width / heads must be even.
    """

    width: int = 128
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        positive = min(self.width, self.heads) >= 1 and self.depth >= 0
        if not positive or self.width % (2 * self.heads):
            raise ConfigError(
                f"a transformer of width={self.width}, depth={self.depth}, heads={self.heads} "
                "cannot be: none may be negative, width must be a multiple of 2 * heads"
            )


def window_mask(times: Tensor, window: int) -> Tensor:
    """(S, S) bool: tokens at integer `times` (S,) see their own frame and the W - 1 before it."""
    age = times[:, None] - times[None, :]
    return (age >= 0) & (age < window)


@dataclass
class StepContext:
    """What all passes of one step share: who sees whom, rotations, modulations."""

    caches: list[LayerCache]
    bias: Tensor
    rotation: tuple[Tensor, Tensor]
    modulations: list[Modulation]


class VideoTransformer(nn.Module):
    """Layers over frames of tokens, causal by frame, conditioned on one vector a frame.

    `forward` is the masked full computation, `step` the same for one frame after cached ones.

    Args:
        config: the size.
        tokens: N, tokens of a frame.
        window: W, frames that a layer's attention spans, the current one included.
        condition: size of a frame's conditioning vector.
    """

    def __init__(self, config: TransformerConfig, tokens: int, window: int, condition: int) -> None:
        super().__init__()
        self.config, self.tokens, self.window = config, tokens, window
        self.head_dim = config.width // config.heads
        self.position = nn.Parameter(0.02 * torch.randn(tokens, config.width))
        self.rotary = TimeRotary(self.head_dim, window)
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.heads, modulated=True)
            for _ in range(config.depth)
        )
        # of all layers at once; starts at zero, so that conditioning starts as the identity
        self.modulation = nn.Linear(condition, config.depth * 4 * config.width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, T, N, width), condition (B, T, D) to features (B, T, N, width)."""
        frames = x.shape[1]
        x = rearrange(x + self.position, "b t n d -> b (t n) d")
        times = torch.arange(frames, device=x.device).repeat_interleave(self.tokens)
        bias = attention_bias(window_mask(times, self.window), like=x)
        rotation = self.rotary(times)
        for layer, modulation in zip(self.layers, self._modulations(condition), strict=True):
            # one for a frame, the same for all its tokens
            parts = (repeat(part, "b t d -> b (t n) d", n=self.tokens) for part in modulation)
            x = layer(x, bias, Modulation(*parts), rotation)
        return rearrange(x, "b (t n) d -> b t n d", n=self.tokens)

    def empty_cache(self, batch: int) -> WindowCache:
        """A cache of no frames for `batch` rows."""
        return WindowCache.empty(
            self.config.depth,
            batch,
            self.config.heads,
            self.window,
            self.tokens,
            self.head_dim,
            like=self.position,
        )

    def begin_step(self, condition: Tensor, cache: WindowCache) -> StepContext:
        """Prepare the passes over the frame at `cache.time` under its condition (B, D).

        The passes write the frame's keys and values into `cache`; the last pass's stay there.
        """
        cos, sin = self.rotary(cache.time)
        return StepContext(
            caches=cache.layers(),
            bias=attention_bias(cache.mask(self.tokens), like=condition),
            rotation=(cos[:, None, None], sin[:, None, None]),
            modulations=self._modulations(condition[:, None]),
        )

    def step(self, x: Tensor, context: StepContext) -> Tensor:
        """One pass over the current frame: x (B, N, width) to features (B, N, width)."""
        x = x + self.position
        for index, layer in enumerate(self.layers):
            x = layer(
                x,
                context.bias,
                context.modulations[index],
                context.rotation,
                context.caches[index],
            )
        return x

    def _modulations(self, condition: Tensor) -> list[Modulation]:
        """Of each layer, from a condition (B, T, D)."""
        scales, shifts = self.modulation(condition).chunk(2, dim=-1)
        # two of each a layer: of the attention's norm and of the MLP's
        parts = zip(
            (1.0 + scales).split(self.config.width, dim=-1),
            shifts.split(self.config.width, dim=-1),
            strict=True,
        )
        return [Modulation(*first, *second) for first, second in zip(parts, parts, strict=True)]
