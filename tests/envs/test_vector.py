"""The vector env: autoreset by hand-written tables, seeds, memory, rendering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from worldflow.envs.spaces import OBSERVATIONS
from worldflow.envs.star_flow_world import StarFlowWorldEnv
from worldflow.envs.transition import SCORES
from worldflow.envs.vector import StarFlowWorldVectorEnv
from worldflow.world_model import WorldModel

MakeWorld = Callable[..., WorldModel]
SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
KEYS = (*SCORES, "termination_probability", "jacobi_iterations", "sequential_fallbacks")

pytestmark = pytest.mark.filterwarnings("error")


def same_bits(a: Any, b: Any) -> bool:
    """Exact equality of arrays in which NaN equals NaN."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def test_make_vec_uses_the_batched_env(scripted_world: MakeWorld) -> None:
    world = scripted_world()
    envs = gym.make_vec("StarFlowWorld-v0", num_envs=3, world=world, autoreset_mode="SameStep")
    assert isinstance(envs, StarFlowWorldVectorEnv)
    assert envs.metadata["autoreset_mode"] is SAME
    assert envs.metadata["render_fps"] == 8.0
    assert envs.observation_space.shape == (3, 64, 64, 3)
    assert envs.action_space == gym.spaces.MultiDiscrete([3, 3, 3])
    frames, _ = envs.reset(seed=0)
    assert frames in envs.observation_space
    frames, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert frames in envs.observation_space
    assert rewards.dtype == np.float64
    assert terminated.dtype == truncated.dtype == np.bool_
    default = gym.make_vec("StarFlowWorld-v0", num_envs=2, world=world)
    assert default.metadata["autoreset_mode"] is NEXT
    limited = gym.make_vec("StarFlowWorld-v0", num_envs=1, world=world, max_episode_steps=2)
    limited.reset(seed=0)
    assert [bool(limited.step(np.array([0]))[3][0]) for _ in range(3)] == [False, True, False]


# Rows terminate after 2, 3 and 9 steps; the horizon is 4. `-` marks a frame returned by a reset.
NEXT_TABLE = [
    # rewards   terminated  truncated  resets
    ([1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]),
    ([2, 2, 2], [1, 0, 0], [0, 0, 0], [0, 0, 0]),
    ([0, 3, 3], [0, 1, 0], [0, 0, 0], [1, 0, 0]),
    ([1, 0, 4], [0, 0, 0], [0, 0, 1], [0, 1, 0]),
    ([2, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]),
    ([0, 2, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]),
]
SAME_TABLE = [
    ([1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]),
    ([2, 2, 2], [1, 0, 0], [0, 0, 0], [1, 0, 0]),
    ([1, 3, 3], [0, 1, 0], [0, 0, 0], [0, 1, 0]),
    ([2, 1, 4], [1, 0, 0], [0, 0, 1], [1, 0, 1]),
    ([1, 2, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]),
    ([2, 3, 2], [1, 1, 0], [0, 0, 0], [1, 1, 0]),
]


@pytest.mark.parametrize(("mode", "table"), [(NEXT, NEXT_TABLE), (SAME, SAME_TABLE)])
def test_autoreset_tables(scripted_world: MakeWorld, mode: AutoresetMode, table: list) -> None:
    world = scripted_world([2, 3, 9])
    envs = StarFlowWorldVectorEnv(3, world, horizon=4, autoreset_mode=mode)
    envs.reset(seed=0)
    for rewards, terminated, truncated, resets in table:
        _, got_rewards, got_terminated, got_truncated, infos = envs.step(np.array([0, 1, 2]))
        assert got_rewards.tolist() == rewards
        assert got_terminated.tolist() == [bool(v) for v in terminated]
        assert got_truncated.tolist() == [bool(v) for v in truncated]
        for key in KEYS:
            assert infos[f"_{key}"].tolist() == [True] * 3
        assert np.isnan(infos["log_likelihood"]).tolist() == [bool(v) for v in resets]
        assert (infos["jacobi_iterations"].sum(axis=1) == 0).tolist() == [bool(v) for v in resets]


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_a_batch_of_one_is_the_single_env(
    scripted_world: MakeWorld, mode: AutoresetMode, observation: str
) -> None:
    world = scripted_world(3)
    env = StarFlowWorldEnv(world, horizon=2, observation=observation)
    envs = StarFlowWorldVectorEnv(1, world, horizon=2, autoreset_mode=mode, observation=observation)
    single = env.reset(seed=11)
    batch = envs.reset(seed=11)
    ended = False
    for action in (0, 2, 1, 1, 0, 2, 2):
        assert same_bits(single[0], batch[0][0])
        for key in KEYS:
            assert same_bits(single[-1][key], batch[-1][key][0])
        if mode is NEXT and ended:
            frame, info = env.reset()
            single, ended = (frame, 0.0, False, False, info), False
        elif mode is DISABLED and ended:
            single, ended = env.reset(), False
            batch = envs.reset(options={"reset_mask": np.array([True])})
            continue
        else:
            single = env.step(action)
            ended = single[2] or single[3]
        batch = envs.step(np.array([action]))
        if mode is SAME and ended:
            assert same_bits(single[0], batch[-1]["final_obs"][0])
            for key in KEYS:
                assert same_bits(single[-1][key], batch[-1]["final_info"][key][0])
            frame, info = env.reset()
            single = (frame, *single[1:4], info)
        assert [single[1], single[2], single[3]] == [batch[k][0] for k in (1, 2, 3)]


