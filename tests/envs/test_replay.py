"""Starts that are found again: to the bit, and with other chance where there is one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from worldflow.envs.replay import Replay
from worldflow.envs.sources import FrameSource, SourceConfig, make_source
from worldflow.errors import ConfigError, DataError


def catch(drift: float) -> FrameSource:
    return make_source(SourceConfig("worldflow/Catch-v0", {"drift": drift}))


class Forgetful(gym.Env[np.ndarray, Any]):
    """Shows a number of its own at every step, whatever the seed."""

    metadata = {"render_fps": 8}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(2)
    count = 0

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.left = 5
        return self.frame(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self.frame(), 0.0, self.left == 0, False, {"left": self.left}

    def frame(self) -> np.ndarray:
        self.count += 1
        return np.full((64, 64, 3), self.count % 256, np.uint8)


def test_a_start_is_before_the_end_and_is_found_again() -> None:
    replay = Replay(catch(0.5))
    lengths = set()
    for seed in range(30):
        start = replay.start(seed, 2, 0.5, np.random.default_rng(seed))
        assert start is not None
        assert start.frames.shape[1:] == (64, 64, 3)
        assert len(start.actions) == len(start.frames)
        lengths.add(len(start.frames))
        once, again = (replay.follow(start, np.zeros(9, np.int64)) for _ in range(2))
        np.testing.assert_array_equal(once.frames, again.frames)
        assert len(start.frames) + len(once.frames) == 8  # seven steps to the ground
        assert once.rewards[-1] in (-1.0, 1.0)
        assert np.isnan(once.value)
    assert lengths == {2, 3, 4, 5, 6, 7}
    assert replay.start(0, 8, 0.5, np.random.default_rng(0)) is None


def test_chance_is_drawn_anew_where_the_environment_can() -> None:
    replay = Replay(catch(1.0))
    start = replay.start(0, 1, 0.5, np.random.default_rng(3))
    assert start is not None
    assert replay.has_chance
    plan = np.ones(7, np.int64)
    made = [replay.follow(start, plan, chance).frames for chance in (1, 1, 2, 3, 4)]
    np.testing.assert_array_equal(made[0], made[1])
    assert any(not np.array_equal(made[0], other) for other in made[2:])


def test_an_environment_that_does_not_repeat_itself_is_refused() -> None:
    env = FrameSource(Forgetful(), SourceConfig("forgetful"))
    replay = Replay(env)
    assert not replay.has_chance
    start = replay.start(0, 2, 0.5, np.random.default_rng(0))
    assert start is not None
    with pytest.raises(DataError, match="forgetful shows another frame after the same seed"):
        replay.follow(start, np.zeros(2, np.int64))


def test_infos_are_read_and_missing_ones_named() -> None:
    env = catch(0.0)
    start = Replay(env).start(0, 1, 0.5, np.random.default_rng(0))
    assert start is not None
    with pytest.raises(ConfigError, match="has no 'health' in its infos"):
        Replay(env, "health").follow(start, np.zeros(2, np.int64))
    with pytest.raises(ConfigError, match=r"has no reseed\(seed\)"):
        bare = Replay(FrameSource(Forgetful(), SourceConfig("forgetful")))
        bare._env.unwrapped.frame = lambda: np.zeros((64, 64, 3), np.uint8)  # type: ignore[attr-defined]
        begun = bare.start(0, 1, 0.5, np.random.default_rng(0))
        assert begun is not None
        bare.follow(begun, np.zeros(2, np.int64), chance=1)


def test_take_cover_repeats_itself_and_tells_its_health() -> None:
    pytest.importorskip("vizdoom")
    env = make_source(SourceConfig("worldflow/TakeCover-v0"))
    replay = Replay(env, "health")
    assert not replay.has_chance
    start = replay.start(1, 4, 0.5, np.random.default_rng(1))
    assert start is not None
    once, again = (replay.follow(start, np.zeros(200, np.int64)) for _ in range(2))
    np.testing.assert_array_equal(once.frames, again.frames)
    assert once.value == again.value == 0.0  # whoever holds one button for 23 seconds dies
    assert replay.follow(start, np.zeros(1, np.int64)).value > 0.0
    env.close()
