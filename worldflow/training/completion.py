"""What the end of pretraining measures and adds to a world."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from worldflow.data.alignment_check import MAX_FRAMES, check_alignment
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import Arrays
from worldflow.errors import ConfigError, DataError
from worldflow.world_spec import Contexts

MAX_CONTEXTS = 64
STARTS = ("first", "random")
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


def starting_contexts(
    dataset: EpisodeDataset, held_out: np.ndarray, context: int, starts: str, seed: int
) -> Contexts:
    """Where dreams begin: at most `MAX_CONTEXTS` pieces of held-out episodes.

    Args:
        dataset: to read from.
        held_out: indices of the episodes to choose from.
        context: frames of a piece; all actions between them are known.
        starts: "first": the beginnings of as many episodes, in an order drawn where the dataset was
            merged, so that no source takes all places; "random": moments drawn from all
            episodes alike, each of which a frame follows, so that none is the end of an episode.
        seed: of what is drawn.

    Raises:
        ConfigError: `starts` is neither.
        DataError: there is no such piece.
    """
    if starts not in STARTS:
        raise ConfigError(f"starts is {starts!r}; use one of {', '.join(STARTS)}")
    slices = (
        dataset.read(i, begin, begin + context)
        for i, begin in _places(dataset, held_out, context, starts, seed)
    )
    none = dataset.action_spec.kind == "none"
    known = list(islice((s for s in slices if none or s.known[1:].all()), MAX_CONTEXTS))
    if not known:
        raise DataError(
            f"no held-out episode is longer than world.context={context} frames and begins with "
            "known actions; collect longer episodes or lower world.context"
        )
    return Contexts(np.stack([s.frames for s in known]), np.stack([s.actions for s in known]))


def _places(
    dataset: EpisodeDataset, held_out: np.ndarray, context: int, starts: str, seed: int
) -> Iterator[tuple[int, int]]:
    """Episodes and first frames of pieces that may be contexts, in the order of preference."""
    long = [int(index) for index in held_out if dataset.lengths[index] > context]
    if starts == "first":
        if "merged" in dataset.metadata.source | dataset.metadata.collect:
            long = np.random.default_rng(seed).permutation(long).tolist()
        yield from ((index, 0) for index in long)
        return
    lasts = np.cumsum([int(dataset.lengths[index]) - context for index in long])
    for drawn in np.random.default_rng(seed).permutation(lasts[-1] if long else 0):
        row = int(np.searchsorted(lasts, drawn, side="right"))
        yield long[row], int(drawn - (lasts[row - 1] if row else 0))
