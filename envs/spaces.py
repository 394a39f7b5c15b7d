"""Between Gymnasium's spaces and worldflow's: actions and observations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldflow.actions import ActionSpec
from worldflow.errors import ConfigError

if TYPE_CHECKING:  # real environments use this module without torch
    from worldflow.world_model import WorldModel

OBSERVATIONS = ("frames", "latents")


def action_spec(space: gym.Space[Any]) -> ActionSpec:
    """The spec of a Gymnasium action space.

    Raises:
        ConfigError: the space is neither `Discrete` from 0 nor a flat, finite, floating `Box`.
    """
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            raise ConfigError(
                f"action space {space} does not start at 0; wrap the env with "
                "gymnasium.wrappers.TransformAction so that actions count from 0"
            )
        return ActionSpec("discrete", n=int(space.n))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if len(space.shape) != 1 or not space.is_bounded("both"):
            raise ConfigError(
                f"action space {space} must be flat (one axis) with finite limits; wrap the env "
                "with gymnasium.wrappers.TransformAction or RescaleAction"
            )
        return ActionSpec(
            "box", low=tuple(map(float, space.low)), high=tuple(map(float, space.high))
        )
    raise ConfigError(
        f"action space {space} is not supported; use an env with Discrete or flat floating Box "
        "actions, or wrap it to have such"
    )


def action_space(spec: ActionSpec) -> spaces.Discrete | spaces.Box:
    """The Gymnasium space of a spec; "none" becomes `Discrete(1)`."""
    if spec.kind == "box":
        low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
        return spaces.Box(low, high, dtype=np.float32)
    return spaces.Discrete(spec.n if spec.kind == "discrete" else 1)


def observation_space(world: WorldModel, observation: str) -> spaces.Box:
    """What one env observes of a world.

    Args:
        world: gives the sizes.
        observation: "frames", (H, W, 3) uint8, or "latents", (N, C) float32 without limits.

    Raises:
        ValueError: another observation.
    """
    if observation not in OBSERVATIONS:
        raise ValueError(f"observation must be one of {OBSERVATIONS}, got {observation!r}")
    if observation == "frames":
        return spaces.Box(0, 255, world.frame_shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, (world.tokens, world.channels), np.float32)


def require_frames(space: gym.Space[Any], world: WorldModel) -> None:
    """Raises ConfigError unless one env observes frames as the world's codec takes them."""
    shape = tuple(world.frame_shape)
    if space.shape != shape or space.dtype != np.uint8:
        raise ConfigError(
            f"the env observes {space}, but this world's codec takes frames {shape} uint8; "
            f"make the env by worldflow.envs.sources.make_source with frame_size={shape[0]}"
        )


def require_actions(space: gym.Space[Any], world: WorldModel) -> None:
    """Raises ConfigError unless one env has the world's actions."""
    found = action_spec(space)
    if found != world.action_spec:
        raise ConfigError(
            f"the env has actions {found}, but this world has {world.action_spec}; "
            "use the world of this env, or wrap the env's actions as its source does"
        )
