"""What a world is built of, what it learned from, and where its dreams begin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.codec import CodecConfig
from worldflow.denoiser import DenoiserConfig
from worldflow.errors import ConfigError
from worldflow.flow.flow import FlowConfig
from worldflow.heads.config import HeadsConfig
from worldflow.text.spec import TextSpec


@dataclass
class WorldConfig:
    """What a world is built of.

    Attributes:
        sigma: standard deviation of the noise on unit-scale latents, a constant of the world.
        context: K, frames of a real episode from which a dream starts.
        condition: size of the vector that action and text become.
    """

    sigma: float = 0.3
    context: int = 4
    condition: int = 128
    codec: CodecConfig = field(default_factory=CodecConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ConfigError(f"world.sigma is {self.sigma}; it must be positive")
        if self.context < 1:
            raise ConfigError(f"world.context is {self.context}; a dream needs a first frame")

    @property
    def reach(self) -> int:
        """How many frames back a dreamed frame depends on; its end may depend on more.

        What lies before changes nothing but where the sampler starts, within its tolerance.
        A layer sees W - 1 earlier positions, and position t of the flow reads frame t - 1.
        """
        flow, denoiser = self.flow.global_block.past.depth, self.denoiser.transformer.depth
        spans = flow * (self.flow.window - 1), denoiser * (self.denoiser.window - 1)
        return max(spans) + 1


@dataclass(frozen=True)
class HeldOut:
    """Which episodes a world did not learn from, see `worldflow.data.splitting.split`.

    Attributes:
        fraction: share of the frames; of the episodes, where each is a recording of its own.
        seed: of the split.
        episodes: how many episodes there were; a split of another number is another one.
        recordings: how many recordings they were (parts of); None, in worlds of before that was
            looked at: the split took each episode for a recording of its own.
        frames: how many frames all episodes had; None, in worlds of before frames counted.
        growing: whether the split was that of `split_growing`.
    """

    fraction: float
    seed: int
    episodes: int
    recordings: int | None = None
    frames: int | None = None
    growing: bool = False


@dataclass(frozen=True)
class WorldSpec:
    """What a world learned from, as far as its use must know.

    Attributes:
        action_spec: kind and limits of the actions.
        frame_shape: (H, W, 3).
        fps: frames a second at the speed of the source.
        source: how to make the real env again, as its dataset says.
        reward_range: smallest and largest reward of the data.
        held_out: the episodes that measurements must use.
        text: how captions were encoded; None: it learned without.
        knows_unknown_actions: whether it also learned from frames whose action it was not told;
            None, in worlds of before that was noted: nobody knows.
    """

    action_spec: ActionSpec
    frame_shape: tuple[int, int, int]
    fps: float
    source: dict[str, Any]
    reward_range: tuple[float, float]
    held_out: HeldOut
    text: TextSpec | None = None
    knows_unknown_actions: bool | None = None


@dataclass(frozen=True)
class Contexts:
    """Beginnings of held-out real episodes: frames (M, K, H, W, 3) uint8, actions (M, K, ...)."""

    frames: np.ndarray
    actions: np.ndarray
