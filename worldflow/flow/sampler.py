"""Inverting one autoregressive block: Jacobi iteration, and the sequential inversion it must equal.

Both solve x = mu(x) + scale(x) * z for x (STARFlow-V, "Jacobi"; GS-Jacobi, 2505.12849).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldflow.errors import ConfigError, SamplingError
from worldflow.flow.affine import Affine


@dataclass
class SamplerConfig:
    """How a block is inverted.

    Attributes:
        method: "jacobi" or "sequential" (the reference: one token a pass).
        tolerance: Jacobi stops a row when no token moved by more than this in a pass (root mean
            square over its channels). No token is then further than this from the sequential
            result, as long as passes at least halve the moves, which those of trained worlds do,
            and no token is on the edge between two outcomes (`worldflow.flow.outcomes`).
            In latent units: a tenth of the world's sigma is ample.
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
            "a frame is not finite even token by token: the world's weights are damaged; "
            "pretrain it again"
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
    # kept on the host, where the loop must know them
    running, passes = np.ones(len(noise), dtype=bool), np.zeros(len(noise), dtype=np.int64)
    finite = np.ones(len(noise), dtype=bool)
    norm = noise.shape[2] ** -0.5
    for _ in range(tokens):
        update = block(x).to_data(noise)
        # of the token that moved most, root mean square over its channels
        moved = norm * torch.linalg.vector_norm(update - x, dim=2).amax(dim=1).cpu().numpy()
        if running.all():
            x = update
        else:
            x = torch.where(torch.from_numpy(running).to(x.device)[:, None, None], update, x)
        passes += running
        finite &= np.isfinite(moved) | ~running
        running &= (moved > tolerance) & finite
        if not running.any():
            break
    device = noise.device
    return Inversion(x, torch.from_numpy(passes).to(device), torch.from_numpy(~finite).to(device))
