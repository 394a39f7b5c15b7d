"""Correlations and intervals with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldflow.evaluation.association import (
    estimate_text,
    interval,
    pearson,
    ranks,
    ratio,
    spearman,
)


def test_ranks_share_their_mean_where_values_are_equal() -> None:
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, 3.0, 9.0])), [2.5, 1.0, 2.5, 4.0])


def test_correlations() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert pearson(x, 7 - 2 * x) == pytest.approx(-1.0)
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert pearson(x, np.exp(x)) < 0.9
    # 1 - 6 * (1 + 1 + 1 + 1) / (5 * 24)
    assert spearman(x, np.array([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(0.8)
    # scipy.stats.spearmanr([1, 2, 2, 4], [1, 3, 2, 4])
    tied = spearman(np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0]))
    assert tied == pytest.approx(0.9486832980505138)
    assert math.isnan(spearman(x, np.ones(5)))


def test_a_ratio_is_of_sums_and_its_interval_is_over_rows() -> None:
    found = ratio(np.array([1.0, 0.0, 3.0]), np.array([1.0, 0.0, 7.0]))
    assert found is not None
    assert found["mean"] == pytest.approx(0.5)
    assert found["low"] == pytest.approx(3 / 7)  # rows 2 alone
    assert found["high"] == pytest.approx(1.0)  # row 0 alone; rows 1 alone are undefined
    assert ratio(np.zeros(3), np.zeros(3)) is None


def test_the_interval_of_a_mean_narrows_with_the_rows() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    found = interval(lambda rows: float(values[rows].mean()), 400)
    assert found is not None
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert found == interval(lambda rows: float(values[rows].mean()), 400)


def test_estimates_as_text() -> None:
    assert estimate_text(None) == "undefined"
    text = estimate_text({"mean": 0.5, "low": 0.25, "high": 1.0, "count": 3})
    assert text == "0.500 [0.250, 1.000]"
