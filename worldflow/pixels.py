"""The likelihood of a frame's bytes given what the codec decodes: p(x | y~)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

START = 16.0  # grey levels, the scale before any training
# The parameter is log(scale) / RATE: AdamW moves a parameter by about the learning rate an update,
# so that from tens of grey levels to one would otherwise take thousands of updates.
RATE = 10.0
LIMITS = (0.02, 500.0)  # grey levels, within which the scale is fitted
FIT_ROUNDS = 30  # of the golden section: the logarithm is then known to 1e-5


class PixelLikelihood(nn.Module):
    """Independent logistics around the decoded frame, of whole grey levels.

    Level v has the mass of [v - 1/2, v + 1/2] divided by that of [-1/2, 255 + 1/2]: the 256
    probabilities sum to one. There is one scale for each colour channel. The tails are cut off, and
    not given to 0 and 255 as is common: frames with much black and white would favour any large
    scale, which makes a coin of these two, or a decoder that overshoots, which none in two stages
    learns.

    It is trained together with the codec, or fitted when the codec is done. A world of a time
    before it has NaN here.
    """

    def __init__(self) -> None:
        super().__init__()
        start = torch.full((3,), math.log(START) / RATE)
        self.log_scale = nn.Parameter(start, requires_grad=False)

    @property
    def fitted(self) -> bool:
        """Whether there is a scale."""
        return bool(self.log_scale.isfinite().all())

    @property
    def scale(self) -> Tensor:
        """Of each colour channel, in grey levels: (3,)."""
        return (RATE * self.log_scale).exp()

    def forward(self, decoded: Tensor, frames: Tensor) -> Tensor:
        """log p of whole frames, (B,) nats.

        Args:
            decoded: (B, 3, H, W), about in [-1, 1]; it may lie outside.
            frames: (B, H, W, 3) uint8.
        """
        centre, levels = _in_grey_levels(decoded, frames)
        return _log_prob(centre, levels, RATE * self.log_scale).sum(dim=(1, 2, 3))

    @torch.no_grad()
    def fit(self, decoded: Tensor, frames: Tensor) -> None:
        """Set the scales to the likeliest ones for these frames, of the shapes of `forward`.

        By golden-section search, in all channels at once.
        """
        centre, levels = _in_grey_levels(decoded, frames)

        def likelihood(log_scale: Tensor) -> Tensor:
            return _log_prob(centre, levels, log_scale).double().sum(dim=(0, 2, 3))

        golden = (math.sqrt(5.0) - 1.0) / 2.0
        low, high = (torch.full_like(self.log_scale, math.log(limit)) for limit in LIMITS)
        inner = high - golden * (high - low), low + golden * (high - low)
        values = likelihood(inner[0]), likelihood(inner[1])
        for _ in range(FIT_ROUNDS):
            left = values[0] > values[1]  # the maximum lies below the upper one of the inner points
            low, high = torch.where(left, low, inner[0]), torch.where(left, inner[1], high)
            new = torch.where(left, high - golden * (high - low), low + golden * (high - low))
            value = likelihood(new)
            inner, values = (
                (torch.where(left, new, inner[1]), torch.where(left, inner[0], new)),
                (torch.where(left, value, values[1]), torch.where(left, values[0], value)),
            )
        self.log_scale.copy_((low + high) / 2.0 / RATE)


def _in_grey_levels(decoded: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (B, 3, H, W), in float32 or better."""
    decoded = decoded.to(torch.promote_types(decoded.dtype, torch.float32))
    return (decoded + 1.0) * 127.5, frames.movedim(-1, -3).to(decoded.dtype)


def _log_prob(centre: Tensor, levels: Tensor, log_scale: Tensor) -> Tensor:
    """The mass of each level over that of all 256, elementwise.

    Both are S(b) - S(a), with the borders a < b and S the logistic function, taken as
    log S(b) + log S(-a) + log(1 - exp(a - b)), whose terms are exact however far out.
    """
    inverse = (-log_scale)[:, None, None].exp()
    below, lowest = (levels - 0.5 - centre) * inverse, (-0.5 - centre) * inverse
    above, highest = below + inverse, lowest + 256.0 * inverse
    mass = F.logsigmoid(above) + F.logsigmoid(-below)
    whole = F.logsigmoid(highest) + F.logsigmoid(-lowest)
    widths = torch.expm1(-inverse) / torch.expm1(-256.0 * inverse)
    return mass - whole + widths.log()
