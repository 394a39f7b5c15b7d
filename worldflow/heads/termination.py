"""The end of an episode, read from the frame it comes with or from what the flow knows before it.

Read from the past it is a hazard: drawn beside the frame and not from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldflow.errors import DataError

if TYPE_CHECKING:
    from worldflow.heads.episode_memory import EpisodeMemory

FRAME, PAST, EPISODE = READS = ("frame", "past", "episode")


def trunk(tokens: int, width: int, hidden: int, outputs: int) -> nn.Sequential:
    """A layer over all tokens at once, and one that reads it."""
    return nn.Sequential(nn.Linear(tokens * width, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class EndHead(nn.Module, ABC):
    """What a world can draw the end of an episode from.

    Attributes:
        reads: one of `READS`, see `worldflow.heads.HeadsConfig`.
    """

    reads: str

    @abstractmethod
    def of_clips(self, features: Tensor, past: Tensor, noisy: Tensor, condition: Tensor) -> Tensor:
        """Logits (B, T) of whole clips, from what the head reads of them.

        Args:
            features: of the denoiser, (B, T, N, width).
            past: what the flow knows before each frame, (B, T, N, width of the past).
            noisy: latents (B, T, N, C).
            condition: (B, T, D).
        """

    @abstractmethod
    def begin(self, like: Tensor) -> EpisodeMemory | None:
        """What it remembers of B episodes that have not begun; None without a memory.

        Args:
            like: has their latents' shape (B, N, C).
        """

    @abstractmethod
    def step(
        self,
        memory: EpisodeMemory | None,
        features: Tensor,
        past: Tensor,
        noisy: Tensor,
        condition: Tensor,
    ) -> tuple[Tensor, EpisodeMemory | None]:
        """Logits (B,) of the next frames, and what is remembered once these have come.

        Args:
            memory: of all before.
            features, past, noisy, condition: of the next frames, as in `of_clips`, without T.

        Raises:
            DataError: the memory is not of this head.
        """

    def loss(self, logits: Tensor, terminated: Tensor) -> Tensor:
        """Binary cross-entropy (...) against terminated (...) in {0, 1}."""
        return F.binary_cross_entropy_with_logits(logits, terminated.float(), reduction="none")

    def probability(self, logits: Tensor) -> Tensor:
        """Of termination, (...)."""
        return torch.sigmoid(logits)


class TerminationHead(EndHead):
    """The probability that the episode ends with this frame.

    Args:
        tokens: N.
        widths: of the features of the frame and of its past.
        hidden: width of the hidden layer.
        reads: `FRAME` or `PAST`.
    """

    def __init__(self, tokens: int, widths: tuple[int, int], hidden: int, reads: str) -> None:
        super().__init__()
        self.reads = reads
        self.trunk = trunk(tokens, widths[1] if reads == PAST else widths[0], hidden, 1)

    def forward(self, frame: Tensor, past: Tensor) -> Tensor:
        """Logits (...).

        Args:
            frame: the denoiser's features of the frame, (..., N, width).
            past: the flow's of what came before, see `GlobalBlock.forward`.
        """
        features = past if self.reads == PAST else frame
        return self.trunk(rearrange(features, "... n d -> ... (n d)")).squeeze(-1)

    def of_clips(self, features: Tensor, past: Tensor, noisy: Tensor, condition: Tensor) -> Tensor:
        """See `EndHead.of_clips`."""
        return self(features, past)

    def begin(self, like: Tensor) -> None:
        """It has no memory."""

    def step(
        self,
        memory: EpisodeMemory | None,
        features: Tensor,
        past: Tensor,
        noisy: Tensor,
        condition: Tensor,
    ) -> tuple[Tensor, None]:
        """See `EndHead.step`."""
        if memory is not None:
            raise DataError("this state is of another world, whose head of the end has a memory")
        return self(features, past), None
