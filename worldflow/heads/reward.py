"""The head that predicts the reward, from the denoiser's features of the frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldflow.heads.termination import trunk

REWARD_BINS = 41


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): one set of bins serves small and large rewards (DreamerV3)."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(x.abs())


class RewardHead(nn.Module):
    """A categorical over bins between the data's extremes, trained on two-hot targets (DreamerV3).

    Args:
        low: the smallest reward of the data.
        high: the largest.
    """

    bins: Tensor

    def __init__(self, tokens: int, width: int, hidden: int, low: float, high: float) -> None:
        super().__init__()
        self.trunk = trunk(tokens, width, hidden, REWARD_BINS)
        # read here, also while the rest is built without memory, on the meta device
        limits = symlog(torch.tensor([low, high], dtype=torch.float64, device="cpu"))
        if limits[1] - limits[0] < 1e-6:  # a constant reward: any bin width will do
            limits = limits + torch.tensor([-0.5, 0.5], dtype=torch.float64, device="cpu")
        bins = torch.linspace(float(limits[0]), float(limits[1]), REWARD_BINS)
        self.register_buffer("bins", bins, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """features (..., N, width) to logits (..., bins)."""
        return self.trunk(rearrange(features, "... n d -> ... (n d)"))

    def loss(self, logits: Tensor, rewards: Tensor) -> Tensor:
        """Cross-entropy (...) against two-hot targets of rewards (...)."""
        target = symlog(rewards).clamp(self.bins[0], self.bins[-1])
        upper = torch.searchsorted(self.bins, target.contiguous()).clamp(1, len(self.bins) - 1)
        left, right = self.bins[upper - 1], self.bins[upper]
        weight = ((target - left) / (right - left)).clamp(0.0, 1.0)[..., None]
        log_p = F.log_softmax(logits, dim=-1)
        below = log_p.gather(-1, (upper - 1)[..., None])
        above = log_p.gather(-1, upper[..., None])
        return -((1.0 - weight) * below + weight * above).squeeze(-1)

    def mean(self, logits: Tensor) -> Tensor:
        """The expected reward (...)."""
        return (F.softmax(logits, dim=-1) * symexp(self.bins)).sum(-1)
