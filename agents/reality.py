"""The real game behind a world, as an agent of that world sees it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

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


def make_real(
    world: WorldModel, num_envs: int, observation: str, limit: int | None = None
) -> RealBatch:
    """The real environments from which a world was learned, seen as an agent on it sees them.

    Args:
        world: names its source; encodes the frames where latents are seen.
        num_envs: environments side by side.
        observation: "frames" or "latents".
        limit: steps after which an episode is cut, where the source's own limit is not less.

    Raises:
        ConfigError: the world was learned from video alone, or its frames or actions differ from
            the environment's.
    """
    source = world.spec.source
    if not source.get("env_id"):
        raise ConfigError("this world was learned from no environment; set real=false")
    config = SourceConfig(**source)
    if limit is not None:
        own = config.max_episode_steps
        config = replace(config, max_episode_steps=limit if own is None else min(limit, own))
    envs = [make_source(config) for _ in range(num_envs)]
    shape, actions = envs[0].observation_space.shape, action_spec(envs[0].action_space)
    if shape != tuple(world.frame_shape) or actions != world.action_spec:
        raise ConfigError(
            f"{source['env_id']} has frames {shape} and actions {actions}, but the world "
            f"{tuple(world.frame_shape)} and {world.action_spec}"
        )
    if observation == "frames":
        return RealBatch(envs)
    return RealBatch([LatentObservation(env, world) for env in envs])
