"""Known answers of Spearman's rank correlation, and of intervals over episodes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldflow.evaluation.rank_correlation import spearman
from worldflow.evaluation.resampling import Interval, episode_weights, interval


def plain(x: list[float], y: list[float]) -> float:
    return float(spearman(np.array(x, float), np.array(y, float), np.ones((1, len(x))))[0])


def test_by_hand() -> None:
    assert plain([1, 2, 3], [10, 100, 1000]) == pytest.approx(1.0)
    assert plain([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # no ties: 1 - 6 * sum d^2 / (n (n^2 - 1)), d = 1, 1, 1, 1
    assert plain([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(1 - 6 * 4 / (4 * 15))
    # ranks of y: 1, 2, 3.5, 5, 3.5
    assert plain([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(8 / math.sqrt(10 * 9.5))


def test_of_a_constant_there_is_none() -> None:
    assert math.isnan(plain([1, 2, 3], [4, 4, 4]))


def test_closed_form_of_a_bivariate_normal() -> None:
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(2, 50_000))
    found = spearman(x, 0.6 * x + 0.8 * other, np.ones((1, 50_000)))
    assert found[0] == pytest.approx(6 / math.pi * math.asin(0.3), abs=0.01)


def test_a_weight_is_a_number_of_copies() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, (2, 15)).astype(float)
    weights = rng.integers(0, 4, (120, 15))
    found = spearman(x, y, weights.astype(float))
    for row in (0, 60, 119):
        copies = np.repeat(np.arange(15), weights[row])
        once = spearman(x[copies], y[copies], np.ones((1, len(copies))))
        assert found[row] == pytest.approx(once[0])


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        plain([1, math.nan], [1, 2])
    with pytest.raises(ValueError, match="do not fit"):
        spearman(np.zeros(2), np.zeros(3), np.ones((1, 2)))


def test_weights_are_draws_of_episodes() -> None:
    weights = episode_weights(8, 500, seed=3)
    assert weights.shape == (501, 8)
    assert (weights[0] == 1).all() and (weights.sum(axis=1) == 8).all()
    assert weights[1:].mean() == pytest.approx(1.0)
    assert weights[1:].var() == pytest.approx(7 / 8, rel=0.1)  # of a binomial with p = 1/8
    np.testing.assert_array_equal(weights, episode_weights(8, 500, seed=3))


def test_intervals_of_a_mean() -> None:
    values = np.random.default_rng(4).normal(3.0, 2.0, 300)
    weights = episode_weights(300, 4000, seed=0)
    found = interval((weights * values).mean(axis=1))
    half = 1.96 * values.std() / math.sqrt(300)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_intervals_without_values() -> None:
    assert interval(np.array([1.0, math.nan, 2.0, 2.0])) == Interval(1.0, 2.0, 2.0)
    assert interval(np.full(3, math.nan)).to_dict() == {"value": None, "low": None, "high": None}
    with pytest.raises(ValueError, match="replicates"):
        interval(np.zeros((2, 2)))
