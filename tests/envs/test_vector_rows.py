"""Rows of the vector env that know nothing of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from worldflow.envs.spaces import OBSERVATIONS
from worldflow.envs.vector import StarFlowWorldVectorEnv
from worldflow.world_model import WorldModel

MakeWorld = Callable[..., WorldModel]
SAME, NEXT = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP

pytestmark = pytest.mark.filterwarnings("error")


def row_history(
    envs: StarFlowWorldVectorEnv, row: int, seeds: list[int], others: int, steps: int = 8
) -> list[list[Any]]:
    """All that one row of four returns, its own actions fixed, those of the others drawn."""
    rng = np.random.default_rng(others)
    first, infos = envs.reset(seed=seeds)
    keys = [key for key in infos if not key.startswith("_")]
    history = [[first[row], *(infos[key][row] for key in keys)]]
    for t in range(steps):
        actions = rng.integers(3, size=4)
        actions[row] = t % 3
        out = envs.step(actions)
        history.append([*(part[row] for part in out[:4]), *(out[4][key][row] for key in keys)])
    return history


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("mode", [NEXT, SAME])
@pytest.mark.parametrize("row", [0, 2])
def test_rows_do_not_depend_on_each_other(
    scripted_world: MakeWorld, mode: AutoresetMode, row: int, observation: str
) -> None:
    lives, seeds = [[3, 9, 9, 9], [3, 1, 2, 4]], [[5, 6, 7, 8], [50, 60, 70, 80]]
    for of_both in lives:
        of_both[row] = 3
    for of_both in seeds:
        of_both[row] = 42
    # other seeds, other actions and resets at other times for all rows but this one
    quiet, busy = (
        row_history(
            StarFlowWorldVectorEnv(
                4,
                scripted_world(lives[others]),
                horizon=5,
                autoreset_mode=mode,
                observation=observation,
            ),
            row,
            seeds[others],
            others,
        )
        for others in (0, 1)
    )
    for a, b in zip(quiet, busy, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y, strict=True)  # NaN equals NaN
