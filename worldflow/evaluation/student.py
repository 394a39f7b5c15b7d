"""Student's t: intervals of the mean of a few values, where a bootstrap interval is too narrow."""

from __future__ import annotations

import math


def t_probability(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's t with `freedom` degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

    Raises:
        ValueError: t is negative, or there is no degree of freedom.
    """
    if t < 0 or freedom < 1:
        raise ValueError(f"needs t >= 0 and freedom >= 1, got t={t} and freedom={freedom}")
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def t_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| < t) = confidence, by bisection, to 12 digits.

    Raises:
        ValueError: a confidence outside (0, 1), or no degree of freedom.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < confidence:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if t_probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return high
