"""Windows and limits of novelty inside the dream: all autoreset modes, borders of episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from worldflow.envs.imagination import Imagination
from worldflow.envs.star_flow_world import StarFlowWorldEnv
from worldflow.envs.vector import StarFlowWorldVectorEnv
from worldflow.errors import ConfigError, WorldFormatError
from worldflow.testing import tiny_config, tiny_world
from worldflow.world_model import WorldModel

MakeWorld = Callable[..., WorldModel]
SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED


def uncertainties(env: StarFlowWorldEnv, steps: int) -> tuple[list[float], list[float]]:
    infos = [env.step(k % 3)[-1] for k in range(steps)]
    return [info["uncertainty"] for info in infos], [info["novelty"] for info in infos]


def test_novelty_of_a_window_forgets_the_last_episode(scripted_world: MakeWorld) -> None:
    world = scripted_world()
    env = StarFlowWorldEnv(world, novelty_window=4)
    for _ in range(2):
        env.reset(seed=1)
        nats, novelty = uncertainties(env, 5)
        statistics = torch.tensor(nats)[None, :, None] / world.tokens
        expected = world.calibration.require("dreamed").over(statistics, 4)[0]
        np.testing.assert_allclose(novelty, expected.numpy(), rtol=1e-4, atol=1e-4)
    plain = StarFlowWorldEnv(world)
    plain.reset(seed=1)
    alone, single = uncertainties(plain, 5)
    assert alone == nats and single[0] == novelty[0] and single[1:] != novelty[1:]


def limit_between(world: WorldModel) -> tuple[float, list[float]]:
    """A limit that the dream of seed 0 first passes in a step after the first, and its novelty."""
    env = StarFlowWorldEnv(world)
    env.reset(seed=0)
    _, novelty = uncertainties(env, 12)
    later = max(range(12), key=lambda k: novelty[k])
    assert later > 0
    return float(np.mean(sorted(novelty)[-2:])), novelty


def test_an_episode_is_cut_where_the_limit_is_passed(scripted_world: MakeWorld) -> None:
    world = scripted_world()
    limit, novelty = limit_between(world)
    env = gym.make("StarFlowWorld-v0", world=world, max_novelty=limit)
    env.reset(seed=0)
    cut = []
    while not cut or not cut[-1]:
        _, _, terminated, truncated, _ = env.step(len(cut) % 3)
        assert not terminated
        cut.append(truncated)
    assert len(cut) == 1 + int(np.argmax(novelty))
    with pytest.raises(gym.error.ResetNeeded):
        env.unwrapped.step(0)
    # an episode that terminates there is not truncated too
    short = StarFlowWorldEnv(scripted_world(len(cut)), max_novelty=limit)
    short.reset(seed=0)
    *_, last = (short.step(k % 3) for k in range(len(cut)))
    assert last[2] and not last[3]


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_rows_that_are_cut_are_reset(scripted_world: MakeWorld, mode: AutoresetMode) -> None:
    world = scripted_world()
    limit, novelty = limit_between(world)
    envs = StarFlowWorldVectorEnv(
        2, world, max_novelty=limit, autoreset_mode=mode, novelty_window=1
    )
    envs.reset(seed=[0, 0], options={"context": None})
    steps = 1 + int(np.argmax(novelty))
    for k in range(steps):
        assert not envs.imagination.needs_reset.any()
        *_, truncated, infos = envs.step(np.array([k % 3, k % 3]))
    assert truncated.all()
    if mode is SAME:
        assert (infos["final_info"]["novelty"] > limit).all() and np.isnan(infos["novelty"]).all()
        assert envs.imagination.elapsed.tolist() == [0, 0]
        return
    assert (infos["novelty"] > limit).all()
    if mode is NEXT:
        _, rewards, _, truncated, infos = envs.step(np.array([0, 0]))
        assert not rewards.any() and not truncated.any() and np.isnan(infos["novelty"]).all()
    else:
        with pytest.raises(gym.error.ResetNeeded):
            envs.step(np.array([0, 0]))
        envs.reset(options={"reset_mask": np.array([True, False])})
        assert envs.imagination.needs_reset.tolist() == [False, True]


def test_a_world_that_looks_ahead_cannot_be_an_env() -> None:
    config = tiny_config()
    config.denoiser.lookahead = 1
    with pytest.raises(ConfigError, match=r"looks ahead \(world\.denoiser\.lookahead=1\)"):
        Imagination(tiny_world(config=config), 1)


def test_bad_limits_and_uncalibrated_worlds_are_refused(scripted_world: MakeWorld) -> None:
    world = scripted_world()
    with pytest.raises(ValueError, match="max_novelty"):
        Imagination(world, 1, max_novelty=0.0)
    with pytest.raises(ConfigError, match="window=5"):
        Imagination(world, 1, novelty_window=5)
    world.calibration = replace(world.calibration, dreamed=None)
    plain = Imagination(world, 1)  # it dreams on, without novelty
    plain.reset()
    assert np.isnan(plain.step(np.array([0])).scores["novelty"]).all()
    for settings in ({"novelty_window": 2}, {"max_novelty": 3.0}):
        with pytest.raises(WorldFormatError, match=r"`dreamed` is missing.*worldflow calibrate"):
            Imagination(world, 1, **settings)  # type: ignore[arg-type]
