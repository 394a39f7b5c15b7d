"""Any Gymnasium environment as a source of video: frames of one size, repeated actions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldflow.envs.spaces import action_space, action_spec
from worldflow.errors import ConfigError


@dataclass
class SourceConfig:
    """Which real environment is recorded, and how.

    Args:
        env_id: a Gymnasium id, `module:id` where a module must be imported to register it.
        kwargs: arguments of the environment.
        frame_size: height and width of the frames in pixels.
        frame_skip: environment steps per action; rewards are summed and it stops at the end.
        fps: frames per second of the environment before the frame skip; None: what the
            environment says.
        max_episode_steps: actions after which an episode is truncated, for environments that have
            no limit of their own, or one that is too long; None: the environment's own limit.
    """

    env_id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    frame_size: int = 64
    frame_skip: int = 1
    fps: float | None = None
    max_episode_steps: int | None = None


class FrameSource(gym.Wrapper[np.ndarray, Any, Any, Any]):
    """An environment that observes frames (frame_size, frame_size, 3) uint8.

    Frames are the environment's own observations where these are images, its `rgb_array`
    rendering otherwise; resized by area, grey ones expanded to RGB.

    Args:
        env: the environment, made with `render_mode="rgb_array"` unless it observes images.
        config: see `SourceConfig`.

    Raises:
        ConfigError: the environment has no image, no frame rate or an unsupported action space.
    """

    def __init__(self, env: gym.Env[Any, Any], config: SourceConfig) -> None:
        super().__init__(env)
        if config.frame_size < 1 or config.frame_skip < 1:
            raise ConfigError(
                "source.frame_size and source.frame_skip must be 1 or more, got "
                f"{config.frame_size} and {config.frame_skip}"
            )
        if config.max_episode_steps is not None and config.max_episode_steps < 1:
            raise ConfigError(
                f"source.max_episode_steps is {config.max_episode_steps}; it must be 1 or more"
            )
        self.config = config
        self.observes_images = _is_image(env.observation_space)
        if not self.observes_images and env.render_mode != "rgb_array":
            raise _no_image(env, config.env_id)
        self.action_spec = action_spec(env.action_space)
        self.action_space = action_space(self.action_spec)
        self.frame_shape = (config.frame_size, config.frame_size, 3)
        self.observation_space = spaces.Box(0, 255, self.frame_shape, np.uint8)
        rate = config.fps if config.fps is not None else env.metadata.get("render_fps")
        if rate is None or rate <= 0:
            raise ConfigError(
                f"{config.env_id} states no frame rate; set source.fps (frames per second)"
            )
        self.fps = float(rate) / config.frame_skip
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.fps}
        self._frame: np.ndarray | None = None
        self._steps = 0

    @property
    def limit(self) -> int | None:
        """Actions after which an episode is truncated, as far as the environment declares it."""
        limits = [self.config.max_episode_steps]
        own = None if self.env.spec is None else self.env.spec.max_episode_steps
        if own is not None and own > 0:  # -1 takes the limit away
            limits.append(math.ceil(own / self.config.frame_skip))
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def render_mode(self) -> str:  # type: ignore[override]
        """Always "rgb_array": the frames are there."""
        return "rgb_array"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The first frame of a new episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        return self._observe(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeat the action `frame_skip` times, or until the episode ends; rewards are summed.

        The step that reaches `max_episode_steps` truncates, unless the episode terminated there.
        """
        inner = self.env.action_space
        if isinstance(inner, spaces.Box):
            action = np.clip(np.asarray(action, inner.dtype), inner.low, inner.high)
        else:
            action = int(action)
        total = 0.0
        for _ in range(self.config.frame_skip):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        self._steps += 1
        if not terminated and self._steps == self.config.max_episode_steps:
            truncated = True
        cut = bool(truncated) and not terminated  # Gymnasium's own limit says both
        return self._observe(observation), total, bool(terminated), cut, info

    def render(self) -> np.ndarray:
        """The current frame, (frame_size, frame_size, 3) uint8.

        Raises:
            gymnasium.error.ResetNeeded: there is no frame before the first reset.
        """
        if self._frame is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        return self._frame.copy()

    def _observe(self, observation: Any) -> np.ndarray:
        image = np.asarray(observation if self.observes_images else self.env.render())
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise ConfigError(
                f"{self.config.env_id} rendered {image.dtype} {image.shape}, not an image"
            )
        size = self.config.frame_size
        if image.shape[:2] != (size, size):
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        image = image.reshape(size, size, -1)  # cv2 drops a channel axis of length 1
        self._frame = np.broadcast_to(image[..., :3], self.frame_shape).copy()
        return self._frame.copy()


def make_source(config: SourceConfig) -> FrameSource:
    """The environment of a config, ready to be recorded or played.

    Raises:
        ConfigError: the id is unknown, its package is missing, its arguments are wrong, or the
            environment has no image or an unsupported action space.
    """
    env = _make(config, {})
    try:
        if not _is_image(env.observation_space) and env.render_mode != "rgb_array":
            if "rgb_array" not in (env.metadata.get("render_modes") or ()):
                raise _no_image(env, config.env_id)
            env.close()
            env = _make(config, {"render_mode": "rgb_array"})
        return FrameSource(env, config)
    except ConfigError:
        env.close()
        raise


def _make(config: SourceConfig, extra: dict[str, Any]) -> gym.Env[Any, Any]:
    try:
        return gym.make(config.env_id, disable_env_checker=True, **{**config.kwargs, **extra})
    except (gym.error.Error, ImportError, TypeError) as error:
        raise ConfigError(
            f"source.env_id={config.env_id} with source.kwargs={config.kwargs} cannot be made: "
            f"{error}. Check both, install the environment's package, and name the module that "
            "registers the id, as in minigrid:MiniGrid-Empty-8x8-v0"
        ) from error


def _is_image(space: gym.Space[Any]) -> bool:
    """Whether observations are uint8 images (H, W), (H, W, 1) or (H, W, 3)."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[-1] in (1, 3))


def _no_image(env: gym.Env[Any, Any], env_id: str) -> ConfigError:
    return ConfigError(
        f"{env_id} observes {env.observation_space} and offers no rgb_array rendering: there are "
        "no frames to record; use an environment that has either"
    )
