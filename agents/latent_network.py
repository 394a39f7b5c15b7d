"""A network for latents that looks at every token with the same eyes."""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from worldflow.errors import ConfigError


class SharedTokens(BaseFeaturesExtractor):
    """Latents (B, N, C * frame_stack) to features (B, features_dim).

    One small network reads every token, as a convolution would read every place of a picture, and
    one layer sees what it found in all of them. So what is learned of a thing in one place is known
    in all others, which a network over all latents at once must learn N times.

    Args:
        space: of what is seen.
        features_dim: width of the output.
        width: of the hidden layer of the shared network.
        token_features: numbers that it gives of each token.

    Raises:
        ConfigError: the space is not of latents.
    """

    def __init__(
        self, space: spaces.Space, features_dim: int, width: int = 128, token_features: int = 32
    ) -> None:
        if space.shape is None or len(space.shape) != 2:
            raise ConfigError(f"latents are (N, C), but the agent sees {space}")
        super().__init__(space, features_dim)
        tokens, channels = space.shape
        self.token = nn.Sequential(
            nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, token_features), nn.SiLU()
        )
        self.together = nn.Sequential(nn.Linear(tokens * token_features, features_dim), nn.SiLU())

    def forward(self, latents: Tensor) -> Tensor:
        """Features of latents."""
        return self.together(self.token(latents).flatten(1))
