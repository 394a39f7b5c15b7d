"""One episode: frames, and what led to each and arrived with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from worldflow.errors import DataError


@dataclass(frozen=True)
class Episode:
    """One episode of T frames (T - 1 environment steps), or a slice of one.

    Args:
        frames: (T, H, W, 3) uint8.
        actions: (T, ...) int64 or float32; `actions[t]` led to `frames[t]`.
        rewards: (T,) float32.
        terminated: (T,) bool.
        known: (T,) bool; where False, the action was not recorded and `actions` holds a zero.
        seed: the seed given to the source's reset.
        truncated: whether the last frame is where a time limit cut the episode.
        recording: name of the recording that this is a part of, which other episodes may be parts
            of too; None: the episode is a recording of its own.
        caption: what the whole episode shows, in words; None: nobody said.

    Raises:
        DataError: lengths or dtypes do not fit.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    known: np.ndarray
    seed: int
    truncated: bool
    recording: str | None = None
    caption: str | None = None

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise DataError(
                "episode frames must be (T, H, W, 3) uint8, got "
                f"{self.frames.shape} {self.frames.dtype}"
            )
        if self.caption is not None and not self.caption.strip():
            raise DataError("an episode's caption is empty; it must be words, or None")
        length = len(self.frames)
        if length == 0:
            raise DataError("an episode needs at least one frame")
        if self.actions.dtype not in (np.int64, np.float32):
            raise DataError(f"episode actions must be int64 or float32, got {self.actions.dtype}")
        if self.actions.ndim < 1 or len(self.actions) != length:
            raise DataError(f"{length} frames but actions of shape {self.actions.shape}")
        for name, array, dtype in (
            ("rewards", self.rewards, np.float32),
            ("terminated", self.terminated, np.bool_),
            ("known", self.known, np.bool_),
        ):
            if array.shape != (length,) or array.dtype != dtype:
                raise DataError(
                    f"episode {name} must be ({length},) {np.dtype(dtype)}, got "
                    f"{array.shape} {array.dtype}"
                )

    def __len__(self) -> int:
        return len(self.frames)


class EpisodeSteps(NamedTuple):
    """An `Episode` without its frames."""

    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    known: np.ndarray
    truncated: bool
