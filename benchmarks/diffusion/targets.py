"""What a diffusion world learns from: frames of episodes, each with the frames before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler
from worldflow.errors import DataError


@dataclass(frozen=True)
class Targets:
    """B frames to predict; see `DiffusionWorld.loss`.

    Attributes:
        frames: (B, H, W, 3) uint8.
        past: (B, L, H, W, 3) uint8, oldest first.
        actions: (B, L, ...), the last of which led to the frame.
        known: (B, L) bool.
    """

    frames: Tensor
    past: Tensor
    actions: Tensor
    known: Tensor


def window(length: int, past: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of `length` frames are the last `past` ones, and which of their actions exist.

    Where there are fewer, the first frame is repeated, to which no action led.

    Returns:
        indices (past,) of frames, and (past,) bool: whether the action that led to the frame AFTER
        each of them exists, which is so except where that is a first frame again.
    """
    wanted = np.arange(length - past, length)
    return np.maximum(wanted, 0), wanted >= 0


class TargetFrames:
    """All frames of some episodes but their first ones, numbered.

    Args:
        dataset: to read from.
        episodes: indices of the episodes.
        past: L.

    Raises:
        DataError: no episode has two frames.
    """

    def __init__(self, dataset: EpisodeDataset, episodes: np.ndarray, past: int) -> None:
        long = [int(index) for index in episodes if dataset.lengths[index] > 1]
        if not long:
            raise DataError(f"{dataset.folder}: no episode to learn from has two frames or more")
        self._dataset, self._past = dataset, past
        # a pair of frames for each frame that has one before it
        self._pairs = ClipSampler(dataset.lengths, long, clip=2)

    def __len__(self) -> int:
        """How many frames there are to predict."""
        return len(self._pairs)

    def read(self, positions: np.ndarray) -> Targets:
        """The frames numbered `positions` (B,)."""
        frames, past, actions, known = [], [], [], []
        for episode, start in self._pairs.picks(positions):
            first, target = max(start + 1 - self._past, 0), start + 1
            read = self._dataset.read(episode, first, target + 1)
            rows, exist = window(target - first, self._past)
            frames.append(read.frames[-1])
            past.append(read.frames[rows])
            actions.append(read.actions[rows + 1])
            known.append(read.known[rows + 1] & exist)
        stacked = (np.stack(each) for each in (frames, past, actions, known))
        return Targets(*(torch.from_numpy(each) for each in stacked))
