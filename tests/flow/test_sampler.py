"""Jacobi iteration on maps whose inverse is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldflow.errors import ConfigError
from worldflow.flow.affine import Affine
from worldflow.flow.block import shift_tokens
from worldflow.flow.sampler import SamplerConfig, invert


def running_sum(x: Tensor) -> Affine:
    """mu_i = x_(i-1), scale 1: the inverse of z is its running sum."""
    return Affine(shift_tokens(x), torch.zeros_like(x))


def test_inverse_of_the_difference_is_the_running_sum() -> None:
    z = torch.arange(1.0, 9.0).reshape(1, 8, 1)
    for config in (SamplerConfig("jacobi", 0.0), SamplerConfig("sequential")):
        x, passes = invert(running_sum, z, torch.zeros_like(z), range(8), config)
        assert torch.equal(x, z.cumsum(1))
        assert passes.tolist() == [8]


def test_each_row_stops_by_itself_and_no_row_disturbs_another() -> None:
    z = torch.ones(2, 6, 1)
    guess = torch.zeros(2, 6, 1)
    guess[0] = z[0].cumsum(0)  # row 0 starts at its solution, row 1 does not
    x, passes = invert(running_sum, z, guess, range(6), SamplerConfig("jacobi", 1e-6))
    assert passes.tolist() == [1, 6]
    assert torch.equal(x[1], z[1].cumsum(0))
    alone, _ = invert(running_sum, z[:1], guess[:1], range(6), SamplerConfig("jacobi", 1e-6))
    assert torch.equal(x[:1], alone)


def test_overflow_on_the_way_is_overcome() -> None:
    """A wild guess overflows the exponential; the tokens still become exact one after another."""

    def block(x: Tensor) -> Affine:
        before = shift_tokens(x)
        return Affine(torch.exp(before * before * before) - 1.0, torch.zeros_like(x))

    z = torch.zeros(1, 4, 1)
    x, passes = invert(block, z, torch.full_like(z, 1e3), range(4), SamplerConfig("jacobi", 1e-6))
    assert torch.equal(x, torch.zeros_like(z)) and passes.item() <= 4


def test_nan_on_the_way_is_not_convergence() -> None:
    """A wild guess gives inf - inf; the row must go on until its running sum is there."""

    def block(x: Tensor) -> Affine:
        before = shift_tokens(x)
        wild = torch.exp(before * before)
        return Affine(before + (wild - wild), torch.zeros_like(x))

    z = torch.ones(1, 4, 1)
    x, passes = invert(block, z, torch.full_like(z, 1e3), range(4), SamplerConfig("jacobi", 1e-6))
    assert torch.equal(x, z.cumsum(1)) and passes.item() == 4


@pytest.mark.parametrize("settings", [{"method": "newton"}, {"tolerance": -1.0}])
def test_bad_settings_are_named(settings: dict) -> None:
    with pytest.raises(ConfigError, match="sampler"):
        SamplerConfig(**settings)
