"""What can dream frame by frame under given actions: the flow, two ways, and diffusion."""

from __future__ import annotations

from typing import Protocol

import torch
from diffusion.targets import window
from diffusion.world import DiffusionWorld
from torch import Tensor

from worldflow.stepping import draw_frame
from worldflow.world_model import WorldModel


class Dreamer(Protocol):
    """Dreams of some rows. Frames and actions are on the CPU, whatever computes."""

    def begin(self, frames: Tensor, actions: Tensor, seed: int) -> None:
        """Start anew from real frames.

        Args:
            frames: (R, K, H, W, 3) uint8.
            actions: (R, K, ...); `actions[:, t]` led to `frames[:, t]`, `actions[:, 0]` is unused.
            seed: of all that is drawn.
        """

    def step(self, actions: Tensor) -> Tensor:
        """The next frames, (R, H, W, 3) uint8, to which `actions` (R, ...) lead."""


class FlowDreamer:
    """A flow world as it is: its noisy samples are what it goes on from.

    Args:
        world: in eval mode.
        temperature: scales z.
    """

    def __init__(self, world: WorldModel, temperature: float = 1.0) -> None:
        self.world, self.temperature = world, temperature
        self._device = next(world.parameters()).device

    def begin(self, frames: Tensor, actions: Tensor, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        frames, actions = frames.to(self._device), actions.to(self._device)
        self._state = self.world.initial_state(frames, actions, self._generator)

    def step(self, actions: Tensor) -> Tensor:
        self._state, made = self.world.step(
            self._state, actions.to(self._device), self._generator, self.temperature
        )
        return made.frame.cpu()


class CleanFlowDreamer:
    """The same flow, whose context are denoised latents instead of the noisy ones it learned from.

    The given frames are encoded without noise too. Each frame is sampled as by the world; then the
    flow observes what the denoiser made of it, in the place of the sample. The denoiser still sees
    the noisy samples, which is what it denoises.

    Args:
        world: in eval mode.
        temperature: scales z.
    """

    def __init__(self, world: WorldModel, temperature: float = 1.0) -> None:
        self.world, self.temperature = world, temperature
        self._device = next(world.parameters()).device

    @torch.inference_mode()
    def begin(self, frames: Tensor, actions: Tensor, seed: int) -> None:
        world, self._generator = self.world, torch.Generator().manual_seed(seed)
        clean = world.codec.encode_frames(frames.to(self._device))
        noisy = world.add_noise(clean, self._generator)
        condition = world.conditioning(actions.to(self._device))
        self._flow = world.flow.empty_state(len(frames))
        self._cache = world.denoiser.empty_cache(len(frames))
        for t in range(frames.shape[1]):
            self._flow, _ = world.flow.observe(self._flow, clean[:, t], condition[:, t])
            _, _, self._cache = world.denoiser.step(noisy[:, t], condition[:, t], self._cache)

    @torch.inference_mode()
    def step(self, actions: Tensor) -> Tensor:
        world = self.world
        condition = world.conditioning.embed(actions.to(self._device))
        drawn = draw_frame(
            world, self._flow, self._cache, condition, self._generator, self.temperature
        )
        self._flow, _ = world.flow.observe(self._flow, drawn.latents, condition)
        self._cache = drawn.denoiser
        return world.decode(drawn.latents).cpu()


class DiffusionDreamer:
    """A diffusion world; its own frames, as they are shown, are what it goes on from.

    Args:
        world: in eval mode.
        precision: "fp32", or "bf16": under autocast, several times faster where a processor has
            instructions for it.
    """

    def __init__(self, world: DiffusionWorld, precision: str = "fp32") -> None:
        self.world, self._bf16 = world, precision == "bf16"
        self._device = next(world.parameters()).device

    def begin(self, frames: Tensor, actions: Tensor, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        rows, exist = window(frames.shape[1], self.world.config.past)
        self._past = frames[:, rows].to(self._device)
        self._actions = actions[:, rows[:-1] + 1].to(self._device)
        self._known = torch.from_numpy(exist).to(self._device).expand(len(frames), -1)[:, :-1]

    def step(self, actions: Tensor) -> Tensor:
        taken = torch.cat((self._actions, actions[:, None].to(self._device)), dim=1)
        known = torch.cat((self._known, torch.ones_like(self._past[:, :1, 0, 0, 0]).bool()), dim=1)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            made = self.world.sample(self._past, taken, known, self._generator)
        self._past = torch.cat((self._past[:, 1:], made[:, None]), dim=1)
        self._actions, self._known = taken[:, 1:], known[:, 1:]
        return made.cpu()
