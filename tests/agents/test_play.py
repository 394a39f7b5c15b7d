"""Playing episodes: known answers, and a sample that nothing but the seeds decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecFrameStack
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from worldflow.actions import ActionSpec
from worldflow.agents.play import (
    DreamBatch,
    FrameStack,
    RandomPolicy,
    RealBatch,
    play_episodes,
)
from worldflow.envs.imagination import Imagination
from worldflow.envs.sources.catch import CatchEnv, optimal_return, random_return
from worldflow.errors import DataError
from worldflow.world_model import WorldModel

MakeWorld = Callable[..., WorldModel]
Generators = Sequence[np.random.Generator]


class Countdown(gym.Env[np.ndarray, Any]):
    """An episode with seed s has (s mod 5) + 1 steps; each rewards the action taken.

    The frame shows the seed and the time. Resets are counted.
    """

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(2)
        self.seeds: list[int] = []
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        assert seed is not None
        self.seeds.append(seed)
        self.time = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time == self.seeds[-1] % 5 + 1
        return self._frame(), float(action), over, False, {}

    def _frame(self) -> np.ndarray:
        return np.full((4, 4, 3), 10 * self.seeds[-1] + self.time, np.uint8)


def ones(observations: np.ndarray, generators: Generators) -> np.ndarray:
    return np.ones(len(observations), np.int64)


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_known_answer_for_any_number_of_rows(rows: int) -> None:
    envs = [Countdown() for _ in range(rows)]
    returns, lengths = play_episodes(RealBatch(envs), ones, episodes=7, seed=3)
    assert lengths.tolist() == [4, 5, 1, 2, 3, 4, 5]
    assert returns.tolist() == [4.0, 5.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    # every seed once: none is played twice, none is dropped because it is long
    assert sorted(seed for env in envs for seed in env.seeds) == list(range(3, 10))


def test_random_actions_depend_on_the_episode_and_not_on_the_rows() -> None:
    policy = RandomPolicy(ActionSpec("discrete", n=2))
    results = [
        play_episodes(RealBatch([Countdown() for _ in range(rows)]), policy, 12, seed=4).returns
        for rows in (1, 3)
    ]
    assert np.array_equal(*results)
    other = play_episodes(RealBatch([Countdown()]), policy, 12, seed=9).returns
    assert not np.array_equal(results[0], other)


def test_random_policy_knows_every_kind_of_action() -> None:
    generators = [np.random.default_rng(i) for i in range(200)]
    frames = np.zeros((200, 2, 2, 3), np.uint8)
    discrete = RandomPolicy(ActionSpec("discrete", n=3))(frames, generators)
    assert set(discrete.tolist()) == {0, 1, 2}
    box = RandomPolicy(ActionSpec("box", low=(0, -2), high=(1, -1)))(frames, generators)
    assert box.dtype == np.float32
    assert box.min(axis=0) == pytest.approx([0, -2], abs=0.1)
    assert box.max(axis=0) == pytest.approx([1, -1], abs=0.1)
    assert not RandomPolicy(ActionSpec("none"))(frames, generators).any()


def test_the_policy_sees_stacked_frames_of_its_episode_only() -> None:
    seen: list[np.ndarray] = []

    def watch(observations: np.ndarray, generators: Generators) -> np.ndarray:
        seen.append(observations[0, 0, 0, ::3].copy())
        return ones(observations, generators)

    play_episodes(RealBatch([Countdown()]), watch, episodes=2, seed=2, frame_stack=3)
    assert [values.tolist() for values in seen] == [
        [0, 0, 20], [0, 20, 21], [20, 21, 22],
        [0, 0, 30], [0, 30, 31], [30, 31, 32], [31, 32, 33],
    ]  # fmt: skip


def test_eyes_stand_before_the_stack() -> None:
    seen: list[int] = []

    def watch(observations: np.ndarray, generators: Generators) -> np.ndarray:
        seen.append(int(observations[0, 0, 0, 0]))
        return ones(observations, generators)

    play_episodes(RealBatch([Countdown()]), watch, 1, seed=1, eyes=lambda frames: frames + 100)
    assert seen == [110, 111]


def test_frame_stack_is_that_of_training() -> None:
    rng = np.random.default_rng(0)
    space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    theirs, ours = StackedObservations(2, 3, space, "last"), FrameStack(3)
    assert VecFrameStack  # what `StackedObservations` is the engine of
    frames = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    everything, nothing = np.ones(2, bool), np.zeros(2, bool)
    assert np.array_equal(theirs.reset(frames), ours.push(frames, nothing, everything))
    for dones in ([0, 0], [1, 0], [0, 0], [1, 1]):
        frames = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
        done = np.array(dones, bool)
        infos = [{"terminal_observation": np.zeros((8, 8, 3), np.uint8)} for _ in range(2)]
        expected, _ = theirs.update(frames, done, infos)
        assert np.array_equal(expected, ours.push(frames, ~done, done))


def test_dreams_play_as_scripted(scripted_world: MakeWorld) -> None:
    world = scripted_world([2, 3])
    returns, lengths = play_episodes(DreamBatch(Imagination(world, 2)), ones, 4, seed=0)
    # row 0 takes episodes 0 and 2, row 1 episodes 1 and 3; step k rewards k
    assert lengths.tolist() == [2, 3, 2, 3]
    assert returns.tolist() == [3.0, 6.0, 3.0, 6.0]
    cut = play_episodes(DreamBatch(Imagination(world, 2, horizon=1)), ones, 3, seed=0)
    assert cut.lengths.tolist() == [1, 1, 1]


def test_catch_has_its_exact_returns() -> None:
    def best(observations: np.ndarray, generators: Generators) -> np.ndarray:
        actions = []
        for cells in observations[:, ::8, ::8]:
            bright = (cells == 255).all(axis=-1)
            column = int(np.argwhere(bright)[0][1])
            paddle = np.flatnonzero((cells[-1] == (255, 140, 0)).all(axis=-1))
            left = int(paddle.min())
            actions.append(1 if left <= column <= left + 1 else 0 if column < left else 2)
        return np.asarray(actions)

    batch = RealBatch([CatchEnv() for _ in range(20)])
    played = play_episodes(batch, best, 400, seed=0)
    assert (played.lengths == 7).all()
    assert played.returns.mean() > optimal_return() - 0.12
    random = play_episodes(batch, RandomPolicy(ActionSpec("discrete", n=3)), 400, seed=0)
    assert abs(random.returns.mean() - random_return()) < 4 * 0.87 / 20  # four standard errors
    batch.close()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="episodes"):
        play_episodes(RealBatch([Countdown()]), ones, 0, seed=0)
    with pytest.raises(DataError, match="uint8"):
        RealBatch([gym.make("CartPole-v1")])
