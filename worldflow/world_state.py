"""What a world remembers of a dream, and what a step of it says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldflow.flow.cache import WindowCache
from worldflow.flow.flow import FlowState


@dataclass(frozen=True)
class WorldState:
    """The past of B dreams; immutable, so that an old state can be stepped again.

    Attributes:
        flow: what the flow remembers.
        denoiser: what the denoiser remembers.
        frame: the last frame as shown, (B, H, W, 3) uint8.
    """

    flow: FlowState
    denoiser: WindowCache
    frame: Tensor

    @staticmethod
    def where(rows: Tensor, a: WorldState, b: WorldState) -> WorldState:
        """Rows of `a` where `rows` (B,) bool is true, rows of `b` elsewhere."""
        return WorldState(
            FlowState.where(rows, a.flow, b.flow),
            WindowCache.where(rows, a.denoiser, b.denoiser),
            torch.where(rows[:, None, None, None], a.frame, b.frame),
        )


@dataclass(frozen=True)
class Scores:
    """What the flow says of frames; all of one shape.

    Attributes:
        log_likelihood: of the frame's noisy latents, given past and actions, in nats; exact.
        bits_per_dim: the same in bits for each latent.
        uncertainty: the predicted frame's entropy in nats, estimated from the scales along the
            scored frame (later scales depend on the tokens before them).
        novelty: |log-likelihood - typical| in standard deviations of held-out real frames.
    """

    log_likelihood: Tensor
    bits_per_dim: Tensor
    uncertainty: Tensor
    novelty: Tensor


@dataclass(frozen=True)
class Prediction(Scores):
    """One dreamed frame of each row.

    Attributes:
        frame: (B, H, W, 3) uint8.
        latents: denoised, (B, N, C).
        reward: (B,), or None for a world without a reward head.
        terminated: (B,) bool, or None for a world without a termination head.
        jacobi_iterations: passes of each block, the global one first, (B, blocks) int64.
    """

    frame: Tensor
    latents: Tensor
    reward: Tensor | None
    terminated: Tensor | None
    jacobi_iterations: Tensor
