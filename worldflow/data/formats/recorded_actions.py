"""Recorded actions: whether they are any, and of which kind and within which limits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.errors import DataError

MAX_CHOICES = 65_536  # of a discrete action; larger numbers are hardly choices


def check_actions(name: str, actions: np.ndarray) -> np.ndarray:
    """Actions (F,) or (F, D) of numbers, booleans as integers.

    Raises:
        DataError: another shape, not numbers, or NaN or infinity.
    """
    actions = np.asarray(actions)
    if actions.dtype == np.bool_:
        actions = actions.astype(np.int64)
    columns = actions.shape[1:] or (1,)
    if actions.dtype.kind not in "iuf" or actions.ndim not in (1, 2) or columns == (0,):
        raise DataError(
            f"{name}: actions of shape {actions.shape} and type {actions.dtype}; they must be "
            "numbers, one or one row for each frame"
        )
    bad = np.flatnonzero(~np.isfinite(actions).reshape(-1, *columns).all(axis=1))
    if bad.size:
        raise DataError(
            f"{name}: the action of frame {bad[0]} is not a number ({bad.size} such frames); "
            "repair the actions or remove the episode"
        )
    return actions


def box_spec(low: np.ndarray, high: np.ndarray) -> ActionSpec:
    """A box between the least and the greatest values (D,), low <= high.

    A column that never changes gets limits of 1 around its value.
    """
    constant = low == high
    low, high = np.where(constant, low - 1.0, low), np.where(constant, high + 1.0, high)
    return ActionSpec("box", low=tuple(low.tolist()), high=tuple(high.tolist()))


def infer_action_spec(recordings: Iterable[tuple[str, np.ndarray]]) -> ActionSpec:
    """The action spec of recorded actions.

    Whole numbers of one column are discrete, with as many choices as the largest number asks for.
    All else is a box, see `box_spec`. No actions: "none".

    Args:
        recordings: the name of each and its actions, (F,) or (F, D) and checked by `check_actions`.

    Raises:
        DataError: they differ in their number of columns, or discrete actions are negative or
            `MAX_CHOICES` and more.
    """
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    whole = True
    first = lowest = highest = ""
    for name, actions in recordings:
        if not len(actions):
            continue
        rows = actions.reshape(len(actions), -1)
        least, most = rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)
        whole = whole and rows.dtype.kind in "iu"
        if low is None or high is None:
            low, high, first, lowest, highest = least, most, name, name, name
            continue
        if len(low) != len(least):
            raise DataError(
                f"actions of {len(low)} columns in {first}, of {len(least)} in {name}; put the "
                "recordings in folders of their own"
            )
        lowest = name if least[0] < low[0] else lowest
        highest = name if most[0] > high[0] else highest
        low, high = np.minimum(low, least), np.maximum(high, most)
    if low is None or high is None:
        return ActionSpec("none")
    if not whole or len(low) > 1:
        return box_spec(low, high)
    if low[0] < 0:
        raise DataError(
            f"discrete actions start at 0, but {lowest} has {int(low[0])}; number them from 0"
        )
    if high[0] >= MAX_CHOICES:
        raise DataError(
            f"discrete actions are numbers below {MAX_CHOICES}, but {highest} has {int(high[0])}; "
            "number them anew, or write them as fractions (1.0), which makes them a box"
        )
    return ActionSpec("discrete", n=int(high[0]) + 1)
