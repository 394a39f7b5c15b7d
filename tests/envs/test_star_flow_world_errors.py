"""The single env refuses wrong use and says why."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.envs.imagination import Imagination
from worldflow.envs.star_flow_world import StarFlowWorldEnv
from worldflow.errors import DataError, MissingHeadError
from worldflow.testing import tiny_config, tiny_world
from worldflow.world_model import WorldModel

MakeWorld = Callable[..., WorldModel]


def test_step_or_render_before_reset(scripted_world: MakeWorld) -> None:
    env = StarFlowWorldEnv(scripted_world(), render_mode="rgb_array")
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(0)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.render()


@pytest.mark.parametrize("action", [3, -1, 0.5, np.array([0, 1]), "left", None, float("nan")])
def test_bad_discrete_actions(scripted_world: MakeWorld, action: object) -> None:
    env = StarFlowWorldEnv(scripted_world())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)


@pytest.mark.parametrize("action", [[0.0], [2.0, 0.0], [np.nan, 0.0], 0.0, "left"])
def test_bad_box_actions(scripted_world: MakeWorld, action: object) -> None:
    world = scripted_world(action_spec=ActionSpec("box", low=(-1, -1), high=(1, 1)))
    env = StarFlowWorldEnv(world)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"contxt": 1}, "contxt"), ({"context": 5}, r"0\.\.4"), ({"context": -1}, r"0\.\.4")],
)
def test_bad_options(scripted_world: MakeWorld, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StarFlowWorldEnv(scripted_world()).reset(options=options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"render_mode": "ansi"}, "ansi"),
        ({"observation": "pixels"}, "frames.*latents.*pixels"),
    ],
)
def test_bad_arguments(
    scripted_world: MakeWorld, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        StarFlowWorldEnv(scripted_world(), **arguments)
    with pytest.raises(ValueError, match="num_envs"):
        Imagination(scripted_world(), 0)


def test_a_world_that_is_no_env_is_refused() -> None:
    config = tiny_config()
    config.heads.termination = False
    with pytest.raises(MissingHeadError, match="termination"):
        StarFlowWorldEnv(tiny_world(config=config))
    unfinished = tiny_world()
    unfinished._context = None
    with pytest.raises(DataError, match="context"):
        StarFlowWorldEnv(unfinished)
