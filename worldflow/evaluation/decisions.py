"""Decision fidelity: whether a dream ranks plans as reality does, from the outcomes of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldflow.evaluation.association import interval, spearman

CEILING_SPLITS = 16
MEASURES = ("spearman", "cap", "concordance", "top_1", "chance", "gain")


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of P plans from each of S starts.

    Attributes:
        real: R continuations in reality, (S, P, R).
        dreamed: expected outcomes of M dreams, (S, P, M).
        drawn: outcomes of the same dreams with their ends drawn, (S, P, M).
    """

    real: np.ndarray
    dreamed: np.ndarray
    drawn: np.ndarray


def fidelity_figures(outcomes: Outcomes) -> dict[str, Any]:
    """How the dream ranks plans, with intervals over starts.

    Starts whose plans all come out equal in reality decide nothing and are left out; where the
    dream makes no difference, its correlation is 0 and its choice is any.

    Returns:
        JSON-able. `decided`: number of starts. `spearman`: mean over starts; `cap`: the same of
        plans in the right order that do not share ranks where reality's plans do, the most that
        outcomes without ties can have. `concordance`: share of the pairs of plans with different
        real outcomes that the dream has in the right order, halves for ties; 0.5 is chance.
        `top_1`: how often the dream's best plan is one of reality's best; `chance`: the same of a
        plan at random. `gain`: what the dream's best plan gains over a random one, in reality, as a
        share of what the best one gains. `ceiling`: all these, with R drawn dreams in the place of
        reality and the other dreams in that of the dream: what this world would have if reality
        were as random as its dreams (None where M <= R). Drawn outcomes are rounded to the steps in
        which real ones differ, as predicted rewards are never quite equal.
    """
    real, dreamed = outcomes.real.mean(axis=-1), outcomes.dreamed.mean(axis=-1)
    figures = _summary(_of_starts(real, dreamed))
    figures["ceiling"] = None
    continuations, samples = outcomes.real.shape[-1], outcomes.dreamed.shape[-1]
    if samples > continuations:
        drawn = _rounded(outcomes.drawn, outcomes.real)
        splits = min(CEILING_SPLITS, samples // continuations)
        rows = []
        for split in range(splits):
            held = np.arange(split * continuations, (split + 1) * continuations)
            as_real = drawn[..., held].mean(axis=-1)
            rest = np.delete(outcomes.dreamed, held, axis=-1).mean(axis=-1)
            rows.append(_of_starts(as_real, rest))
        figures["ceiling"] = _summary(_mean_over_splits(rows))
    return figures


def decided(real: np.ndarray) -> np.ndarray:
    """Which starts decide something: outcomes (S, P) that are not all equal, (S,) bool."""
    return np.ptp(real, axis=-1) > 0


def _of_starts(real: np.ndarray, dreamed: np.ndarray) -> np.ndarray:
    """`MEASURES` of each start (S, 6); NaN where nothing is decided."""
    rows = np.full((len(real), len(MEASURES)), np.nan)
    for index in np.flatnonzero(decided(real)).tolist():
        truth, guess = real[index], dreamed[index]
        correlation = spearman(truth, guess)
        best, chosen = truth == truth.max(), guess == guess.max()
        rows[index] = (
            0.0 if np.isnan(correlation) else correlation,
            spearman(truth, truth.argsort(kind="stable").argsort()),
            _concordance(truth, guess),
            best[chosen].mean(),
            best.mean(),
            (truth[chosen].mean() - truth.mean()) / (truth.max() - truth.mean()),
        )
    return rows


def _rounded(drawn: np.ndarray, real: np.ndarray) -> np.ndarray:
    """`drawn` on the lattice that holds the smallest real outcome and has the smallest gap."""
    values = np.unique(real)
    if len(values) < 2:
        return drawn
    gap, origin = np.diff(values).min(), values[0]
    return np.asarray(origin + gap * np.round((drawn - origin) / gap))


def _concordance(truth: np.ndarray, guess: np.ndarray) -> float:
    above = truth[:, None] > truth[None, :]
    right = np.sign(guess[:, None] - guess[None, :])[above]
    return float((1 + right).mean() / 2)


def _mean_over_splits(rows: list[np.ndarray]) -> np.ndarray:
    stacked = np.stack(rows)
    counted = ~np.isnan(stacked)
    totals, counts = np.where(counted, stacked, 0.0).sum(axis=0), counted.sum(axis=0)
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def _summary(rows: np.ndarray) -> dict[str, Any]:
    kept = rows[~np.isnan(rows).any(axis=1)]
    figures: dict[str, Any] = {"decided": len(kept)}
    for column, name in enumerate(MEASURES):
        values = kept[:, column]
        figures[name] = (
            interval(lambda picked, v=values: float(v[picked].mean()), len(kept))  # type: ignore[misc]
            if len(kept)
            else None
        )
    return figures
