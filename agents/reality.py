"""The real game, as an agent sees it: the one behind a world, or one that is named."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from worldflow.agents.play import Eyes, RealBatch
from worldflow.envs.latent_observation import LatentObservation
from worldflow.envs.sources import SourceConfig, make_source
from worldflow.envs.spaces import action_spec
from worldflow.errors import ConfigError
from worldflow.world_model import WorldModel


def codec_eyes(world: WorldModel) -> Eyes:
    """Frames as the world's codec shows them."""
    device = next(world.parameters()).device

    def see(frames: np.ndarray) -> np.ndarray:
        return world.reconstruct(torch.from_numpy(frames).to(device)).cpu().numpy()

    return see


def source_of(world: WorldModel) -> SourceConfig:
    """The real environment from which a world was learned.

    Raises:
        ConfigError: it was learned from video alone.
    """
    source = world.spec.source
    if not source.get("env_id"):
        raise ConfigError("this world was learned from no environment; set real=false")
    return SourceConfig(**source)


def real_envs(
    world: WorldModel | None,
    num_envs: int,
    observation: str,
    source: SourceConfig | None = None,
    denoised: bool = False,
) -> list[gym.Env[Any, Any]]:
    """Real environments, seen as an agent sees them.

    Args:
        world: encodes the frames where latents are seen, and names the source where none is given;
            None for an agent on frames that knows no world.
        num_envs: how many.
        observation: "frames" or "latents".
        source: which; the world's own if None.
        denoised: whether latents pass the world's noise and denoiser, as a dream's do.

    Raises:
        ConfigError: neither says which, the world was learned from video alone, or its frames or
            actions differ from the environment's.
    """
    if source is None:
        if world is None:
            raise ConfigError("which real environment? give source=... or a world")
        source = source_of(world)
    if observation == "latents" and world is None:
        raise ConfigError(
            "latents of real frames are made by a world's encoder: give world=..., or set "
            "agent.observation=frames"
        )
    envs: list[gym.Env[Any, Any]] = []
    try:
        for _ in range(num_envs):
            envs.append(make_source(source))
        if world is not None:
            _check(envs[0], source, world)
    except BaseException:
        for env in envs:
            env.close()
        raise
    if observation == "frames" or world is None:
        return envs
    return [LatentObservation(env, world, denoised) for env in envs]


def make_real(
    world: WorldModel | None,
    num_envs: int,
    observation: str,
    source: SourceConfig | None = None,
    limit: int | None = None,
    denoised: bool = False,
) -> RealBatch:
    """As `real_envs`, for playing a fixed set of episodes.

    Args:
        world: see `real_envs`, and so the next three.
        num_envs: environments side by side.
        observation: "frames" or "latents".
        source: which.
        limit: steps after which an episode is cut, where the source's own limit is not less.
        denoised: see `real_envs`.
    """
    if limit is not None and (source is not None or world is not None):
        source = source_of(world) if source is None and world is not None else source
        assert source is not None
        own = source.max_episode_steps
        source = replace(source, max_episode_steps=limit if own is None else min(limit, own))
    return RealBatch(real_envs(world, num_envs, observation, source, denoised))


def make_real_venv(
    world: WorldModel | None,
    num_envs: int,
    observation: str,
    source: SourceConfig | None = None,
    processes: bool = False,
) -> VecEnv:
    """As `real_envs`, for learning.

    Args:
        world: see `real_envs`, and so the next three.
        num_envs: environments side by side.
        observation: "frames" or "latents".
        source: which.
        processes: give each environment a process of its own; otherwise they are stepped one after
            the other in this one. The episodes are the same.

    Raises:
        ConfigError: see `real_envs`; or processes with latents, which one encoder makes.
    """
    if not processes:
        envs = real_envs(world, num_envs, observation, source)
        return DummyVecEnv([lambda env=env: env for env in envs])  # type: ignore[misc]
    if observation == "latents":
        raise ConfigError(
            "processes=true is for agents on frames: with agent.observation=latents each process "
            "would need the world; set one of them otherwise"
        )
    for env in real_envs(world, 1, observation, source):  # whether it can be made, and fits
        env.close()
    if source is None:
        assert world is not None
        source = source_of(world)
    return SubprocVecEnv([partial(make_source, source)] * num_envs)


def _check(env: gym.Env[Any, Any], source: SourceConfig, world: WorldModel) -> None:
    shape, actions = env.observation_space.shape, action_spec(env.action_space)
    if shape != tuple(world.frame_shape) or actions != world.action_spec:
        raise ConfigError(
            f"{source.env_id} has frames {shape} and actions {actions}, but the world "
            f"{tuple(world.frame_shape)} and {world.action_spec}"
        )
