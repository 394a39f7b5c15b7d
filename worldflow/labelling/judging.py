"""How right labels are where the true actions are known; counted part by part, never held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.labelling.calibration import (
    Reliability,
    calibration_error,
    fit_temper,
    summed_nll,
    tempered,
)
from worldflow.labelling.infer import Labels
from worldflow.metrics import bootstrap

SPREAD_EDGES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # nats; the last bin has no end

# Gives, at each call anew, the labels (M, ...) of each episode's transitions of known action.
Episodes = Callable[[], Iterable[Labels]]


def judge_choices(episodes: Episodes, prior: np.ndarray, threshold: float) -> dict[str, Any] | None:
    """Figures of discrete actions; None if no true action is known.

    Args:
        episodes: see `Episodes`; none of them empty.
        prior: p(a), (n,).
        threshold: least confidence of a label.
    """
    counts = np.zeros((len(prior), len(prior)), np.int64)
    found = Reliability(len(prior))
    sure = {least: _Share() for least in sorted({0.9, 0.99, threshold})}
    spread = {low: _Share() for low in SPREAD_EDGES}
    ends = (*SPREAD_EDGES[1:], np.inf)
    of_episodes = []
    for labels in episodes():
        truth, right = labels["truth"], labels["action"] == labels["truth"]
        np.add.at(counts, (truth, labels["action"]), 1)
        found.add(labels["posterior"], truth)
        of_episodes.append(float(right.mean()))
        for least, share in sure.items():
            share.add(right, labels["confidence"] >= least)
        for (low, share), end in zip(spread.items(), ends, strict=True):
            share.add(right, (labels["spread"] >= low) & (labels["spread"] < end))
    total, rows = int(counts.sum()), found.rows()
    if not total:
        return None
    return {
        "transitions": total,
        "accuracy": float(np.trace(counts) / total),
        "accuracy_of_episodes": bootstrap(np.array(of_episodes)).to_dict(),
        "most_frequent_action": float(counts.sum(1).max() / total),
        "confident": [share.of(total) | {"posterior": least} for least, share in sure.items()],
        "spread": [
            share.of(total) | {"low": low, "high": end if np.isfinite(end) else None}
            for (low, share), end in zip(spread.items(), ends, strict=True)
        ],
        "confusion": counts.tolist(),  # a row for each true action
        "expected_calibration_error": calibration_error(rows),
        "reliability": rows,
        "temper": _temper(episodes, np.log(prior)) if len(of_episodes) > 1 else None,
    }


class _Share:
    """How many transitions of a kind there are, and how many of them are right."""

    def __init__(self) -> None:
        self._count = self._right = 0

    def add(self, right: np.ndarray, where: np.ndarray) -> None:
        self._count += int(where.sum())
        self._right += int(right[where].sum())

    def of(self, total: int) -> dict[str, float | None]:
        accuracy = self._right / self._count if self._count else None
        return {"share": self._count / total, "accuracy": accuracy}


def _temper(episodes: Episodes, log_prior: np.ndarray) -> dict[str, Any]:
    """The temper fitted to every other episode, and what it does to the rest.

    It is fitted to the untempered posteriors, whatever `temper` the labels were made with.
    """

    def exact(first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for labels in islice(episodes(), first, None, 2):
            yield labels["log_posterior"].astype(np.float64), labels["truth"]

    fitted = fit_temper(lambda: exact(0), log_prior)
    figures: dict[str, Any] = {
        "fitted": fitted,
        "transitions": sum(len(truth) for _, truth in exact(0)),
    }
    for name, temper in (("at_1", 1.0), ("at_fitted", fitted)):
        found, nll, count = Reliability(len(log_prior)), 0.0, 0
        for log_posterior, truth in exact(1):
            changed = tempered(log_posterior, log_prior, temper)
            found.add(np.exp(changed), truth)
            nll, count = nll + summed_nll(changed, truth), count + len(truth)
        error = calibration_error(found.rows())
        figures[name] = {"nll": nll / count, "expected_calibration_error": error}
    return figures


def judge_vectors(episodes: Episodes, spec: ActionSpec, threshold: float) -> dict[str, Any] | None:
    """Figures of box actions; None if no true action is known.

    Args:
        episodes: see `Episodes`; none of them empty.
        spec: of the actions.
        threshold: least confidence of a label.
    """
    side = np.subtract(spec.high, spec.low)
    every, labelled = _Errors(len(side)), _Errors(len(side))
    count, mean, deviations = 0, np.zeros(len(side)), np.zeros(len(side))
    for labels in episodes():
        truth = labels["truth"] / side
        errors = np.square(labels["action"].astype(np.float64) / side - truth)
        every.add(errors)
        labelled.add(errors[labels["confidence"] >= threshold])
        # the deviations of two parts about their common mean (Chan et al. 1979)
        more = len(truth)
        shift = truth.mean(axis=0) - mean
        deviations += truth.var(axis=0) * more + shift**2 * count * more / (count + more)
        count, mean = count + more, mean + shift * more / (count + more)
    if not count:
        return None
    return {
        "transitions": count,
        "in_units_of": side.tolist(),
        "all": every.of(count),
        "labelled": labelled.of(count),
        "explained": [
            1.0 - float(error) / float(deviation) if deviation else None
            for error, deviation in zip(every.sums, deviations, strict=True)
        ],
    }


class _Errors:
    """Sums of squared errors of `dimensions` numbers."""

    def __init__(self, dimensions: int) -> None:
        self._count, self.sums = 0, np.zeros(dimensions)

    def add(self, errors: np.ndarray) -> None:
        self._count += len(errors)
        self.sums += errors.sum(axis=0)

    def of(self, total: int) -> dict[str, Any]:
        root = np.sqrt(self.sums / self._count).tolist() if self._count else None
        return {"share": self._count / total, "root_mean_squared_error": root}
