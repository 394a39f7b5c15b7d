"""Clips of episodes as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldflow.data.windows import Arrays, load_clips


@dataclass
class Batch:
    """Clips of B rows and T frames.

    Attributes:
        latents: (B, T, N, C).
        actions: (B, T, ...).
        known: (B, T) bool, whether the action was recorded.
        rewards: (B, T).
        terminated: (B, T) bool.
        valid: (B, T) bool, False after an episode's end.
    """

    latents: Tensor
    actions: Tensor
    known: Tensor
    rewards: Tensor
    terminated: Tensor
    valid: Tensor


class Episodes:
    """What the flow learns from.

    Attributes:
        latents: (T, N, C) of each episode, and so on for the others, see `Batch`.
    """

    latents: Arrays
    actions: list[np.ndarray]
    known: list[np.ndarray]
    rewards: list[np.ndarray]
    terminated: list[np.ndarray]

    def batch(self, picks: list[tuple[int, int]], clip: int) -> Batch:
        """The clips of `clip` frames at (episode, first frame)."""
        latents, valid = load_clips(self.latents, picks, clip)
        steps = {
            name: torch.from_numpy(load_clips(getattr(self, name), picks, clip)[0])
            for name in ("actions", "known", "rewards", "terminated")
        }
        return Batch(torch.from_numpy(latents), **steps, valid=torch.from_numpy(valid))
