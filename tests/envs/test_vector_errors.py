"""The vector env refuses wrong use and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from worldflow.envs.vector import StarFlowWorldVectorEnv
from worldflow.world_model import WorldModel

MakeWorld = Callable[..., WorldModel]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_step_before_reset(scripted_world: MakeWorld, mode: AutoresetMode) -> None:
    envs = StarFlowWorldVectorEnv(2, scripted_world(), autoreset_mode=mode)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        envs.step(np.array([0, 0]))


@pytest.mark.parametrize("actions", [[0], [0, 3], [[0, 0]], [0.0, 1.0], "no", [None, 1]])
def test_bad_actions(scripted_world: MakeWorld, actions: Any) -> None:
    envs = StarFlowWorldVectorEnv(2, scripted_world())
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        envs.step(np.asarray(actions))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": [1]}, "seeds"),
        ({"options": {"mask": 1}}, "mask"),
        ({"options": {"context": 9}}, "context 9"),
        ({"options": {"context": [0]}}, "contexts"),
        ({"options": {"reset_mask": [True, False]}}, "reset_mask"),
        ({"options": {"reset_mask": np.array([1, 0])}}, "reset_mask"),
        ({"options": {"reset_mask": np.zeros(2, bool)}}, "at least one"),
    ],
)
def test_bad_resets(scripted_world: MakeWorld, arguments: dict[str, Any], message: str) -> None:
    envs = StarFlowWorldVectorEnv(2, scripted_world())
    with pytest.raises(ValueError, match=message):
        envs.reset(**arguments)


def test_bad_arguments(scripted_world: MakeWorld) -> None:
    with pytest.raises(ValueError, match="Sometimes"):
        StarFlowWorldVectorEnv(2, scripted_world(), autoreset_mode="Sometimes")
    with pytest.raises(ValueError, match="ansi"):
        StarFlowWorldVectorEnv(2, scripted_world(), render_mode="ansi")
