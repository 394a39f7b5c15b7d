"""Which episodes are learned from, and which are held out to measure on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldflow.errors import DataError

MOST = 1 / 3  # of the episodes that one whole recording may hold out


def split(
    recordings: Sequence[object] | np.ndarray, held_out: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train and held-out episode indices, at least one each, ascending.

    Whole recordings are held out, since parts of one resemble each other: in a random order, each
    that still fits into the share; if none fits, the one of the fewest parts. If even that is more
    than `MOST` of all, the last parts of one recording are held out. Where every episode is a
    recording of its own, these are the first of the random order.

    Args:
        recordings: of each episode, the recording that it is a part of, (E,); see
            `worldflow.data.episodes.EpisodeDataset.recordings`.
        held_out: share of the episodes to hold out, 0 < fraction < 1.
        seed: the same seed gives the same split.

    Raises:
        DataError: fewer than two episodes, or a fraction outside (0, 1).
    """
    count = len(recordings)
    if count < 2:
        raise DataError(
            f"a split needs two episodes or more, the dataset has {count}; add recordings, or cut "
            "a long one into parts: data.segment=200 (frames of a part) and a new folder, out="
        )
    if not 0 < held_out < 1:
        raise DataError(f"data.held_out must lie between 0 and 1, got {held_out}")
    wanted = min(max(round(count * held_out), 1), count - 1)
    parts: dict[object, list[int]] = {}
    for index, recording in enumerate(np.asarray(recordings).tolist()):
        parts.setdefault(recording, []).append(index)
    every = list(parts.values())
    order = [every[k] for k in np.random.default_rng(seed).permutation(len(every))]
    held: list[int] = []
    for members in order:
        if len(held) + len(members) <= wanted:
            held += members
    if not held:
        fewest = min(order, key=len)
        held = fewest if len(fewest) <= MOST * count else order[0][-wanted:]
    chosen = np.zeros(count, np.bool_)
    chosen[held] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def divides_a_recording(
    recordings: np.ndarray, train: Sequence[int] | np.ndarray, held_out: Sequence[int] | np.ndarray
) -> bool:
    """Whether parts of one recording (E,) lie on both sides of a split."""
    return bool(np.intersect1d(recordings[train], recordings[held_out]).size)
