"""The flow-score denoiser: from the noisy frame that the flow samples to the one that is shown.

The optimal denoiser of y~ = y + sigma * noise is Tweedie's formula E[y | y~] = y~ + sigma^2 score.
The flow gives the score by autograd, but at the cost of a backward pass and with the roughness of
an exact gradient; the denoiser learns it as a causal network instead (STARFlow-V, "flow-score
matching").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from worldflow.errors import ConfigError
from worldflow.flow.cache import WindowCache
from worldflow.flow.transformer import TransformerConfig, VideoTransformer


@dataclass
class DenoiserConfig:
    """Size of the denoiser.

    Attributes:
        window: frames that it sees, the current one included.
        lookahead: 0 (a frame is denoised when it appears: stepping) or 1 (the next noisy frame is
            seen too, as in the paper: offline video only).
        transformer: its size.
    """

    window: int = 4
    lookahead: int = 0
    transformer: TransformerConfig = field(default_factory=lambda: TransformerConfig(128, 4, 4))

    def __post_init__(self) -> None:
        if self.lookahead not in (0, 1):
            raise ConfigError(f"denoiser.lookahead is {self.lookahead}; use 0 or 1")
        if self.window < 1:
            raise ConfigError(f"denoiser.window is {self.window}; it must be positive")


class Denoiser(nn.Module):
    """Predicts sigma * d(-log p)/d(y~) of whole frames, causal by frame.

    Args:
        config: size.
        tokens: N.
        channels: C.
        condition: size of a frame's conditioning vector.
    """

    def __init__(self, config: DenoiserConfig, tokens: int, channels: int, condition: int) -> None:
        super().__init__()
        self.config = config
        width = config.transformer.width
        self.embed = nn.Linear(channels * (1 + config.lookahead), width)
        self.transformer = VideoTransformer(config.transformer, tokens, config.window, condition)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, channels)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, noisy: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Whole clips: noisy (B, T, N, C), condition (B, T, D).

        Returns:
            prediction (B, T, N, C) and features (B, T, N, width), the latter read by the heads.
        """
        inputs = noisy
        if self.config.lookahead:
            following = torch.cat((noisy[:, 1:], torch.zeros_like(noisy[:, :1])), dim=1)
            inputs = torch.cat((noisy, following), dim=-1)
        features = self.norm(self.transformer(self.embed(inputs), condition))
        return self.projection(features), features

    def empty_cache(self, batch: int) -> WindowCache:
        """The cache before the first frame."""
        return self.transformer.empty_cache(batch)

    def step(
        self,
        noisy: Tensor,
        condition: Tensor,
        cache: WindowCache,
        following: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, WindowCache]:
        """One frame: noisy (B, N, C), condition (B, D); equals `forward` at that frame.

        Args:
            noisy: the frame.
            condition: of the frame.
            cache: of the frames before.
            following: the frame behind it, of a denoiser that looks ahead; zeros at the end.

        Returns:
            prediction (B, N, C), features (B, N, width), and the cache one frame later.

        Raises:
            ConfigError: the denoiser looks ahead, so it cannot step without that frame.
        """
        inputs = noisy
        if self.config.lookahead and following is not None:
            inputs = torch.cat((noisy, following), dim=-1)
        elif self.config.lookahead:
            raise ConfigError("a denoiser with lookahead=1 cannot step; pretrain with lookahead=0")
        cache = cache.clone()
        context = self.transformer.begin_step(condition, cache)
        features = self.norm(self.transformer.step(self.embed(inputs), context))
        return self.projection(features), features, cache.advanced()

    def stream(self, noisy: Sequence[Tensor], condition: Tensor, sigma: float) -> Iterator[Tensor]:
        """Denoise a clip of any length, frame by frame, with or without a look ahead.

        Args:
            noisy: T frames (B, N, C).
            condition: (B, T, D).
            sigma: of the noise.

        Yields:
            denoised latents (B, N, C) of each frame.
        """
        cache = self.empty_cache(len(condition))
        for t, frame in enumerate(noisy):
            following = noisy[t + 1] if t + 1 < len(noisy) else torch.zeros_like(frame)
            score, _, cache = self.step(frame, condition[:, t], cache, following)
            yield tweedie(frame, score, sigma)


def tweedie(noisy: Tensor, prediction: Tensor, sigma: float) -> Tensor:
    """y = y~ - sigma * prediction, where prediction estimates sigma * d(-log p)/d(y~)."""
    return noisy - sigma * prediction
