"""Rankings of plans with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from worldflow.evaluation.decisions import Outcomes, fidelity_figures


def outcomes(real: np.ndarray, dreamed: np.ndarray) -> Outcomes:
    """One continuation and one dream of each plan: (S, P) both."""
    return Outcomes(real[..., None], dreamed[..., None], dreamed[..., None])


def test_the_same_ranking_is_perfect() -> None:
    real = np.array([[1.0, 2.0, 3.0], [5.0, 1.0, 0.0]])
    found = fidelity_figures(outcomes(real, real**3))
    assert [found[n]["mean"] for n in ("spearman", "top_1", "gain")] == [1.0, 1.0, 1.0]
    assert found["chance"]["mean"] == pytest.approx(1 / 3)
    assert found["cap"]["mean"] == found["concordance"]["mean"] == 1.0
    assert found["ceiling"] is None


def test_the_opposite_ranking_is_the_worst() -> None:
    real = np.array([[0.0, 1.0, 5.0]])
    found = fidelity_figures(outcomes(real, -real))
    assert found["spearman"]["mean"] == -1.0
    assert found["top_1"]["mean"] == found["concordance"]["mean"] == 0.0
    assert found["gain"]["mean"] == pytest.approx((0 - 2) / (5 - 2))


def test_what_decides_nothing_is_left_out_and_indifference_is_chance() -> None:
    real = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 2.0, 0.0]])
    found = fidelity_figures(outcomes(real, np.zeros((2, 4))))
    assert found["decided"] == 1
    assert found["spearman"]["mean"] == 0.0
    assert found["top_1"]["mean"] == found["chance"]["mean"] == 0.5
    assert found["gain"]["mean"] == 0.0
    assert found["concordance"]["mean"] == 0.5
    nothing = fidelity_figures(outcomes(np.ones((2, 3)), np.ones((2, 3))))
    assert nothing["decided"] == 0
    assert nothing["spearman"] is None


def test_the_ceiling_is_one_without_chance_and_less_with_it() -> None:
    rng = np.random.default_rng(0)
    values = np.tile(np.arange(5.0), (30, 1))[..., None]
    sure = np.repeat(values, 16, axis=-1)
    found = fidelity_figures(Outcomes(values, sure, sure))
    assert found["ceiling"]["spearman"]["mean"] == 1.0
    noisy = sure + rng.normal(0.0, 3.0, sure.shape)
    found = fidelity_figures(Outcomes(values, sure, noisy))
    assert found["spearman"]["mean"] == 1.0
    assert 0.1 < found["ceiling"]["spearman"]["mean"] < 0.7


def test_ties_of_reality_cap_the_correlation_and_not_the_concordance() -> None:
    real = np.array([[60.0, 60.0, 60.0, 60.0, 20.0]])
    found = fidelity_figures(outcomes(real, np.array([[5.0, 4.0, 3.0, 2.0, 1.0]])))
    # ranks (3.5, 3.5, 3.5, 3.5, 1) and (5, 4, 3, 2, 1): 5 / sqrt(5 * 10)
    assert found["spearman"]["mean"] == found["cap"]["mean"] == pytest.approx(0.5**0.5)
    assert found["concordance"]["mean"] == 1.0


def test_the_ceiling_has_the_ties_of_reality() -> None:
    real = np.array([[60.0, 60.0, 59.0, 60.0, 59.0]] * 2)[..., None]
    rng = np.random.default_rng(0)
    dreamed = np.repeat(real, 4, axis=-1) + rng.uniform(-0.2, 0.2, (2, 5, 4))
    found = fidelity_figures(Outcomes(real, dreamed, dreamed))
    assert found["ceiling"]["chance"]["mean"] == found["chance"]["mean"] == 0.6
