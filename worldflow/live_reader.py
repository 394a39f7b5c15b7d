"""B real episodes read by the flow as they come, frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldflow.flow.flow import FlowOutput, FlowState
from worldflow.randomness import Generators

if TYPE_CHECKING:
    from worldflow.world_model import WorldModel


class LiveReader:
    """What the flow says of each frame, given the episode so far.

    Args:
        world: in eval mode.
        rows: B.
        text: of each episode, (B, E), see `worldflow.text.encoder.embed`; None: none.

    Raises:
        DataError: text for a world that knows none, or of another shape.
    """

    def __init__(self, world: WorldModel, rows: int, text: Tensor | None = None) -> None:
        self.world, self.rows = world, rows
        self._text = None if text is None else world.conditioning.texts(rows, text)
        self._device = next(world.parameters()).device
        self._state = world.flow.empty_state(rows)

    @torch.no_grad()
    def reset(
        self, rows: Tensor, frames: Tensor, generators: Generators
    ) -> tuple[Tensor, FlowOutput]:
        """The first frames of new episodes.

        Args:
            rows: (B,) bool, where an episode begins; the others keep their state, bit for bit.
            frames: (B, H, W, 3) uint8.
            generators: of the noise on the latents.

        Returns:
            the latents of all frames, (B, N, C), and what the flow says of them as first ones.
        """
        world, flow = self.world, self.world.flow
        latents = world.codec.encode_frames(frames.to(self._device))
        state, out = flow.observe(
            flow.empty_state(self.rows),
            world.add_noise(latents, generators),
            world.conditioning.initial(self.rows, self._text),
        )
        self._state = FlowState.where(rows.to(self._device), state, self._state)
        return latents, out

    @torch.no_grad()
    def step(
        self, frames: Tensor, actions: Tensor, generators: Generators
    ) -> tuple[Tensor, FlowOutput]:
        """The next frames (B, H, W, 3) uint8, to which `actions` (B, ...) led; as `reset`."""
        world = self.world
        latents = world.codec.encode_frames(frames.to(self._device))
        condition = world.conditioning.embed(actions.to(self._device), text=self._text)
        noisy = world.add_noise(latents, generators)
        self._state, out = world.flow.observe(self._state, noisy, condition)
        return latents, out
