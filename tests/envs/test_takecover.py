"""TakeCover: tics, time limit, death, seeds, and nothing left in the user's folder."""

import builtins
import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import worldflow  # noqa: F401 - registers the ids
from worldflow.envs.sources import takecover
from worldflow.envs.sources.takecover import TakeCoverEnv
from worldflow.errors import ConfigError


@pytest.fixture
def env() -> Any:
    pytest.importorskip("vizdoom")
    env = TakeCoverEnv()
    yield env
    env.close()


def play(env: TakeCoverEnv, seed: int) -> tuple[list[np.ndarray], list[float], bool, bool]:
    """One episode of random actions: frames, rewards, terminated, truncated."""
    rng = np.random.default_rng(seed)
    frames, rewards = [env.reset(seed=seed)[0]], []
    terminated = truncated = False
    while not (terminated or truncated):
        frame, reward, terminated, truncated, _ = env.step(rng.integers(2))
        frames.append(frame)
        rewards.append(reward)
    return frames, rewards, terminated, truncated


def test_both_checkers_are_silent(env: TakeCoverEnv) -> None:
    made = gym.make("worldflow/TakeCover-v0").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made)
        check_env_sb3(env)


def test_the_return_is_the_tics_survived(env: TakeCoverEnv) -> None:
    for seed in range(3):
        frames, rewards, terminated, truncated = play(env, seed)
        assert (terminated, truncated) == (True, False)
        assert set(rewards[:-1]) == {4.0}
        assert rewards[-1] in (1.0, 2.0, 3.0, 4.0)
        # The engine counts from tic 1, and so does its own reward of 1 per tic.
        assert sum(rewards) == env._game.get_episode_time() - 1
        assert sum(rewards) == env._game.get_total_reward()
        assert env._game.is_player_dead()
        assert frames[-1].std() > 0
        with pytest.raises(gym.error.ResetNeeded):
            env.step(np.int64(0))


def test_the_time_limit_truncates(env: TakeCoverEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takecover, "TIMEOUT_TICS", 42)
    frames, rewards, terminated, truncated = play(env, 0)
    assert (terminated, truncated) == (False, True)
    assert rewards == [4.0] * 10 + [2.0]
    assert not np.array_equal(frames[-1], frames[-2])
    monkeypatch.setattr(takecover, "TIMEOUT_TICS", 40)
    assert play(env, 0)[1] == [4.0] * 10


def test_the_time_limit_is_2100_tics(env: TakeCoverEnv) -> None:
    assert takecover.TIMEOUT_TICS == 2100
    env.reset(seed=0)
    env._game.send_game_command("god")  # the player cannot die
    for _ in range(524):
        assert env.step(np.int64(0))[1:4] == (4.0, False, False)
    assert env.step(np.int64(0))[1:4] == (4.0, False, True)


def test_death_at_the_time_limit_is_death(
    env: TakeCoverEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    tics = int(sum(play(env, 0)[1]))
    monkeypatch.setattr(takecover, "TIMEOUT_TICS", tics)
    assert play(env, 0)[2:] == (True, False) and env.caption.endswith("is hit")
    monkeypatch.setattr(takecover, "TIMEOUT_TICS", tics - 1)
    assert play(env, 0)[2:] == (False, True) and env.caption.endswith("survives")


def test_gymnasium_declares_the_time_limit() -> None:
    declared = gym.spec("worldflow/TakeCover-v0").max_episode_steps
    assert declared == math.ceil(takecover.TIMEOUT_TICS / takecover.FRAME_SKIP)


def test_the_same_seed_gives_the_same_bits_whatever_came_before(env: TakeCoverEnv) -> None:
    fresh = TakeCoverEnv()
    expected = play(fresh, 7)
    fresh.close()
    play(env, 1)
    env.reset(seed=2)  # an episode that is left unfinished
    env.step(np.int64(0))
    found = play(env, 7)
    assert found[1:] == expected[1:]
    np.testing.assert_array_equal(np.stack(found[0]), np.stack(expected[0]))
    assert len(play(env, 8)[1]) != len(expected[1])


def test_without_a_seed_episodes_differ_and_repeat(env: TakeCoverEnv) -> None:
    def three() -> list[bytes]:
        frames = [env.reset(seed=5)[0], env.reset()[0], env.reset()[0]]
        for _ in range(30):
            frames.append(env.step(np.int64(1))[0])
        return [frame.tobytes() for frame in frames]

    assert three() == three()


def test_the_actions_move_left_and_right(env: TakeCoverEnv) -> None:
    import vizdoom

    positions = []
    for action in (0, 1):
        env.reset(seed=0)
        before = env._game.get_game_variable(vizdoom.GameVariable.POSITION_Y)
        for _ in range(5):
            env.step(np.int64(action))
        after = env._game.get_game_variable(vizdoom.GameVariable.POSITION_Y)
        positions.append(after - before)
    assert positions[0] == pytest.approx(-positions[1], rel=0.1)
    assert abs(positions[0]) > 5


def test_nothing_is_left_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    env = TakeCoverEnv(render_mode="rgb_array")
    assert Path.cwd() == tmp_path
    env.reset(seed=0)
    frame = env.step(np.int64(0))[0]
    np.testing.assert_array_equal(env.render(), frame)
    folder = Path(env._stop.peek()[2][1])  # type: ignore[index]
    assert (folder / "_vizdoom").is_dir()
    env.close()
    env.close()
    assert list(tmp_path.iterdir()) == []
    assert not folder.exists()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        env.reset()


def test_missing_vizdoom_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_vizdoom(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "vizdoom":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_vizdoom)
    with pytest.raises(ConfigError, match="pip install vizdoom"):
        TakeCoverEnv()
