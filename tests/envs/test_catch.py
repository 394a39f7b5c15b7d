"""Catch: its rules, and its exact values against brute force, by hand and by playing."""

import itertools
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import worldflow  # noqa: F401 - registers the ids
from worldflow.envs.sources import catch
from worldflow.envs.sources.catch import (
    CatchEnv,
    optimal_action,
    optimal_return,
    random_return,
)
from worldflow.errors import ConfigError


def play(env: CatchEnv, episodes: int, best: bool) -> float:
    """Mean return of the best or the random policy."""
    rng = np.random.default_rng(1)
    total = 0.0
    for seed in range(episodes):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            if best:
                action = optimal_action(env.row, env.ball, env.paddle, env.drift, env.paddle_width)
            else:
                action = int(rng.integers(3))
            _, reward, terminated, _, _ = env.step(np.int64(action))
            total += reward
    return total / episodes


def test_both_checkers_are_silent() -> None:
    env = gym.make("worldflow/Catch-v0").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
        check_env_sb3(env)


def test_the_frame_shows_the_state() -> None:
    env = CatchEnv(drift=0.0, render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    env.ball, env.paddle = 3, 5
    frame, reward, terminated, truncated, _ = env.step(np.int64(0))
    cells = frame[4::8, 4::8]
    assert cells.shape == (8, 8, 3)
    assert np.argwhere((cells == catch.BALL).all(axis=-1)).tolist() == [[1, 3]]
    assert np.argwhere((cells == catch.PADDLE).all(axis=-1)).tolist() == [[7, 4], [7, 5]]
    assert (cells == catch.BACKGROUND).all(axis=-1).sum() == 64 - 3
    assert (reward, terminated, truncated) == (0.0, False, False)
    np.testing.assert_array_equal(env.render(), frame)
    np.testing.assert_array_equal(frame, cells.repeat(8, 0).repeat(8, 1))


def test_an_episode_has_seven_steps_and_is_caught_or_missed() -> None:
    env = CatchEnv(drift=0.0)
    # The paddle goes left to the wall: a ball in column 0 or 1 is caught.
    for ball, expected in [(0, 1.0), (1, 1.0), (2, -1.0), (7, -1.0)]:
        env.reset(seed=0)
        env.ball, env.paddle = ball, 6
        rewards, ends = [], []
        for _ in range(7):
            _, reward, terminated, truncated, _ = env.step(np.int64(0))
            rewards.append(reward)
            ends.append(terminated)
            assert not truncated
        assert rewards == [0.0] * 6 + [expected]
        assert ends == [False] * 6 + [True]
        assert env.paddle == 0
        with pytest.raises(gym.error.ResetNeeded):
            env.step(np.int64(0))


def test_the_catch_counts_after_the_paddle_has_moved() -> None:
    env = CatchEnv(drift=0.0)
    env.reset(seed=0)
    env.row, env.ball, env.paddle = 6, 4, 2
    assert env.step(np.int64(2))[1] == 1.0  # the paddle covers 3 and 4 only now


def test_drift_has_the_stated_probability() -> None:
    env = CatchEnv(drift=0.4)
    env.reset(seed=0)
    moves = []
    for _ in range(20_000):
        env.row, env.ball = 0, 4
        env.step(np.int64(1))
        moves.append(env.ball - 4)
    shares = [moves.count(move) / len(moves) for move in (-1, 0, 1)]
    np.testing.assert_allclose(shares, [0.2, 0.6, 0.2], atol=0.01)
    reached = set()
    for _ in range(200):
        env.row, env.ball = 0, 0
        env.step(np.int64(1))
        reached.add(env.ball)
    assert reached == {0, 1}  # the wall keeps it inside


def test_reset_is_uniform() -> None:
    env = CatchEnv()
    env.reset(seed=0)
    starts = [(env.reset(), env.ball, env.paddle)[1:] for _ in range(8 * 7 * 200)]
    counts = [starts.count(start) for start in itertools.product(range(8), range(7))]
    assert sum(counts) == len(starts)
    assert min(counts) > 140
    assert max(counts) < 260


def brute_force(drift: float, width: int, random: bool) -> float:
    """The value by plain recursion over (row, ball, paddle), in the words of the rules."""
    memory: dict[tuple[int, int, int], float] = {}

    def value(row: int, ball: int, paddle: int) -> float:
        if row == 7:
            return 1.0 if ball in range(paddle, paddle + width) else -1.0
        key = (row, ball, paddle)
        if key not in memory:
            options = []
            for move in (-1, 0, 1):
                to = min(max(paddle + move, 0), 8 - width)
                options.append(
                    (1 - drift) * value(row + 1, ball, to)
                    + drift / 2 * value(row + 1, max(ball - 1, 0), to)
                    + drift / 2 * value(row + 1, min(ball + 1, 7), to)
                )
            memory[key] = sum(options) / 3 if random else max(options)
        return memory[key]

    values = [value(0, ball, paddle) for ball in range(8) for paddle in range(9 - width)]
    return sum(values) / len(values)


@pytest.mark.parametrize("drift", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_values_equal_brute_force(drift: float, width: int) -> None:
    assert optimal_return(drift, width) == pytest.approx(brute_force(drift, width, False))
    assert random_return(drift, width) == pytest.approx(brute_force(drift, width, True))


def test_values_by_hand() -> None:
    # Without drift, 7 moves always reach a ball at most 7 columns away.
    assert optimal_return(drift=0.0, paddle_width=1) == 1.0
    assert optimal_return(drift=0.0, paddle_width=2) == 1.0
    # A paddle as wide as the grid catches everything.
    assert optimal_return(drift=0.7, paddle_width=8) == pytest.approx(1.0)
    assert random_return(drift=0.7, paddle_width=8) == pytest.approx(1.0)
    # Without drift the ball's column stays uniform and independent of the paddle, which covers
    # 2 of 8 columns wherever it is: 2 * 2/8 - 1. Drift keeps the uniform distribution.
    assert random_return(drift=0.0, paddle_width=2) == pytest.approx(-0.5)
    assert random_return(drift=0.1, paddle_width=2) == pytest.approx(-0.5)
    assert random_return(drift=0.1, paddle_width=1) == pytest.approx(-0.75)


@pytest.mark.parametrize(("drift", "width"), [(0.1, 2), (0.6, 1)])
def test_values_equal_play(drift: float, width: int) -> None:
    env = CatchEnv(drift=drift, paddle_width=width)
    assert play(env, 4000, best=False) == pytest.approx(random_return(drift, width), abs=0.05)
    assert play(env, 1500, best=True) == pytest.approx(optimal_return(drift, width), abs=0.06)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="drift"):
        CatchEnv(drift=1.5)
    with pytest.raises(ConfigError, match="paddle_width"):
        optimal_return(0.1, paddle_width=9)
    with pytest.raises(ConfigError, match="render_mode"):
        CatchEnv(render_mode="human")
