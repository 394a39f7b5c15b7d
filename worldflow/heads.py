"""Reward and termination, read from the denoiser's features of the frame they arrive with.

Termination may be read from the flow's features of the past instead: then it is drawn beside the
frame and not from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldflow.errors import ConfigError

REWARD_BINS = 41
FRAME, PAST = "frame", "past"


@dataclass
class HeadsConfig:
    """Which heads a world has.

    Attributes:
        hidden: width of each head's hidden layer.
        termination_reads: "frame": what is seen of the frame decides whether it is the last.
            "past": the end is a hazard of the past and the action. For games whose frames do not
            show what ends them, or show it in so few frames that the flow draws them too rarely:
            the hazard is right on average over the frames that can follow, whichever is drawn. Of
            guided dreams it is that without guidance.
        reward: whether rewards are predicted; null: pretraining decides, by whether the data have
            them.
        termination: the same of terminations.
    """

    hidden: int = 128
    termination_reads: str = FRAME
    reward: bool | None = True
    termination: bool | None = True

    def __post_init__(self) -> None:
        if self.termination_reads not in (FRAME, PAST):
            raise ConfigError(
                f"heads.termination_reads is {self.termination_reads!r}; use {FRAME} or {PAST}"
            )


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): one set of bins serves small and large rewards (DreamerV3)."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(x.abs())


def _trunk(tokens: int, width: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(tokens * width, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class RewardHead(nn.Module):
    """A categorical over bins between the data's extremes, trained on two-hot targets (DreamerV3).

    Args:
        low: the smallest reward of the data.
        high: the largest.
    """

    bins: Tensor

    def __init__(self, tokens: int, width: int, hidden: int, low: float, high: float) -> None:
        super().__init__()
        self.trunk = _trunk(tokens, width, hidden, REWARD_BINS)
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


class TerminationHead(nn.Module):
    """The probability that the episode ends with this frame.

    Args:
        tokens: N.
        widths: of the features of the frame and of its past.
        hidden: width of the hidden layer.
        reads: which of them it reads, see `HeadsConfig`.
    """

    def __init__(self, tokens: int, widths: tuple[int, int], hidden: int, reads: str) -> None:
        super().__init__()
        self.reads_past = reads == PAST
        self.trunk = _trunk(tokens, widths[1] if self.reads_past else widths[0], hidden, 1)

    def forward(self, frame: Tensor, past: Tensor) -> Tensor:
        """Logits (...).

        Args:
            frame: the denoiser's features of the frame, (..., N, width).
            past: the flow's of what came before, see `GlobalBlock.forward`.
        """
        features = past if self.reads_past else frame
        return self.trunk(rearrange(features, "... n d -> ... (n d)")).squeeze(-1)

    def loss(self, logits: Tensor, terminated: Tensor) -> Tensor:
        """Binary cross-entropy (...) against terminated (...) in {0, 1}."""
        return F.binary_cross_entropy_with_logits(logits, terminated.float(), reduction="none")

    def probability(self, logits: Tensor) -> Tensor:
        """Of termination, (...)."""
        return torch.sigmoid(logits)


def build_heads(
    config: HeadsConfig, tokens: int, widths: tuple[int, int], rewards: tuple[float, float]
) -> tuple[RewardHead | None, TerminationHead | None]:
    """The heads that a world has, for reward and termination.

    Args:
        config: which.
        tokens: N.
        widths: of the denoiser's features of a frame, and of the flow's of its past.
        rewards: the smallest and the largest of the data.
    """
    reward = termination = None
    if config.reward:
        reward = RewardHead(tokens, widths[0], config.hidden, *rewards)
    if config.termination:
        reads = config.termination_reads
        termination = TerminationHead(tokens, widths, config.hidden, reads)
    return reward, termination
