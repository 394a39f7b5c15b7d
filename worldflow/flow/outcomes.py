"""Which way a token goes: a discrete choice before the affine map, so that a frame can have modes.

Given the tokens before, an affine map makes one normal distribution of a token. A game does one
thing or another: a shot hits or it misses. So a token of the global block has K outcomes, each with
a map of its own, k drawn first:

    p(u_i | u_<i, past) = sum_k p(k | u_<i, past) p_k(u_i | u_<i, past)

(a mixture of flows; the "real and discrete" approach of Dinh et al., 2019, 1903.07714). Each p_k is
the density of an affine map, so the sum is exact. K = 1 is the plain flow, with no parameter here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldflow.flow.affine import Affine, bounded

# Where training starts: the other outcomes are wider than the first, by up to this in log scale,
# and take what it finds improbable; how much more probable the first is, in nats.
WIDEST, PREFERENCE, SPREAD = 1.6, 3.0, 0.3


class Mixture(NamedTuple):
    """The outcomes of tokens.

    Attributes:
        affine: the map of each, (..., K, C).
        log_weights: log p(k | the tokens before), (..., K).
    """

    affine: Affine
    log_weights: Tensor

    def choose(self, chance: Tensor) -> Tensor:
        """Of each token the number (...) of one outcome, by `chance` (...), uniform in [0, 1)."""
        beyond = self.log_weights.exp().cumsum(dim=-1) <= chance[..., None]
        last = self.log_weights.shape[-1] - 1  # rounding may leave the sum below the chance
        return beyond.sum(dim=-1).clamp(max=last)

    def take(self, outcome: Tensor) -> Affine:
        """The maps (..., C) of the outcomes (...)."""
        index = outcome[..., None, None].expand(*outcome.shape, 1, self.affine.mu.shape[-1])
        return Affine(*(x.gather(-2, index)[..., 0, :] for x in self.affine))

    def score(self, x: Tensor) -> Scored:
        """The likelihood of tokens x (..., C)."""
        joint = self.affine.token_log_prob(x[..., None, :]) + self.log_weights
        best = joint.argmax(dim=-1)
        log_weight = self.log_weights.gather(-1, best[..., None])[..., 0]
        return Scored(torch.logsumexp(joint, dim=-1), self.take(best), log_weight)


class Scored(NamedTuple):
    """What is said of tokens that were made or seen.

    Attributes:
        log_prob: log p(u_i | u_<i, past), exact, (...).
        affine: the map of the outcome k that most probably made the token, (..., C).
        log_weight: log p(k | u_<i, past) of that outcome, (...).
    """

    log_prob: Tensor
    affine: Affine
    log_weight: Tensor


def score_alone(affine: Affine, x: Tensor) -> Scored:
    """The likelihood of tokens x (..., C) under the only map that there is."""
    log_prob = affine.token_log_prob(x)
    return Scored(log_prob, affine, torch.zeros_like(log_prob))


class Outcomes(nn.Module):
    """Makes K maps of the one of a plain flow, which stays the first.

    Args:
        count: K.
        width: features of a token.
        channels: C.
    """

    def __init__(self, count: int, width: int, channels: int) -> None:
        super().__init__()
        self.count, self.channels = count, channels
        if count == 1:
            return
        self.norm = nn.LayerNorm(width)
        self.others = nn.Linear(width, 2 * (count - 1) * channels)
        self.weights = nn.Linear(width, count)
        shift = SPREAD * torch.randn(count - 1, channels)
        wider = torch.linspace(0.0, WIDEST, count)[1:, None].expand(-1, channels)
        with torch.no_grad():
            for layer in (self.others, self.weights):
                layer.weight.zero_()
            self.others.bias.copy_(torch.stack((shift, wider)).flatten())
            self.weights.bias.zero_()
            self.weights.bias[0] = PREFERENCE

    def forward(self, features: Tensor, first: Affine) -> Mixture:
        """The outcomes of tokens, in float32 or better also under autocast.

        Args:
            features: (..., width).
            first: the map of the first outcome, (..., C).
        """
        device = features.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self(features.to(self.others.weight.dtype), first)
        features = self.norm(features)
        parts = self.others(features).unflatten(-1, (2, self.count - 1, self.channels))
        shift, wider = parts.unbind(dim=-3)
        mu, log_scale = (x[..., None, :] for x in first)
        affine = Affine(
            torch.cat((mu, mu + shift), dim=-2),
            torch.cat((log_scale, bounded(log_scale + wider)), dim=-2),
        )
        return Mixture(affine, F.log_softmax(self.weights(features), dim=-1))
