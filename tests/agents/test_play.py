"""Playing episodes: known answers, and a sample that nothing but the seeds decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from worldflow.actions import ActionSpec
from worldflow.agents.play import (
    DreamBatch,
    RandomPolicy,
    RealBatch,
    play_episodes,
)
from worldflow.agents.sb3 import ImaginedVecEnv, wrap
from worldflow.agents.seeds import episode_seed
from worldflow.envs.imagination import Imagination
from worldflow.envs.latent_observation import LatentObservation
from worldflow.envs.policies import FrameStack
from worldflow.envs.sources.catch import CatchEnv, optimal_return, random_return
from worldflow.envs.spaces import OBSERVATIONS
from worldflow.errors import DataError
from worldflow.testing import tiny_world
from worldflow.world_model import WorldModel

MakeWorld = Callable[..., WorldModel]
Generators = Sequence[np.random.Generator]


class Countdown(gym.Env[np.ndarray, Any]):
    """An episode with seed s has (s mod 5) + 1 steps; each rewards the action taken.

    The frame shows the seed modulo 20 and the time. Resets are counted.
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
        return np.full((4, 4, 3), first_pixel(self.seeds[-1]) + self.time, np.uint8)


def first_pixel(seed: int) -> int:
    """What the first frame under a seed shows."""
    return 10 * (seed % 20)


def ones(observations: np.ndarray, generators: Generators) -> np.ndarray:
    return np.ones(len(observations), np.int64)


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_known_answer_for_any_number_of_rows(rows: int) -> None:
    envs = [Countdown() for _ in range(rows)]
    returns, lengths = play_episodes(RealBatch(envs), ones, episodes=7, seed=3)
    seeds = [episode_seed(3, episode) for episode in range(7)]
    assert lengths.tolist() == [seed % 5 + 1 for seed in seeds]
    assert len(set(lengths)) > 2
    assert returns.tolist() == lengths.tolist()
    # every seed once: none is played twice, none is dropped because it is long
    assert sorted(seed for env in envs for seed in env.seeds) == sorted(seeds)


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

    lengths = play_episodes(RealBatch([Countdown()]), watch, 3, seed=2, frame_stack=3).lengths
    expected = []
    for episode, length in enumerate(lengths.tolist()):
        first = first_pixel(episode_seed(2, episode))
        shown = [0, 0, *range(first, first + length)]
        expected += [shown[t : t + 3] for t in range(length)]
    assert max(lengths) > 3
    assert [values.tolist() for values in seen] == expected


def test_eyes_stand_before_the_stack() -> None:
    seen: list[int] = []

    def watch(observations: np.ndarray, generators: Generators) -> np.ndarray:
        seen.append(int(observations[0, 0, 0, 0]))
        return ones(observations, generators)

    play_episodes(RealBatch([Countdown()]), watch, 1, seed=1, eyes=lambda frames: frames + 7)
    start = first_pixel(episode_seed(1, 0)) + 7
    assert seen == list(range(start, start + len(seen)))


class Noise(gym.Env[np.ndarray, Any]):
    """Random frames of 32 x 32; an episode has as many steps as it is told, again and again."""

    def __init__(self, length: int) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(2)
        self.length = length

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._frame(), 0.0, self.time == self.length, False, {}

    def _frame(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def seen_through(world: WorldModel | None, length: int) -> gym.Env[np.ndarray, Any]:
    env = Noise(length)
    return env if world is None else LatentObservation(env, world)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_frame_stack_is_that_of_training(observation: str) -> None:
    world = tiny_world(frame_size=32) if observation == "latents" else None
    plain, unstacked = (
        DummyVecEnv([lambda: seen_through(world, 2), lambda: seen_through(world, 5)])
        for _ in range(2)
    )
    stacked = VecFrameStack(unstacked, 3, channels_order="last")
    for venv in (plain, stacked):
        venv.seed(0)
    ours = FrameStack(3)
    everything, nothing = np.ones(2, bool), np.zeros(2, bool)
    assert np.array_equal(stacked.reset(), ours.push(plain.reset(), nothing, everything))
    ends = 0
    for _ in range(8):
        frames, _, dones, _ = plain.step(np.zeros(2, int))
        expected = stacked.step(np.zeros(2, int))[0]
        assert np.array_equal(expected, ours.push(frames, ~dones, dones))
        ends += int(dones.sum())
    assert ends == 5


def test_a_dream_begins_with_the_stack_of_reality(scripted_world: MakeWorld) -> None:
    """Zeros before the first frame, in training, in the dream's evaluation and in reality."""
    seen: list[np.ndarray] = []

    def watch(observations: np.ndarray, generators: Generators) -> np.ndarray:
        seen.append(observations)
        return ones(observations, generators)

    world = scripted_world(1)
    venv = wrap(ImaginedVecEnv(Imagination(world, 1)), 3)
    venv.seed(episode_seed(0, 0))
    trained = venv.reset()
    play_episodes(DreamBatch(Imagination(world, 1)), watch, 1, seed=0, frame_stack=3)
    play_episodes(RealBatch([CatchEnv()]), watch, 1, seed=0, frame_stack=3)
    dream, real = seen[:2]
    assert np.array_equal(trained, dream)
    for first in (dream, real):
        assert not first[..., :6].any()
        assert first[..., 6:].any()


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
