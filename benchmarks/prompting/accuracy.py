"""Shares of right answers, with intervals over clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prompting.questions import UNASKED, Questions
from worldflow.evaluation.resampling import Interval, episode_weights, interval

RESAMPLES = 2000
FACTORS = "factors"  # all questions but the first, together


def accuracies(
    found: np.ndarray, wanted: np.ndarray, questions: Questions, seed: int
) -> dict[str, tuple[Interval, int]]:
    """Of each question, and of all but the first together; clips are drawn, not answers.

    Args:
        found: numbers of answers, (B, Q); one that is unsure is wrong.
        wanted: the same, `UNASKED` where nothing is asked.
        questions: their names.
        seed: of the resamples.

    Returns:
        by name the share of right answers and how many were asked; what nobody asked is left out.
    """
    weights = episode_weights(len(wanted), RESAMPLES, seed)
    asked, right = wanted != UNASKED, (found == wanted) & (wanted != UNASKED)
    columns = {name: [q] for q, name in enumerate(questions)}
    columns[FACTORS] = list(range(1, len(questions)))
    results: dict[str, tuple[Interval, int]] = {}
    for name, chosen in columns.items():
        count = int(asked[:, chosen].sum())
        if count:
            with np.errstate(invalid="ignore"):  # a resample in which nobody is asked
                shares = weights @ right[:, chosen].sum(1) / (weights @ asked[:, chosen].sum(1))
            results[name] = interval(shares), count
    return results


def row_of(
    found: np.ndarray, wanted: np.ndarray, questions: Questions, seed: int
) -> dict[str, dict[str, float | int | None]]:
    """`accuracies` as JSON."""
    figures = accuracies(found, wanted, questions, seed).items()
    return {name: {**share.to_dict(), "asked": count} for name, (share, count) in figures}


def shown(figures: Mapping[str, Mapping[str, Any]], questions: Questions) -> dict[str, str]:
    """Accuracies in percent, with their intervals, as the cells of a table."""
    return {name: percent(figures.get(name)) for name in (*questions, FACTORS)}


def percent(figure: Mapping[str, Any] | None) -> str:
    """One accuracy as a cell; None: nobody asked."""
    if figure is None:
        return "-"
    value, low, high = (f"{100 * figure[key]:.0f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
