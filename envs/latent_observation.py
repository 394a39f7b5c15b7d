"""A real environment seen through a world's encoder, for agents trained on latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from worldflow.envs.spaces import observation_space, require_frames
from worldflow.storage import load_world
from worldflow.world_model import WorldModel


class LatentObservation(gym.ObservationWrapper[np.ndarray, Any, np.ndarray]):
    """A real env whose frames are observed as latents (N, C) float32.

    An agent trained on a world's latents plays the real game through this. The latents are the
    encoder's own, y = encode(x); those of a dream are denoised ones, y~ - sigma * score, so that
    the two differ by the denoiser's error.

    Args:
        env: observes frames (H, W, 3) uint8 of the world's frame shape.
        world: a `WorldModel`, or the name or folder of one.

    Raises:
        ConfigError: the env observes something else.
        WorldFormatError: the world cannot be loaded.
    """

    def __init__(self, env: gym.Env[np.ndarray, Any], world: str | Path | WorldModel) -> None:
        super().__init__(env)
        self.world = world if isinstance(world, WorldModel) else load_world(world)
        require_frames(env.observation_space, self.world)
        self.observation_space = observation_space(self.world, "latents")

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) uint8 as latents (N, C) float32."""
        # A copy, as torch takes neither read-only arrays nor negative strides.
        frame = torch.from_numpy(np.array(observation, order="C"))
        with torch.inference_mode():
            latents = self.world.codec.encode_frames(frame.to(next(self.world.parameters()).device))
        return np.array(latents.float().cpu().numpy())
