"""Real environments through the encoder of a world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from worldflow.denoiser import tweedie
from worldflow.envs.spaces import observation_space, require_actions, require_frames
from worldflow.errors import ConfigError
from worldflow.storage import load_world
from worldflow.world_model import WorldModel


class LatentObservation(gym.Wrapper[np.ndarray, Any, np.ndarray, Any]):
    """A real env whose frames are observed as latents (N, C) float32.

    An agent trained on a world's latents plays the real game through this. The latents are the
    encoder's own, y = encode(x); those of a dream are denoised ones, y~ - sigma * score, so that
    the two differ by the denoiser's error. With `denoised` they are made as a dream's are: the
    world's noise is added and taken away again.

    Args:
        env: observes frames (H, W, 3) uint8 of the world's frame shape.
        world: a `WorldModel`, or the name or folder of one.
        denoised: whether latents pass noise and denoiser.
        seed: of that noise; the seed of a reset starts it anew.

    Raises:
        ConfigError: the env observes something else, or the latents shall be denoised and it has
            other actions or the denoiser looks ahead.
        WorldFormatError: the world cannot be loaded.
    """

    def __init__(
        self,
        env: gym.Env[np.ndarray, Any],
        world: str | Path | WorldModel,
        denoised: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(env)
        self.world = world if isinstance(world, WorldModel) else load_world(world)
        require_frames(env.observation_space, self.world)
        if denoised:
            require_actions(env.action_space, self.world)
            if self.world.config.denoiser.lookahead:
                raise ConfigError(
                    "denoised=True needs a denoiser that steps, and this world's has lookahead=1; "
                    "set denoised=False"
                )
        self.observation_space = observation_space(self.world, "latents")
        self._denoised = denoised
        self._device = next(self.world.parameters()).device
        self._generator = torch.Generator().manual_seed(seed)
        self._cache = self.world.denoiser.empty_cache(1)

    @torch.inference_mode()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        frame, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._generator = torch.Generator().manual_seed(seed)
        self._cache = self.world.denoiser.empty_cache(1)
        return self._see(frame, None), info

    @torch.inference_mode()
    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """A step of the env."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        return self._see(frame, action), reward, terminated, truncated, info

    def _see(self, frame: np.ndarray, action: Any) -> np.ndarray:
        """A frame (H, W, 3) uint8, which `action` led to (None: a reset), as latents (N, C)."""
        # A copy, as torch takes neither read-only arrays nor negative strides.
        pixels = torch.from_numpy(np.array(frame[None], order="C")).to(self._device)
        latents = self.world.codec.encode_frames(pixels)
        if self._denoised:
            latents = self._denoise(latents, action)
        return np.array(latents[0].float().cpu().numpy())

    def _denoise(self, latents: Tensor, action: Any) -> Tensor:
        """Latents (1, N, C) through the world's noise and denoiser."""
        world = self.world
        condition = world.conditioning.initial(1)
        if action is not None:
            taken = np.asarray(action, world.action_spec.dtype)[None]
            condition = world.conditioning.embed(torch.from_numpy(taken).to(self._device))
        noisy = world.add_noise(latents, self._generator)
        score, _, self._cache = world.denoiser.step(noisy, condition, self._cache)
        return tweedie(noisy, score, world.config.sigma)
