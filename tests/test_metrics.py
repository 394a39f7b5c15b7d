"""Known answers of the figures of merit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldflow.metrics import (
    PSNR_LIMIT,
    bootstrap,
    decibels,
    masked_mean,
    psnr,
    psnr_over_time,
    squared_error,
)


def grey(level: int, *shape: int) -> np.ndarray:
    return np.full((*shape, 4, 4, 3), level, dtype=np.uint8)


def test_psnr_of_black_and_white_is_zero() -> None:
    assert decibels(squared_error(grey(0), grey(255))) == pytest.approx(0.0)


def test_psnr_of_a_known_error() -> None:
    # An error of one grey level everywhere: 20 log10(255).
    assert decibels(squared_error(grey(100), grey(101))) == pytest.approx(48.1308, abs=1e-4)
    assert decibels(squared_error(grey(101), grey(100))) == pytest.approx(48.1308, abs=1e-4)


def test_psnr_of_equal_images_is_the_limit() -> None:
    assert decibels(squared_error(grey(7), grey(7))) == PSNR_LIMIT


def test_psnr_of_one_error() -> None:
    assert psnr(0.01) == pytest.approx(20.0)
    assert psnr(0.0) == PSNR_LIMIT
    assert psnr(255.0**2, peak=255.0) == pytest.approx(0.0)
    assert isinstance(psnr(0.01), float)


def test_squared_error_broadcasts_and_keeps_leading_axes() -> None:
    error = squared_error(grey(10, 2, 3), grey(13, 1, 3))
    assert error.shape == (2, 3)
    assert (error == 9.0).all()


def test_squared_error_does_not_wrap_around() -> None:
    assert squared_error(grey(0), grey(250)) == 250.0**2


def test_floats_are_no_images() -> None:
    with pytest.raises(ValueError, match="uint8"):
        decibels(squared_error(np.zeros((4, 4, 3)), grey(0)))


def test_masked_mean() -> None:
    values = np.array([[1.0, 2.0, np.nan], [3.0, 50.0, 5.0]])
    valid = np.array([[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(masked_mean(values, valid), [2.0, 2.0, np.nan])


def test_psnr_over_time_averages_errors_not_decibels() -> None:
    error = np.array([[0.0, 1.0], [2.0, 9.0]])
    valid = np.array([[True, True], [True, False]])
    np.testing.assert_allclose(psnr_over_time(error, valid), decibels(np.array([1.0, 1.0])))


def test_bootstrap_of_a_constant_has_no_width() -> None:
    found = bootstrap(np.full(10, 3.0))
    assert (found.mean, found.std, found.low, found.high, found.count) == (3.0, 0.0, 3.0, 3.0, 10)


def test_bootstrap_of_one_value() -> None:
    found = bootstrap(np.array([2.0]))
    assert (found.std, found.low, found.high) == (0.0, 2.0, 2.0)


def test_bootstrap_matches_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, size=400)
    found = bootstrap(values, resamples=5000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = (bootstrap(rng.exponential(size=60), resamples=400, seed=i) for i in range(200))
    covered = sum(found.low <= 1.0 <= found.high for found in draws)
    assert 176 <= covered <= 199  # 95% nominal; skewed samples cover a little less


def test_bootstrap_is_reproducible() -> None:
    values = np.arange(9.0)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert "n=9" in str(bootstrap(values))


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.zeros((2, 2))])
def test_bootstrap_refuses_bad_values(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap(values)


def test_bootstrap_refuses_a_bad_confidence() -> None:
    with pytest.raises(ValueError, match="confidence"):
        bootstrap(np.ones(3), confidence=1.0)
