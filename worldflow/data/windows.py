"""Clips cut from episodes: numbered, each alike, never with frames of two episodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from worldflow.errors import DataError


class ClipSampler:
    """All clips of a fixed length in the given episodes, numbered.

    An episode shorter than the clip has its clip start at 0 and padded at its end by `load_clips`.

    Args:
        lengths: frames in each episode of the dataset.
        episodes: indices of the episodes to cut from (for example the training split).
        clip: frames in a clip.
        over_end: whether a clip may reach beyond its episode, and is padded there. Else the last
            frame is in one clip and one in the middle in `clip` of them, so that a model would
            learn the ends of episodes too rarely. With it every frame but the first `clip` is the
            second or a later frame of `clip - 1` clips, and so are all frames of short episodes.

    Raises:
        DataError: no episodes, an index without an episode, or a clip shorter than one frame.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        episodes: Sequence[int] | np.ndarray,
        clip: int,
        over_end: bool = False,
    ) -> None:
        if clip < 1:
            raise DataError(f"a clip needs one frame or more, got {clip}")
        if len(episodes) == 0:
            raise DataError("there are no episodes to cut clips from")
        self.clip = clip
        self.episodes = np.asarray(episodes, dtype=np.int64)
        if self.episodes.min() < 0 or self.episodes.max() >= len(lengths):
            raise DataError(f"episode indices must lie in 0..{len(lengths) - 1}")
        frames = np.asarray(lengths, dtype=np.int64)[self.episodes]
        starts = frames - (1 if over_end else clip - 1)
        # a short episode's only clip counts as often as a long one's frames are shown
        counts = np.maximum(starts, max(clip - 1, 1) if over_end else 1)
        self._lasts = np.where(frames > clip, counts, 1) - 1
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts

    def __len__(self) -> int:
        """Number of clips."""
        return int(self._ends[-1])

    def starts(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the clips numbered `positions` (B,) lie: episodes (B,) and first frames (B,).

        Raises:
            IndexError: a position outside 0..len - 1.
        """
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and not (positions.min() >= 0 and positions.max() < len(self)):
            raise IndexError(f"clip positions must lie in 0..{len(self) - 1}")
        rows = np.searchsorted(self._ends, positions, side="right")
        return self.episodes[rows], np.minimum(positions - self._begins[rows], self._lasts[rows])

    def picks(self, positions: np.ndarray) -> list[tuple[int, int]]:
        """The clips numbered `positions` (B,), each as (episode, first frame); see `starts`."""
        episodes, starts = self.starts(positions)
        return list(zip(episodes.tolist(), starts.tolist(), strict=True))

    def sample(self, batch: int, generator: np.random.Generator) -> list[tuple[int, int]]:
        """`batch` clips drawn with replacement, each as (episode, first frame)."""
        return self.picks(generator.integers(len(self), size=batch))


class Arrays(Protocol):
    """One array (T, ...) per episode, by number."""

    def __getitem__(self, index: int, /) -> np.ndarray: ...


def load_clips(
    arrays: Arrays, picks: Iterable[tuple[int, int]], clip: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut clips from arrays (frames, latents, actions, rewards alike).

    Args:
        arrays: indexed by the episodes in `picks`.
        picks: (episode, first frame) of each of B clips.
        clip: frames in a clip.

    Returns:
        batch (B, clip, ...), zero after an episode's end, and valid (B, clip) bool.

    Raises:
        DataError: no picks, or a start outside its episode.
    """
    picks = list(picks)
    if not picks:
        raise DataError("no clips were picked")
    first = arrays[picks[0][0]]
    batch = np.zeros((len(picks), clip, *first.shape[1:]), dtype=first.dtype)
    valid = np.zeros((len(picks), clip), dtype=np.bool_)
    for row, (episode, start) in enumerate(picks):
        array = arrays[episode]
        if not 0 <= start < len(array):
            raise DataError(f"clip start {start} lies outside episode {episode} ({len(array)})")
        piece = array[start : start + clip]
        batch[row, : len(piece)] = piece
        valid[row, : len(piece)] = True
    return batch, valid
