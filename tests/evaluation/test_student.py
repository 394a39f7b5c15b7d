"""Student's t against the tables."""

from __future__ import annotations

import pytest

from worldflow.evaluation.student import t_probability, t_quantile

# two-sided quantiles, as in any table
TABLE = [
    (1, 0.95, 12.7062),
    (2, 0.95, 4.3027),
    (3, 0.95, 3.1824),
    (4, 0.95, 2.7764),
    (9, 0.95, 2.2622),
    (10, 0.95, 2.2281),
    (29, 0.95, 2.0452),
    (120, 0.95, 1.9799),
    (5, 0.99, 4.0321),
    (4, 0.5, 0.7407),
]


@pytest.mark.parametrize(("freedom", "confidence", "expected"), TABLE)
def test_quantiles_of_the_tables(freedom: int, confidence: float, expected: float) -> None:
    assert t_quantile(confidence, freedom) == pytest.approx(expected, abs=5e-5)
    assert t_probability(expected, freedom) == pytest.approx(confidence, abs=1e-4)


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match="freedom=0"):
        t_quantile(0.95, 0)
    with pytest.raises(ValueError, match="confidence"):
        t_quantile(1.0, 3)
    with pytest.raises(ValueError, match="t=-1"):
        t_probability(-1.0, 3)
