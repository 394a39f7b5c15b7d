"""How a dreamed episode begins: from the world's contexts, a user's own frames, or a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from worldflow.errors import DataError
from worldflow.flow.guidance import Guidance
from worldflow.generation.inputs import no_actions, read_start
from worldflow.randomness import Generators
from worldflow.text.prompt import prompt_vector
from worldflow.world_model import WorldModel
from worldflow.world_spec import Contexts
from worldflow.world_state import WorldState


@dataclass
class Start:
    """How every episode begins.

    Attributes:
        initial_frames: the first frames: an image or a video file, which are fitted to the world's
            size, or (K, H, W, 3) uint8 of that size. What led to them is unknown to the world.
            None: the world's contexts or, with a prompt, a frame that is dreamed.
        prompt: what the episodes are about, for worlds that learned from captions.
        guidance: of every frame towards the prompt or the actions.
    """

    initial_frames: str | Path | np.ndarray | None = None
    prompt: str | None = None
    guidance: Guidance = field(default_factory=Guidance)


class Beginnings:
    """Begins episodes in a world.

    Args:
        world: in which.
        start: how.

    Attributes:
        count: of contexts among which one is drawn; 0 where the first frame is dreamed.

    Raises:
        DataError: frames that cannot be read or do not fit, a prompt for a world that learned from
            no captions, or a world without contexts.
        ConfigError: guidance over what the world does not know or is not told, or no encoder for
            the prompt.
    """

    def __init__(self, world: WorldModel, start: Start) -> None:
        self._world, self._guidance = world, world.conditioning.check_guidance(start.guidance)
        self._text: torch.Tensor | None = None
        if start.prompt is not None:
            self._text = prompt_vector(world.spec.text, start.prompt)
        self._guidance.check_told(self._text is not None, world.action_spec.kind != "none")
        self._contexts: Contexts | None = None
        self._known = start.initial_frames is None
        if start.initial_frames is not None:
            frames = _frames(world, start.initial_frames)
            actions, _ = no_actions(world.action_spec, len(frames))
            self._contexts = Contexts(frames[None], actions[None])
        elif start.prompt is None:
            self._contexts = world.context
        self.count = 0 if self._contexts is None else len(self._contexts.frames)

    def begin(self, picks: np.ndarray, generators: Generators, temperature: float) -> WorldState:
        """The states of B rows after their first frames.

        Args:
            picks: of each row the context, (B,); unused where the first frame is dreamed.
            generators: of each row.
            temperature: of a dreamed first frame.
        """
        world, batch = self._world, len(picks)
        text = None if self._text is None else self._text.expand(batch, -1)
        if self._contexts is None:
            return world.first_frame(batch, generators, temperature, text, self._guidance)[0]
        device = world.conditioning.null.device
        frames = torch.from_numpy(self._contexts.frames[picks]).to(device)
        actions = torch.from_numpy(self._contexts.actions[picks]).to(device)
        known = None if self._known else torch.zeros(frames.shape[:2], dtype=torch.bool).to(device)
        return world.initial_state(frames, actions, generators, known, text, self._guidance)


def _frames(world: WorldModel, given: str | Path | np.ndarray) -> np.ndarray:
    if not isinstance(given, np.ndarray):
        return read_start(given, world.frame_shape, "crop", world.config.reach)
    shape = (max(len(given), 1) if given.ndim else 1, *world.frame_shape)
    if given.shape != shape or given.dtype != np.uint8:
        raise DataError(
            f"initial_frames are {given.shape} {given.dtype}; this world needs "
            f"(K, {', '.join(map(str, world.frame_shape))}) uint8, or the path of an image or video"
        )
    return given
