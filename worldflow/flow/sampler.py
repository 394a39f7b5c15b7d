"""Inverting one autoregressive block: Jacobi iteration, and the sequential inversion it must equal.

Both solve x = mu(x) + scale(x) * z for x (STARFlow-V, "Jacobi"; GS-Jacobi, 2505.12849).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldflow.errors import ConfigError
from worldflow.flow.affine import Affine


@dataclass
class SamplerConfig:
    """How a block is inverted.

    Attributes:
        method: "jacobi" or "sequential" (the reference: one token a pass).
        tolerance: Jacobi stops a row when no latent moved by more than this in a pass; in latent
            units, to be compared with the world's sigma.
    """

    method: str = "jacobi"
    tolerance: float = 0.03

    def __post_init__(self) -> None:
        if self.method not in ("jacobi", "sequential"):
            raise ConfigError(f"sampler.method is {self.method!r}; use 'jacobi' or 'sequential'")
        if self.tolerance < 0:
            raise ConfigError(f"sampler.tolerance is {self.tolerance}; it cannot be negative")


def invert(
    block: Callable[[Tensor], Affine],
    noise: Tensor,
    guess: Tensor,
    order: Sequence[int],
    config: SamplerConfig,
) -> tuple[Tensor, Tensor]:
    """x with (x - mu(x)) / scale(x) = noise, for an autoregressive `block`.

    Args:
        block: one pass; maps x (B, N, C) to its affine parameters.
        noise: z (B, N, C).
        guess: where Jacobi starts, (B, N, C).
        order: the order in which the block's tokens depend on each other.
        config: method and tolerance.

    Returns:
        x (B, N, C), and the number of passes of each row (B,) int64.
    """
    if config.method == "sequential":
        return _sequential(block, noise, order)
    return _jacobi(block, noise, guess, config.tolerance)


def _sequential(
    block: Callable[[Tensor], Affine], noise: Tensor, order: Sequence[int]
) -> tuple[Tensor, Tensor]:
    x = torch.zeros_like(noise)
    for token in order:
        x[:, token] = block(x).to_data(noise)[:, token]
    passes = torch.full((len(noise),), len(order), dtype=torch.int64, device=noise.device)
    return x, passes


def _jacobi(
    block: Callable[[Tensor], Affine], noise: Tensor, guess: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """All tokens in parallel. After k passes the first k tokens are exact, so N passes always do.

    A row that has converged is frozen, but stays in the batch: the shape of the computation, hence
    every bit of a row, does not depend on when the others converge.
    """
    batch, tokens, _ = noise.shape
    x = guess
    running = torch.ones(batch, dtype=torch.bool, device=noise.device)
    passes = torch.zeros(batch, dtype=torch.int64, device=noise.device)
    for _ in range(tokens):
        update = block(x).to_data(noise)
        residual = (update - x).abs().amax(dim=(1, 2))
        if not residual.isfinite().all():
            # Tokens that are not exact yet may overflow on the way. They cannot harm the exact
            # ones before them, except as NaN, which even a masked attention weight passes on.
            update = torch.nan_to_num(update, nan=0.0, posinf=0.0, neginf=0.0)
        x = torch.where(running[:, None, None], update, x)
        passes += running
        running = running & ~(residual <= tolerance)  # NaN: not converged
        if not running.any():
            break
    return x, passes
