"""What the end of pretraining measures and adds to a world."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice

import numpy as np

from worldflow.data.alignment_check import MAX_FRAMES, check_alignment
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import Arrays
from worldflow.errors import DataError
from worldflow.world_spec import Contexts

MAX_CONTEXTS = 64
THUMBNAIL = 16  # pixels a side


def warn_of_shifts(dataset: EpisodeDataset, frames: Arrays) -> None:
    """Warn where actions seem to be off by a frame.

    Args:
        dataset: whose actions are checked.
        frames: of each episode, any description of its frames, (T, ...): latents, or small images.
    """
    described: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    count = 0
    for index in range(len(dataset)):
        steps = dataset.steps_of(index)
        if steps.known[1:].all():
            described.append(frames[index].reshape(len(steps.known), -1))
            actions.append(steps.actions)
            count += len(steps.known)
        if count >= MAX_FRAMES:
            break
    check = check_alignment(described, actions, dataset.action_spec)
    warning = check.warning() if check is not None else None
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)


class _Thumbnails(Sequence[np.ndarray]):
    def __init__(self, dataset: EpisodeDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        frames = self._dataset.read(index).frames.mean(axis=3, dtype=np.float32)
        side = max(frames.shape[1] // THUMBNAIL, 1)
        return frames[:, side // 2 :: side, side // 2 :: side] / 255.0


def thumbnails(dataset: EpisodeDataset) -> Arrays:
    """The frames of each episode as small grey images, (T, h, w) in [0, 1], read when asked for."""
    return _Thumbnails(dataset)


def first_contexts(dataset: EpisodeDataset, held_out: np.ndarray, context: int) -> Contexts:
    """The first frames of held-out episodes, where the actions between them are known.

    Raises:
        DataError: there is no such episode.
    """
    long = (int(index) for index in held_out if dataset.lengths[index] > context)
    slices = (dataset.read(index, 0, context) for index in long)
    none = dataset.action_spec.kind == "none"
    known = list(islice((s for s in slices if none or s.known[1:].all()), MAX_CONTEXTS))
    if not known:
        raise DataError(
            f"no held-out episode is longer than world.context={context} frames and begins with "
            "known actions; collect longer episodes or lower world.context"
        )
    return Contexts(np.stack([s.frames for s in known]), np.stack([s.actions for s in known]))
