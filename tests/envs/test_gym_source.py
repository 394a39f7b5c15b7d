"""Any Gymnasium environment as a source: frames, frame skip, actions, errors."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import worldflow  # noqa: F401 - registers the ids
from worldflow.actions import ActionSpec
from worldflow.envs.sources import FrameSource, SourceConfig, make_source
from worldflow.errors import ConfigError


class Counter(gym.Env[Any, Any]):
    """Frame t is filled with 10 t, the reward of step t is t, step 7 is the last."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(
        self,
        observed: tuple[int, ...] | None = None,
        action: gym.Space[Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        shape = observed if observed is not None else (2,)
        dtype = np.uint8 if observed is not None else np.float32
        self.observation_space = spaces.Box(0, 255, shape, dtype)
        self.action_space = action if action is not None else spaces.Discrete(3)
        self.render_mode = render_mode
        self.time = 0
        self.actions: list[Any] = []

    def _observe(self) -> np.ndarray:
        space = self.observation_space
        return np.full(space.shape, 10 * self.time, space.dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        self.actions.append(action)
        return self._observe(), float(self.time), self.time == 7, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.full((20, 30, 3), 10 * self.time, np.uint8)


class Blind(Counter):
    """Observes no image and renders none."""

    metadata: dict[str, Any] = {"render_modes": [], "render_fps": 12}  # noqa: RUF012


class Timeless(Counter):
    """States no frame rate."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012


@pytest.fixture(autouse=True)
def registered() -> Any:
    for kind in (Counter, Blind, Timeless):
        gym.register(f"Test{kind.__name__}-v0", entry_point=kind)
    yield
    for kind in (Counter, Blind, Timeless):
        del gym.registry[f"Test{kind.__name__}-v0"]


@pytest.mark.parametrize("observed", [None, (32, 32), (20, 30, 1), (64, 64, 3)])
def test_frames_have_one_shape(observed: tuple[int, ...] | None) -> None:
    kwargs = {} if observed is None else {"observed": observed}
    env = make_source(SourceConfig("TestCounter-v0", kwargs, frame_size=16))
    assert env.observes_images == (observed is not None)
    frame, _ = env.reset(seed=0)
    assert frame.shape == env.frame_shape == (16, 16, 3)
    assert frame.dtype == np.uint8
    assert (frame == 0).all()
    frame, reward, terminated, truncated, _ = env.step(np.int64(1))
    assert (frame == 10).all()
    assert (reward, terminated, truncated) == (1.0, False, False)
    np.testing.assert_array_equal(env.render(), frame)


def test_frame_skip_sums_rewards_and_stops_at_the_end() -> None:
    env = make_source(SourceConfig("TestCounter-v0", frame_skip=3))
    assert env.fps == env.metadata["render_fps"] == 4.0
    env.reset(seed=0)
    seen = [env.step(np.int64(0))[:3] for _ in range(3)]
    assert [int(frame[0, 0, 0]) for frame, _, _ in seen] == [30, 60, 70]
    assert [reward for _, reward, _ in seen] == [1.0 + 2 + 3, 4.0 + 5 + 6, 7.0]
    assert [terminated for _, _, terminated in seen] == [False, False, True]


class Endless(Counter):
    """Never ends by itself."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        frame, reward, _, _, info = super().step(action)
        return frame, reward, False, False, info


def test_an_environment_without_a_limit_ends_at_the_sources() -> None:
    env = FrameSource(
        Endless(render_mode="rgb_array"), SourceConfig("x", frame_skip=3, max_episode_steps=4)
    )
    for _ in range(2):  # the second episode counts from zero again
        env.reset(seed=0)
        ends = [env.step(np.int64(0))[2:4] for _ in range(4)]
        assert ends == [(False, False)] * 3 + [(False, True)]
        assert env.unwrapped.time == 12  # type: ignore[attr-defined]


def test_an_end_at_the_limit_is_an_end() -> None:
    env = make_source(SourceConfig("TestCounter-v0", max_episode_steps=7))
    env.reset(seed=0)
    ends = [env.step(np.int64(0))[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(True, False)]


def test_the_limit_that_an_environment_declares() -> None:
    gym.register("TestLimited-v0", entry_point=Counter, max_episode_steps=7)
    try:

        def limit(env_id: str = "TestLimited-v0", **settings: Any) -> int | None:
            return make_source(SourceConfig(env_id, **settings)).limit

        assert (limit(), limit(max_episode_steps=5), limit(max_episode_steps=9)) == (7, 5, 7)
        assert limit(frame_skip=3) == 3  # the third action is cut after one step
        assert limit("TestCounter-v0") is None
        assert limit("TestCounter-v0", max_episode_steps=4) == 4
        assert limit(kwargs={"max_episode_steps": -1}) is None
        env = make_source(SourceConfig("TestLimited-v0"))
        env.reset(seed=0)
        ends = [env.step(np.int64(0))[2:4] for _ in range(7)]
        assert ends == [(False, False)] * 6 + [(True, False)]  # it ended there, and was not cut
    finally:
        del gym.registry["TestLimited-v0"]


def test_actions_reach_the_environment_as_its_own_kind() -> None:
    env = make_source(SourceConfig("TestCounter-v0"))
    env.reset(seed=0)
    env.step(np.asarray(2, dtype=np.int64))
    assert env.unwrapped.actions == [2]  # type: ignore[attr-defined]
    box = spaces.Box(-0.1, 0.1, (2,), np.float64)
    env = make_source(SourceConfig("TestCounter-v0", {"action": box}))
    env.reset(seed=0)
    env.step(np.array([0.1, -0.1], np.float32))  # 0.1 is larger in float32 than in float64
    assert env.action_spec == ActionSpec("box", low=(-0.1, -0.1), high=(0.1, 0.1))
    assert env.action_space.dtype == np.float32


def test_both_checkers_are_silent() -> None:
    env = FrameSource(
        gym.make("worldflow/Catch-v0").unwrapped, SourceConfig("Catch", frame_size=48)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Wrapped on purpose, which the checker would warn of.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(env, skip_render_check=True, skip_close_check=True)
        check_env_sb3(env)


def test_catch_passes_unchanged() -> None:
    plain = gym.make("worldflow/Catch-v0").unwrapped
    env = make_source(SourceConfig("worldflow/Catch-v0", {"drift": 0.0}))
    assert env.observes_images
    np.testing.assert_array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0])
    np.testing.assert_array_equal(env.step(np.int64(0))[0], plain.step(np.int64(0))[0])


@pytest.mark.parametrize(
    ("package", "env_id", "kwargs", "spec"),
    [
        ("ale_py", "ale_py:ALE/Pong-v5", {}, ActionSpec("discrete", n=6)),
        ("ale_py", "ale_py:ALE/Pong-v5", {"obs_type": "grayscale"}, ActionSpec("discrete", n=6)),
        ("minigrid", "minigrid:MiniGrid-Empty-5x5-v0", {}, ActionSpec("discrete", n=7)),
        ("pygame", "CartPole-v1", {}, ActionSpec("discrete", n=2)),
        ("pygame", "Pendulum-v1", {}, ActionSpec("box", low=(-2.0,), high=(2.0,))),
    ],
)
def test_known_environments(
    package: str, env_id: str, kwargs: dict[str, Any], spec: ActionSpec
) -> None:
    pytest.importorskip(package)
    env = make_source(SourceConfig(env_id, kwargs, frame_skip=2))
    frame, _ = env.reset(seed=0)
    assert frame.std() > 0
    assert env.action_spec == spec
    env.action_space.seed(0)
    for _ in range(3):
        assert env.step(env.action_space.sample())[0].shape == (64, 64, 3)
    env.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SourceConfig("TestBlind-v0"), "no rgb_array rendering"),
        (SourceConfig("TestTimeless-v0"), r"set source\.fps"),
        (SourceConfig("NoSuchEnv-v0"), r"NoSuchEnv.*name the module"),
        (SourceConfig("no_such_module:Env-v0"), "no_such_module"),
        (SourceConfig("TestCounter-v0", {"colour": 1}), "colour"),
        (SourceConfig("TestCounter-v0", {"action": spaces.MultiBinary(3)}), "not supported"),
        (SourceConfig("TestCounter-v0", frame_skip=0), "frame_skip"),
        (SourceConfig("TestCounter-v0", frame_size=0), "frame_size"),
        (SourceConfig("TestCounter-v0", max_episode_steps=0), r"source\.max_episode_steps"),
    ],
)
def test_errors_say_what_to_do(config: SourceConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_source(config)


def test_a_stated_frame_rate_is_taken() -> None:
    assert make_source(SourceConfig("TestTimeless-v0", fps=30.0, frame_skip=2)).fps == 15.0
