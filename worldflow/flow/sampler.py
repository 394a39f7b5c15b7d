"""Inverting one autoregressive block: Jacobi iteration, and the sequential inversion it must equal.

Both solve x = mu(x) + scale(x) * z for x (STARFlow-V, "Jacobi"; GS-Jacobi, 2505.12849).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worldflow.errors import ConfigError, SamplingError
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


class Inversion(NamedTuple):
    """What `invert` found.

    Attributes:
        x: (B, N, C).
        passes: evaluations of the block, (B,) int64.
        fallback: rows whose Jacobi iterates were not finite and that were inverted sequentially,
            (B,) bool.
    """

    x: Tensor
    passes: Tensor
    fallback: Tensor


def invert(
    block: Callable[[Tensor], Affine],
    noise: Tensor,
    guess: Tensor,
    order: Sequence[int],
    config: SamplerConfig,
) -> Inversion:
    """x with (x - mu(x)) / scale(x) = noise, for an autoregressive `block`.

    Args:
        block: one pass; maps x (B, N, C) to its affine parameters.
        noise: z (B, N, C).
        guess: where Jacobi starts, (B, N, C).
        order: the order in which the block's tokens depend on each other; empty if they do not, so
            that one pass is exact.
        config: method and tolerance.

    Raises:
        SamplingError: the exact inverse is not finite.
    """
    if not order:
        everywhere = torch.ones(len(noise), dtype=torch.int64, device=noise.device)
        return Inversion(block(guess).to_data(noise), everywhere, everywhere == 0)
    if config.method == "sequential":
        return _sequential(block, noise, order)
    result = _jacobi(block, noise, guess, len(order), config.tolerance)
    if not result.fallback.any():
        return result
    # Tokens that are not exact yet overflowed on the way. One after another they cannot.
    reference, rows = _sequential(block, noise, order), result.fallback
    return Inversion(
        torch.where(rows[:, None, None], reference.x, result.x),
        result.passes + rows * reference.passes,
        rows,
    )


def _sequential(
    block: Callable[[Tensor], Affine], noise: Tensor, order: Sequence[int]
) -> Inversion:
    x = torch.zeros_like(noise)
    for token in order:
        x[:, token] = block(x).to_data(noise)[:, token]
    if not x.isfinite().all():
        raise SamplingError(
            "a frame is not finite even token by token: the world's weights are damaged; pretrain it again"
        )
    passes = torch.full((len(noise),), len(order), dtype=torch.int64, device=noise.device)
    return Inversion(x, passes, passes == 0)


def _jacobi(
    block: Callable[[Tensor], Affine], noise: Tensor, guess: Tensor, tokens: int, tolerance: float
) -> Inversion:
    """All tokens in parallel. After k passes the first k tokens are exact, so N passes always do.

    A row that has converged is frozen, but stays in the batch: the shape of the computation, hence
    every bit of a row, does not depend on when the others converge.
    """
    x = guess
    running = torch.ones(len(noise), dtype=torch.bool, device=noise.device)
    passes = torch.zeros(len(noise), dtype=torch.int64, device=noise.device)
    for _ in range(tokens):
        update = block(x).to_data(noise)
        moved = (update - x).abs().amax(dim=(1, 2))
        x = torch.where(running[:, None, None], update, x)
        passes += running
        # what is not finite stops, to be found below
        running = running & (moved > tolerance) & moved.isfinite()
        if not running.any():
            break
    return Inversion(x, passes, ~x.isfinite().all(dim=2).all(dim=1))
