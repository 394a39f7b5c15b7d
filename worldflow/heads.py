"""Which heads a world has, and that of the reward, read from the denoiser's features of the frame.

Those of termination are in `worldflow.termination` and `worldflow.episode_memory`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldflow.episode_memory import EpisodeTerminationHead
from worldflow.errors import ConfigError
from worldflow.termination import EPISODE, FRAME, READS, EndHead, TerminationHead, trunk

REWARD_BINS = 41


@dataclass
class HeadsConfig:
    """Which heads a world has.

    Attributes:
        hidden: width of each head's hidden layer.
        termination_reads: "frame": what is seen of the frame decides whether it is the last.
            "past": the end is a hazard of the past and the action. For games whose frames do not
            show what ends them, or show it in so few frames that the flow draws them too rarely:
            the hazard is right on average over the frames that can follow, whichever is drawn. Of
            guided dreams it is that without guidance. "episode": a hazard too, but of all of the
            episode, with features and a memory of its own: for games in which what ends them can
            be out of view for longer than the flow cares to remember. To be trained last and on
            clips as long as episodes, by `training.flow.part=end`.
        reward: whether rewards are predicted; null: pretraining decides, by whether the data have
            them.
        termination: the same of terminations.
    """

    hidden: int = 128
    termination_reads: str = FRAME
    reward: bool | None = True
    termination: bool | None = True

    def __post_init__(self) -> None:
        if self.termination_reads not in READS:
            raise ConfigError(
                f"heads.termination_reads is {self.termination_reads!r}; use one of "
                f"{', '.join(READS)}"
            )


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


def build_heads(
    config: HeadsConfig,
    tokens: int,
    widths: tuple[int, int],
    inputs: tuple[int, int],
    rewards: tuple[float, float],
) -> tuple[RewardHead | None, EndHead | None]:
    """The heads that a world has, for reward and termination.

    Args:
        config: which.
        tokens: N.
        widths: of the denoiser's features of a frame, and of the flow's of its past.
        inputs: channels of the latents, C, and size of a frame's conditioning vector, D.
        rewards: the smallest and the largest of the data.
    """
    reward: RewardHead | None = None
    termination: EndHead | None = None
    if config.reward:
        reward = RewardHead(tokens, widths[0], config.hidden, *rewards)
    if config.termination and config.termination_reads == EPISODE:
        termination = EpisodeTerminationHead(tokens, *inputs, config.hidden)
    elif config.termination:
        reads = config.termination_reads
        termination = TerminationHead(tokens, widths, config.hidden, reads)
    return reward, termination
