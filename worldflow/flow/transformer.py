"""A transformer over a sliding window of frames of tokens, in full or frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from worldflow.errors import ConfigError
from worldflow.flow.attention import TimeRotary, TransformerLayer, attention_bias
from worldflow.flow.cache import LayerCache, WindowCache


@dataclass
class TransformerConfig:
    """Size of a transformer.

    Attributes:
        width: features of a token.
        depth: number of layers; 0 leaves the embeddings alone.
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


def within_frame_mask(tokens: int, causal: bool) -> Tensor:
    """(N, N) bool: what a token sees of its own frame (itself and before it, or everything)."""
    mask = torch.ones(tokens, tokens, dtype=torch.bool)
    return mask.tril() if causal else mask


def window_mask(frames: int, window: int, within: Tensor) -> Tensor:
    """(T * N, T * N) bool: past frames closer than `window` whole, the own frame by `within`."""
    times = torch.arange(frames, device=within.device)
    age = times[:, None] - times[None, :]
    past = ((age > 0) & (age < window))[:, None, :, None]
    current = (age == 0)[:, None, :, None] & within[None, :, None, :]
    return rearrange(past | current, "t n s m -> (t n) (s m)")


@dataclass
class StepContext:
    """What all passes of one step share: who sees whom, rotations, modulations."""

    caches: list[LayerCache]
    bias: Tensor
    rotation: tuple[Tensor, Tensor]
    modulations: list[tuple[Tensor, ...] | None]


class VideoTransformer(nn.Module):
    """Layers over tokens in (time, token) order, conditioned on one vector a frame.

    `forward` is the masked full computation, `step` the same for one frame after cached ones.

    Args:
        config: the size.
        tokens: N, tokens of a frame.
        window: W, frames that a layer's attention spans, the current one included.
        condition: size of a frame's conditioning vector.
        causal: whether a token sees only itself and earlier tokens of its own frame, or all.
    """

    within: Tensor

    def __init__(
        self, config: TransformerConfig, tokens: int, window: int, condition: int, causal: bool
    ) -> None:
        super().__init__()
        self.config, self.tokens, self.window = config, tokens, window
        self.head_dim = config.width // config.heads
        self.position = nn.Parameter(0.02 * torch.randn(tokens, config.width))
        self.rotary = TimeRotary(self.head_dim, window)
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.heads, condition) for _ in range(config.depth)
        )
        self.register_buffer("within", within_frame_mask(tokens, causal), persistent=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, T, N, width), condition (B, T, D) to features (B, T, N, width)."""
        frames = x.shape[1]
        x = rearrange(x + self.position, "b t n d -> b (t n) d")
        bias = attention_bias(window_mask(frames, self.window, self.within), like=x)
        times = torch.arange(frames, device=x.device).repeat_interleave(self.tokens)
        rotation = self.rotary(times)
        for layer in self._layers():
            modulation = layer.modulate(condition)
            if modulation is not None:  # one for a frame, the same for all its tokens
                modulation = tuple(
                    repeat(part, "b t d -> b (t n) d", n=self.tokens) for part in modulation
                )
            x = layer(x, bias, modulation, rotation)
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
            bias=attention_bias(cache.mask(self.within), like=condition),
            rotation=(cos[:, None, None], sin[:, None, None]),
            modulations=[layer.modulate(condition[:, None]) for layer in self._layers()],
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

    def _layers(self) -> list[TransformerLayer]:
        return [layer for layer in self.layers if isinstance(layer, TransformerLayer)]
