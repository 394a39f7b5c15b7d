"""What a step of imagined episodes returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCORES = ("log_likelihood", "bits_per_dim", "uncertainty", "novelty")


@dataclass(frozen=True)
class Transition:
    """What one step returned, for all B rows; every array is the caller's own.

    Attributes:
        observations: the shown frames (B, H, W, 3) uint8, or their denoised latents (B, N, C)
            float32, see `worldflow.envs.spaces.observation_space`.
        rewards: (B,) float64; 0 where nothing was stepped.
        terminated: (B,) bool, the world says that the episode ended.
        truncated: (B,) bool, the horizon or the limit of novelty was reached without termination.
        scores: name to (B,) float64, of `SCORES` and `termination_probability`; and to int64,
            `jacobi_iterations` (B, blocks) and `sequential_fallbacks` (B,).
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    scores: dict[str, np.ndarray]


def no_scores(num_envs: int, blocks: int) -> dict[str, np.ndarray]:
    """The scores of B rows where no frame was drawn: NaN, and no iterations."""
    scores = {name: np.full(num_envs, np.nan) for name in (*SCORES, "termination_probability")}
    scores["jacobi_iterations"] = np.zeros((num_envs, blocks), np.int64)
    scores["sequential_fallbacks"] = np.zeros(num_envs, np.int64)
    return scores
