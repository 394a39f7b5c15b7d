"""The affine map of the flow, the only place where its formula stands (STARFlow-V, section 3).

Data to noise:  z = (x - mu) / scale.     Noise to data:  x = mu + scale * z.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

LOG_SCALE_BOUND = 4.0


class Affine(NamedTuple):
    """Parameters of the map, each of the shape of x; scale = exp(log_scale)."""

    mu: Tensor
    log_scale: Tensor

    def to_noise(self, x: Tensor) -> Tensor:
        """z = (x - mu) / scale; its log-determinant is `-log_scale` summed."""
        return (x - self.mu) * torch.exp(-self.log_scale)

    def to_data(self, z: Tensor) -> Tensor:
        """x = mu + scale * z."""
        return torch.addcmul(self.mu, torch.exp(self.log_scale), z)

    def token_log_prob(self, x: Tensor) -> Tensor:
        """log p of tokens x (..., C), (...): log N(z; 0, 1) less log scale, over the channels."""
        return (standard_normal_log_prob(self.to_noise(x)) - self.log_scale).sum(dim=-1)


class AffineHead(nn.Module):
    """Projects features (..., width) to the parameters of an affine map over (..., channels).

    The projection starts at zero, so a new flow is the identity. It runs in the precision of its
    weights, also under autocast, since errors of the scale are errors of the likelihood.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, which stay in float32 or better."""
        return self.projection.weight.dtype

    def forward(self, features: Tensor) -> Affine:
        device = features.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self(features.to(self.dtype))
        mu, raw = self.projection(self.norm(features)).chunk(2, dim=-1)
        return Affine(mu, bounded(raw))


def bounded(log_scale: Tensor) -> Tensor:
    """Smooth and bounded: no token can be squeezed or stretched by more than e^4."""
    return LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, 1), elementwise, in nats."""
    return -0.5 * z.square() - 0.5 * math.log(2.0 * math.pi)