def test_seeds(scripted_world: MakeWorld) -> None:
    envs = StarFlowWorldVectorEnv(3, scripted_world())
    counted, _ = envs.reset(seed=4)
    listed, _ = envs.reset(seed=[4, 5, 6])
    assert same_bits(counted, listed)
    partly, _ = envs.reset(seed=[4, None, 6])
    assert same_bits(counted[[0, 2]], partly[[0, 2]])
    assert not same_bits(counted[1], partly[1])
    same, _ = envs.reset(seed=[9, 9, 9], options={"context": 2})
    assert same_bits(same[0], same[1])
    numpy_seed, _ = envs.reset(seed=np.int64(4))
    assert same_bits(counted, numpy_seed)


def test_reset_mask_leaves_the_other_rows_alone(scripted_world: MakeWorld) -> None:
    world = scripted_world(2)
    envs = StarFlowWorldVectorEnv(3, world, autoreset_mode=DISABLED, render_mode="rgb_array")
    envs.reset(seed=0)
    before, *_ = envs.step(np.zeros(3, int))
    options = {"reset_mask": np.array([False, True, False]), "context": [0, 4, 0]}
    after, infos = envs.reset(seed=[None, 9, None], options=options)
    assert set(options) == {"reset_mask", "context"}  # read, not taken away
    assert same_bits(before[[0, 2]], after[[0, 2]])
    assert not same_bits(before[1], after[1])
    assert infos["_novelty"].tolist() == [False, True, False]
    assert infos["novelty"][[0, 2]].tolist() == [0.0, 0.0]
    _, rewards, terminated, _, _ = envs.step(np.zeros(3, int))
    assert rewards.tolist() == [2.0, 1.0, 2.0]
    assert terminated.tolist() == [True, False, True]
    with pytest.raises(gym.error.ResetNeeded, match=r"\[0, 2\]"):
        envs.step(np.zeros(3, int))


def test_final_obs_and_info(scripted_world: MakeWorld) -> None:
    envs = StarFlowWorldVectorEnv(2, scripted_world([1, 5]), autoreset_mode=SAME)
    first, _ = envs.reset(seed=0)
    frames, _, terminated, _, infos = envs.step(np.array([0, 0]))
    assert terminated.tolist() == [True, False]
    assert infos["final_obs"].dtype == object
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True, False]
    assert infos["final_obs"][0].shape == (64, 64, 3)
    assert infos["final_obs"][1] is None
    assert not same_bits(infos["final_obs"][0], frames[0])
    final = infos["final_info"]
    for key in KEYS:
        assert final[f"_{key}"].tolist() == [True, False]
    assert np.isfinite(final["log_likelihood"]).all()
    assert final["log_likelihood"][1] == 0.0
    assert np.isnan(infos["log_likelihood"][0])
    assert not np.isnan(infos["log_likelihood"][1])
    # the last frame of the episode, not the first of it nor the first of the next
    alone = StarFlowWorldVectorEnv(2, scripted_world([9, 9]), autoreset_mode=SAME)
    assert same_bits(alone.reset(seed=0)[0], first)
    assert same_bits(alone.step(np.array([0, 0]))[0][0], infos["final_obs"][0])
    assert not same_bits(infos["final_obs"][0], first[0])


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("mode", [NEXT, SAME])
def test_nothing_returned_shares_memory(
    scripted_world: MakeWorld, mode: AutoresetMode, observation: str
) -> None:
    world = scripted_world([1, 3])
    envs = StarFlowWorldVectorEnv(2, world, autoreset_mode=mode, observation=observation)

    def arrays(out: tuple[Any, ...]) -> list[np.ndarray]:
        parts = [part for part in out if isinstance(part, np.ndarray)]
        infos = [value for key, value in out[-1].items() if key not in ("final_obs", "final_info")]
        finals = [frame for frame in out[-1].get("final_obs", []) if frame is not None]
        return parts + infos + finals + list(out[-1].get("final_info", {}).values())

    calls = [arrays(envs.reset(seed=0))]
    calls += [arrays(envs.step(np.array([1, 2]))) for _ in range(3)]
    flat = [array for call in calls for array in call]
    for i, a in enumerate(flat):
        assert not any(np.shares_memory(a, b) for b in flat[i + 1 :])


def test_an_action_is_ignored_in_the_step_that_resets(scripted_world: MakeWorld) -> None:
    histories = []
    for ignored in (0, 99):
        envs = StarFlowWorldVectorEnv(2, scripted_world([1, 9]))
        envs.reset(seed=0)
        envs.step(np.array([1, 1]))
        reset = envs.step(np.array([ignored, 1]))[0]
        histories.append([reset, envs.step(np.array([1, 1]))[0]])
    assert all(same_bits(a, b) for a, b in zip(*histories, strict=True))


def test_rendering(scripted_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    envs = StarFlowWorldVectorEnv(3, scripted_world(), render_mode="rgb_array")
    frames, _ = envs.reset(seed=0)
    rendered = envs.render()
    assert isinstance(rendered, tuple)
    assert all(same_bits(a, b) for a, b in zip(frames, rendered, strict=True))
    pygame = pytest.importorskip("pygame")
    envs = StarFlowWorldVectorEnv(3, scripted_world(), render_mode="human")
    envs.reset(seed=0)
    envs.step(np.zeros(3, int))
    assert envs.render() is None
    assert pygame.display.get_surface().get_size() == (384, 384)  # two by two, three times enlarged
    envs.close()
    envs.close()
    with pytest.warns(UserWarning, match="render_mode"):
        assert StarFlowWorldVectorEnv(1, scripted_world()).render() is None
