"""Noise from explicit generators: one for a whole batch, or one for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator | None]


def generator_of(sequence: np.random.SeedSequence) -> torch.Generator:
    """The torch generator that a NumPy seed sequence stands for."""
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


def fixed(batch: int) -> list[torch.Generator]:
    """A generator a row, all of one fixed seed: what a row draws does not depend on the others."""
    return [torch.Generator().manual_seed(0) for _ in range(batch)]


def normal(generators: Generators, batch: int, shape: Sequence[int], like: Tensor) -> Tensor:
    """Standard normal (batch, *shape) with the dtype and device of `like`, see `_draw`."""
    return _draw(Tensor.normal_, generators, batch, shape, like)


def uniform(generators: Generators, batch: int, like: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Uniform in [0, 1), (batch, *shape), see `_draw`."""
    return _draw(Tensor.uniform_, generators, batch, shape, like)


def _draw(
    fill: Callable[..., Tensor],
    generators: Generators,
    batch: int,
    shape: Sequence[int],
    like: Tensor,
) -> Tensor:
    """Draws on the CPU, so that a seed means the same numbers on every device.

    Args:
        fill: fills a tensor in place, by `generator`.
        generators: one CPU generator for the batch, or one a row. A row whose generator is None
            gets zeros: its result is meant to be thrown away, and it uses up no random numbers.

    Raises:
        ValueError: as many generators as rows are needed.
    """
    drawn = torch.zeros(batch, *shape)
    if isinstance(generators, torch.Generator):
        return fill(drawn, generator=generators).to(like)
    if len(generators) != batch:
        raise ValueError(f"{batch} rows need {batch} generators, got {len(generators)}")
    for row, generator in zip(drawn.unbind(), generators, strict=True):
        if generator is not None:
            fill(row, generator=generator)
    return drawn.to(like)
