"""Predicted events beside true ones: precision, recall and the error of their timing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldflow.evaluation.association import ratio


@dataclass(frozen=True)
class Matches:
    """Counts in each of B rows.

    Attributes:
        predicted: predicted events (B,).
        actual: true events (B,).
        matched: pairs of both (B,).
        late: sum over the pairs of predicted step - true step (B,).
        off: sum over the pairs of its absolute value (B,).
    """

    predicted: np.ndarray
    actual: np.ndarray
    matched: np.ndarray
    late: np.ndarray
    off: np.ndarray

    def figures(self, groups: int = 1) -> dict[str, Any]:
        """Precision, recall, mean late and absolute timing error in steps, JSON-able.

        Args:
            groups: rows are `groups` blocks of the same clips, over which intervals are taken.

        Returns:
            each an estimate with its interval over clips, or None where nothing was predicted,
            nothing happened, or nothing matched.
        """
        clips = {
            name: values.reshape(groups, -1).sum(axis=0) for name, values in vars(self).items()
        }
        return {
            "predicted": int(clips["predicted"].sum()) / groups,
            "actual": int(clips["actual"].sum()) / groups,
            "precision": ratio(clips["matched"], clips["predicted"]),
            "recall": ratio(clips["matched"], clips["actual"]),
            "late": ratio(clips["late"], clips["matched"]),
            "off": ratio(clips["off"], clips["matched"]),
        }


def match(predicted: np.ndarray, actual: np.ndarray, tolerance: int) -> Matches:
    """Pair each event with at most one of the other kind, the nearest pairs first.

    Args:
        predicted: (B, T) bool.
        actual: (B, T) bool.
        tolerance: the most steps between the two of a pair.
    """
    count = len(predicted)
    matched, late, off = (np.zeros(count, dtype=np.int64) for _ in range(3))
    for row in range(count):
        pairs = sorted(
            (abs(int(p - a)), int(a), int(p))
            for a in np.flatnonzero(actual[row])
            for p in np.flatnonzero(predicted[row])
            if abs(int(p - a)) <= tolerance
        )
        used_true: set[int] = set()
        used_predicted: set[int] = set()
        for distance, a, p in pairs:
            if a not in used_true and p not in used_predicted:
                used_true.add(a)
                used_predicted.add(p)
                matched[row] += 1
                late[row] += p - a
                off[row] += distance
    return Matches(predicted.sum(axis=1), actual.sum(axis=1), matched, late, off)


def first_only(events: np.ndarray) -> np.ndarray:
    """Events (..., T) bool without all but the first of each row: an episode ends once."""
    return events & (np.cumsum(events, axis=-1) == 1)


@dataclass(frozen=True)
class RewardEvents:
    """What makes a reward an event: being far from the usual one.

    Attributes:
        usual: the most common reward.
        margin: half the distance from it to the nearest other reward.
    """

    usual: float
    margin: float

    @classmethod
    def of(cls, rewards: np.ndarray) -> RewardEvents | None:
        """From true rewards (n,); None where fewer than half are equal, or all are."""
        values, counts = np.unique(rewards, return_counts=True)
        if len(values) < 2 or 2 * counts.max() < len(rewards):
            return None
        usual = float(values[counts.argmax()])
        nearest = float(np.abs(values[values != usual] - usual).min())
        return cls(usual, nearest / 2)

    def of_rewards(self, rewards: np.ndarray) -> np.ndarray:
        """Which rewards (...) are events: (...) bool."""
        return np.abs(rewards - self.usual) > self.margin
