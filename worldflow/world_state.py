"""What a world remembers of a dream, and what a step of it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from worldflow.flow.cache import WindowCache
from worldflow.flow.flow import FlowState
from worldflow.flow.guidance import Guidance
from worldflow.heads.episode_memory import EpisodeMemory


@dataclass(frozen=True)
class WorldState:
    """The past of B dreams. No step changes it, so it can be kept, stepped again and branched.

    Attributes:
        flow: what the flow remembers.
        denoiser: what the denoiser remembers.
        latents: the last frame, denoised, (B, N, C); `WorldModel.decode` shows it.
        text: what the dreams are about, (B, E), zeros where nothing was said; None in a world that
            knows no text.
        guidance: of every frame to come.
        episode: what the head of the end remembers; None in a world whose head has no memory.
    """

    flow: FlowState
    denoiser: WindowCache
    latents: Tensor
    text: Tensor | None = None
    guidance: Guidance = field(default_factory=Guidance)
    episode: EpisodeMemory | None = None

    def __len__(self) -> int:
        """B."""
        return len(self.latents)

    def rows(self, index: Tensor) -> WorldState:
        """The rows `index` (B',) int64, in that order and as often as they are named."""
        return WorldState(
            self.flow.rows(index),
            self.denoiser.rows(index),
            self.latents.index_select(0, index),
            None if self.text is None else self.text.index_select(0, index),
            self.guidance,
            None if self.episode is None else self.episode.rows(index),
        )

    def assign(self, index: Tensor, other: WorldState) -> None:
        """Overwrite the rows `index` (B',) by those of `other`, in order.

        In place, at a cost of these rows alone: for whoever holds the only reference to a state,
        under `torch.inference_mode`.

        Raises:
            ValueError: they are not of one world, or guided differently.
        """
        self._check_alike(other)
        self.flow.assign(index, other.flow)
        self.denoiser.assign(index, other.denoiser)
        self.latents.index_copy_(0, index, other.latents)
        if self.text is not None and other.text is not None:
            self.text.index_copy_(0, index, other.text)
        if self.episode is not None and other.episode is not None:
            self.episode.assign(index, other.episode)

    @staticmethod
    def where(rows: Tensor, a: WorldState, b: WorldState) -> WorldState:
        """Rows of `a` where `rows` (B,) bool is true, rows of `b` elsewhere.

        Raises:
            ValueError: they are not of one world, or guided differently.
        """
        a._check_alike(b)
        text = None
        if a.text is not None and b.text is not None:
            text = torch.where(rows[:, None], a.text, b.text)
        episode = None
        if a.episode is not None and b.episode is not None:
            episode = EpisodeMemory.where(rows, a.episode, b.episode)
        return WorldState(
            FlowState.where(rows, a.flow, b.flow),
            WindowCache.where(rows, a.denoiser, b.denoiser),
            torch.where(rows[:, None, None], a.latents, b.latents),
            text,
            a.guidance,
            episode,
        )

    def _check_alike(self, other: WorldState) -> None:
        optional = zip((self.text, self.episode), (other.text, other.episode), strict=True)
        if self.guidance != other.guidance or any((a is None) != (b is None) for a, b in optional):
            raise ValueError("dreams of two worlds or guidances cannot be rows of one state")


@dataclass(frozen=True)
class Scores:
    """What the flow says of frames; all of one shape.

    Attributes:
        log_likelihood: of the frame's noisy latents, given past and actions, in nats; exact.
        bits_per_dim: the same in bits for each latent.
        uncertainty: the predicted frame's entropy in nats, estimated from the scales along the
            scored frame (later scales depend on the tokens before them).
        novelty: how rare the frame would be among held-out real ones, in standard deviations; 0 is
            typical, see `worldflow.novelty`.
        token_uncertainty: of the frame's tokens (..., N), nats; their sum is `uncertainty`.
        token_statistics: what novelty is made of, (..., N, J), see `worldflow.scoring`.
    """

    log_likelihood: Tensor
    bits_per_dim: Tensor
    uncertainty: Tensor
    novelty: Tensor
    token_uncertainty: Tensor
    token_statistics: Tensor

    @property
    def statistics(self) -> Tensor:
        """Of whole frames, (..., J): the mean over tokens."""
        return self.token_statistics.mean(dim=-2)


@dataclass(frozen=True)
class Prediction(Scores):
    """One dreamed frame of each row.

    Attributes:
        latents: denoised, (B, N, C).
        decode: from latents to frames, see `frame`.
        reward: (B,), or None for a world without a reward head, and of a first frame.
        terminated: (B,) bool, or None for a world without a termination head, likewise.
        termination_probability: with which `terminated` was drawn, (B,), or None.
        jacobi_iterations: passes of each block, the global one first, (B, blocks) int64.
        sequential_fallbacks: blocks whose iterates were not finite, so that they were inverted one
            token after another, (B,) int64.
    """

    latents: Tensor
    decode: Callable[[Tensor], Tensor]
    reward: Tensor | None
    terminated: Tensor | None
    termination_probability: Tensor | None
    jacobi_iterations: Tensor
    sequential_fallbacks: Tensor

    @cached_property
    def frame(self) -> Tensor:
        """(B, H, W, 3) uint8. Made when it is first asked for: a fifth of a step or more."""
        return self.decode(self.latents)
