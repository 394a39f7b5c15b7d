"""Jacobi iteration on maps whose inverse is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldflow.errors import ConfigError, SamplingError
from worldflow.flow.affine import Affine
from worldflow.flow.block import shift_tokens
from worldflow.flow.sampler import SamplerConfig, invert


def running_sum(x: Tensor) -> Affine:
    """mu_i = x_(i-1), scale 1: the inverse of z is its running sum."""
    return Affine(shift_tokens(x), torch.zeros_like(x))


def test_inverse_of_the_difference_is_the_running_sum() -> None:
    z = torch.arange(1.0, 9.0).reshape(1, 8, 1)
    for config in (SamplerConfig("jacobi", 0.0), SamplerConfig("sequential")):
        x, passes, _ = invert(running_sum, z, torch.zeros_like(z), range(8), config)
        assert torch.equal(x, z.cumsum(1))
        assert passes.tolist() == [8]


def test_each_row_stops_by_itself_and_no_row_disturbs_another() -> None:
    z = torch.ones(2, 6, 1)
    guess = torch.zeros(2, 6, 1)
    guess[0] = z[0].cumsum(0)  # row 0 starts at its solution, row 1 does not
    x, passes, _ = invert(running_sum, z, guess, range(6), SamplerConfig("jacobi", 1e-6))
    assert passes.tolist() == [1, 6]
    assert torch.equal(x[1], z[1].cumsum(0))
    alone, *_ = invert(running_sum, z[:1], guess[:1], range(6), SamplerConfig("jacobi", 1e-6))
    assert torch.equal(x[:1], alone)


def overflowing(x: Tensor) -> Affine:
    """A wild guess gives inf - inf; from zeros on, the inverse of z is its running sum."""
    before = shift_tokens(x)
    wild = torch.exp(before * before)
    return Affine(before + (wild - wild), torch.zeros_like(x))


def test_a_row_that_overflows_falls_back_to_the_sequential_inverse() -> None:
    z = torch.ones(3, 4, 1)
    guess = torch.zeros_like(z)
    guess[1] = 1e3
    config = SamplerConfig("jacobi", 1e-6)
    x, passes, fallback = invert(overflowing, z, guess, range(4), config)
    assert torch.equal(x, z.cumsum(1))
    assert fallback.tolist() == [False, True, False]
    assert passes.tolist() == [4, 1 + 4, 4]
    alone, *_ = invert(overflowing, z[:1], guess[:1], range(4), config)
    assert torch.equal(x[:1], alone)


def test_a_block_without_order_is_inverted_in_one_pass() -> None:
    def block(x: Tensor) -> Affine:
        return Affine(torch.full_like(x, 2.0), torch.zeros_like(x))

    z = torch.ones(2, 4, 1)
    for config in (SamplerConfig("jacobi"), SamplerConfig("sequential")):
        x, passes, _ = invert(block, z, torch.zeros_like(z), [], config)
        assert torch.equal(x, z + 2.0) and passes.tolist() == [1, 1]


def test_weights_that_give_nan_are_an_error() -> None:
    def block(x: Tensor) -> Affine:
        return Affine(torch.full_like(x, torch.nan), torch.zeros_like(x))

    z = torch.ones(1, 3, 1)
    with pytest.raises(SamplingError, match="weights are damaged"):
        invert(block, z, torch.zeros_like(z), range(3), SamplerConfig())


@pytest.mark.parametrize("settings", [{"method": "newton"}, {"tolerance": -1.0}])
def test_bad_settings_are_named(settings: dict) -> None:
    with pytest.raises(ConfigError, match="sampler"):
        SamplerConfig(**settings)
