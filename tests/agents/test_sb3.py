"""The Stable-Baselines3 view of a world: its rules of infos, resets and stacking."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor

from worldflow.agents.sb3 import ImaginedVecEnv, wrap
from worldflow.envs.imagination import Imagination
from worldflow.envs.star_flow_world import StarFlowWorldEnv
from worldflow.world_model import WorldModel

MakeWorld = Callable[..., WorldModel]

pytestmark = pytest.mark.filterwarnings("error")


def test_one_row_is_what_stable_baselines_makes_of_the_single_env(
    scripted_world: MakeWorld,
) -> None:
    world = scripted_world(3)
    ours = ImaginedVecEnv(Imagination(world, 1, horizon=2))
    theirs = DummyVecEnv([lambda: StarFlowWorldEnv(world, horizon=2, render_mode="rgb_array")])
    for venv in (ours, theirs):
        venv.seed(5)
    assert np.array_equal(ours.reset(), theirs.reset())
    for action in (0, 1, 2, 1, 0):
        a, b = ours.step(np.array([action])), theirs.step(np.array([action]))
        for x, y in zip(a[:3], b[:3], strict=True):
            assert x.dtype == y.dtype
            assert np.array_equal(x, y)
        assert a[3][0].keys() == b[3][0].keys()
        for key, value in a[3][0].items():
            assert np.array_equal(value, b[3][0][key]), key
        assert repr(ours.reset_infos) == repr(theirs.reset_infos)  # holds NaN
    assert np.array_equal(ours.render("rgb_array"), theirs.render("rgb_array"))


# Rows terminate after 2 and 9 steps; the horizon is 3.
TABLE = [
    # rewards dones   time limit
    ([1, 1], [0, 0], [0, 0]),
    ([2, 2], [1, 0], [0, 0]),
    ([1, 3], [0, 1], [0, 1]),
    ([2, 1], [1, 0], [0, 0]),
]


def test_ends_of_episodes(scripted_world: MakeWorld) -> None:
    venv = ImaginedVecEnv(Imagination(scripted_world([2, 9]), 2, horizon=3))
    venv.seed(0)
    venv.reset()
    for rewards, dones, limits in TABLE:
        frames, got_rewards, got_dones, infos = venv.step(np.array([0, 1]))
        assert got_rewards.dtype == np.float32
        assert got_rewards.tolist() == rewards
        assert got_dones.tolist() == [bool(v) for v in dones]
        assert [info["TimeLimit.truncated"] for info in infos] == [bool(v) for v in limits]
        for row, info in enumerate(infos):
            assert ("terminal_observation" in info) == bool(dones[row])
            assert np.isfinite(info["novelty"])  # of the step's frame, also where a reset followed
            if dones[row]:
                assert not np.array_equal(info["terminal_observation"], frames[row])
                assert np.isnan(venv.reset_infos[row]["novelty"])


def test_seeds_and_options_count_for_one_reset(scripted_world: MakeWorld) -> None:
    venv = ImaginedVecEnv(Imagination(scripted_world(), 2))
    venv.seed(3)
    contexts: list[np.ndarray] = []
    first = venv.reset()
    second = venv.reset()
    venv.seed(3)
    assert np.array_equal(venv.reset(), first)
    assert not np.array_equal(first, second)
    venv.set_options({"context": 1})
    chosen = venv.reset()
    venv.set_options({"context": 2})
    other = venv.reset()
    assert not np.array_equal(chosen, other)
    # Under the seed, row 0 shows the context it is told, and row 1 the one that it draws.
    for context in (1, 2):
        venv.seed(3)
        venv.set_options([{"context": context}, {}])
        mixed = venv.reset()
        assert np.array_equal(mixed[1], first[1])
        single = ImaginedVecEnv(Imagination(scripted_world(), 2))
        single.seed(3)
        single.set_options({"context": context})
        assert np.array_equal(mixed[0], single.reset()[0])
        contexts.append(mixed[0])
    assert not np.array_equal(*contexts)
    venv.set_options({"contxt": 1})
    with pytest.raises(ValueError, match="contxt"):
        venv.reset()


def test_wrapping_counts_and_stacks(scripted_world: MakeWorld) -> None:
    imagination = Imagination(scripted_world(2), 2)
    plain = wrap(ImaginedVecEnv(imagination), 1)
    assert isinstance(plain, VecMonitor)
    stacked = wrap(ImaginedVecEnv(imagination), 3)
    assert isinstance(stacked, VecFrameStack)
    assert stacked.observation_space.shape == (64, 64, 9)
    stacked.seed(0)
    first = stacked.reset().copy()
    assert not first[..., :6].any()
    stacked.step(np.array([0, 0]))
    last, _, dones, infos = stacked.step(np.array([0, 0]))
    assert dones.all()
    assert infos[0]["episode"]["r"] == 3.0  # 1 + 2
    assert infos[0]["episode"]["l"] == 2
    terminal = infos[0]["terminal_observation"]
    assert np.array_equal(terminal[..., :3], first[0][..., 6:])
    assert not last[..., :6].any()


def test_rows_are_no_objects(scripted_world: MakeWorld) -> None:
    venv = ImaginedVecEnv(Imagination(scripted_world(), 3))
    assert venv.get_attr("render_mode", [0, 2]) == ["rgb_array", "rgb_array"]
    assert venv.env_is_wrapped(Monitor) == [False] * 3
    with pytest.raises(AttributeError, match="horizon"):
        venv.set_attr("horizon", 3)
    with pytest.raises(AttributeError, match="jump"):
        venv.env_method("jump")
    with pytest.raises(RuntimeError, match="step_async"):
        venv.step_wait()
    venv.close()
