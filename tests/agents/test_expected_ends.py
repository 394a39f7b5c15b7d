"""Ends that are felt by their probability: by its formula, and what is left as it was."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from worldflow.agents.algorithms import AgentConfig
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.places import Places
from worldflow.errors import ConfigError
from worldflow.testing import tiny_world


class Shown(NamedTuple):
    """What a learner is shown, all (steps, B), and the returns that are reported."""

    rewards: np.ndarray
    shaping: np.ndarray
    probability: np.ndarray
    terminated: np.ndarray
    cut: np.ndarray
    returns: list[float]


def shown(steps: int = 60, **dream: Any) -> Shown:
    world = tiny_world()
    places = Places(world, DreamConfig(horizon=5, **dream), None, False, world.action_spec)
    venv = places.training_env(AgentConfig(num_envs=8))
    imagination, terminated = venv.unwrapped.imagination, []
    step = imagination.step

    def watched(*arguments: Any) -> Any:
        transition = step(*arguments)
        terminated.append(transition.terminated)
        return transition

    imagination.step = watched
    venv.seed(3)
    venv.reset()
    rows: list[list[Any]] = []
    returns: list[float] = []
    for k in range(steps):
        _, rewards, _, infos = venv.step(np.full(8, k % 3))
        shaping = [info.get("shaping", 0.0) for info in infos]
        probability = [info["termination_probability"] for info in infos]
        rows.append([rewards, shaping, probability, [i["TimeLimit.truncated"] for i in infos]])
        returns += [info["episode"]["r"] for info in infos if "episode" in info]
    rewards, shaping, probability, cut = (np.array(x) for x in zip(*rows, strict=True))
    return Shown(rewards, shaping, probability, np.array(terminated), cut, returns)


def test_expected_ends_take_the_place_of_drawn_ones() -> None:
    plain, felt = shown(), shown(expected_ends=7.0)
    np.testing.assert_array_equal(plain.probability, felt.probability)
    change = 7.0 * (plain.terminated - plain.probability)
    np.testing.assert_allclose(felt.rewards - plain.rewards, change, atol=1e-5)
    np.testing.assert_allclose(felt.shaping, change, atol=1e-6)
    assert plain.terminated.sum() > 10 and plain.cut.sum() > 5  # of both kinds there were some
    assert felt.returns == plain.returns  # what is reported is the game's own


def test_they_go_together_with_pessimism() -> None:
    plain, careful = shown(), shown(pessimism=0.5)
    both = shown(pessimism=0.5, expected_ends=7.0)
    felt = 7.0 * (plain.terminated - plain.probability)
    np.testing.assert_allclose(both.rewards, careful.rewards + felt, atol=1e-5)
    np.testing.assert_allclose(both.shaping, careful.shaping + felt, atol=1e-5)


def test_the_probability_of_an_end_is_that_of_its_draw() -> None:
    found = shown(steps=250)
    deviation = np.sqrt((found.probability * (1 - found.probability)).sum())
    assert abs(found.terminated.sum() - found.probability.sum()) < 4 * deviation
    assert deviation > 5  # else it would show nothing


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_the_worth_of_a_state_is_a_finite_number(value: float) -> None:
    message = r"world\.expected_ends=.* must be at least 0 and finite"
    with pytest.raises(ConfigError, match=message):
        DreamConfig("catch", expected_ends=value)
