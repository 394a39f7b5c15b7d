"""Known answers of AUROC, AUPRC and the false-positive rate at 95% recall."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldflow.evaluation.roc import detection


def measure(scores: list[float], strange: list[int]) -> tuple[float, float, float]:
    found = detection(np.array(scores), np.array(strange, np.bool_), np.ones((1, len(scores))))
    return float(found.auroc[0]), float(found.auprc[0]), float(found.fpr[0])


def test_an_example_by_hand() -> None:
    # of four pairs three are in order; precision 1 at recall 1/2, 2/3 at recall 1
    found = measure([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    assert found == pytest.approx((0.75, 0.5 * 1 + 0.5 * 2 / 3, 0.5))


def test_perfect_and_inverted_scores() -> None:
    assert measure([1, 2, 3, 4], [0, 0, 1, 1]) == pytest.approx((1.0, 1.0, 0.0))
    auroc, _, fpr = measure([4, 3, 2, 1], [0, 0, 1, 1])
    assert (auroc, fpr) == (0.0, 1.0)


def test_equal_scores_are_chance_and_their_order_does_not_matter() -> None:
    for strange in ([0, 1, 1, 0, 0], [1, 1, 0, 0, 0]):
        assert measure([7.0] * 5, strange) == pytest.approx((0.5, 0.4, 1.0))


def test_infinite_scores_are_the_largest() -> None:
    assert measure([math.inf, math.inf, 1, 2], [1, 1, 0, 0]) == pytest.approx((1.0, 1.0, 0.0))


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, strange = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.4
    pairs = scores[strange][:, None] - scores[~strange][None, :]
    expected = (pairs > 0).mean() + 0.5 * (pairs == 0).mean()
    found = detection(scores, strange, np.ones((1, 60)))
    assert found.auroc[0] == pytest.approx(expected)


def test_closed_forms_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(0, 1, 100_000), rng.normal(1.5, 1, 100_000)])
    found = detection(scores, np.arange(200_000) >= 100_000, np.ones((1, 200_000)))

    def cumulative(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    assert found.auroc[0] == pytest.approx(cumulative(1.5 / math.sqrt(2)), abs=0.003)
    # the threshold that 95% of the strange exceed is 1.5 - 1.645
    assert found.fpr[0] == pytest.approx(1 - cumulative(1.5 - 1.6449), abs=0.006)


def test_a_weight_is_a_number_of_copies() -> None:
    rng = np.random.default_rng(2)
    scores, strange = rng.normal(size=12).round(1), np.arange(12) % 3 == 0
    weights = rng.integers(0, 4, (5, 12))
    weights[:, :2] = 1  # one of each kind
    found = detection(scores, strange, weights.astype(float))
    for row, counts in enumerate(weights):
        copies = np.repeat(np.arange(12), counts)
        once = detection(scores[copies], strange[copies], np.ones((1, len(copies))))
        for name in ("auroc", "auprc", "fpr"):
            assert getattr(found, name)[row] == pytest.approx(getattr(once, name)[0])


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        measure([math.nan, 1.0], [0, 1])
    with pytest.raises(ValueError, match="strange and normal"):
        measure([0.0, 1.0], [1, 1])
    with pytest.raises(ValueError, match="do not fit"):
        detection(np.zeros(2), np.zeros(3, np.bool_), np.ones((1, 2)))
