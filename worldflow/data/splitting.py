"""Which episodes are learned from, and which are held out to measure on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldflow.errors import DataError

MOST = 1 / 3  # of the frames that one whole recording may hold out
LEAST = 1 / 2  # of the wanted frames that recordings which fit into the share must have


def split(
    recordings: Sequence[object] | np.ndarray,
    held_out: float,
    seed: int,
    lengths: Sequence[int] | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Train and held-out episode indices, at least one each, ascending.

    Whole recordings are held out, since parts of one resemble each other: in a random order, each
    whose frames still fit into the share. Where these are less than `LEAST` of it, the smallest of
    the others is held out too; if that would make more than `MOST` of all frames, the last parts of
    one recording. Where every episode is a recording of its own, the share is one of episodes,
    whatever their lengths, and these are the first of the random order.

    Args:
        recordings: of each episode, the recording that it is a part of, (E,); see
            `worldflow.data.episodes.EpisodeDataset.recordings`.
        held_out: share of the frames to hold out, 0 < fraction < 1.
        seed: the same seed gives the same split.
        lengths: frames of each episode, (E,). None: the split of a world of before frames counted,
            when parts did, and what fits was enough however little.

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
    parts: dict[object, list[int]] = {}
    for index, recording in enumerate(np.asarray(recordings).tolist()):
        parts.setdefault(recording, []).append(index)
    every = list(parts.values())
    order = [every[k] for k in np.random.default_rng(seed).permutation(len(every))]
    by_frames = lengths is not None and len(every) < count
    weights = np.asarray(lengths if by_frames else np.ones(count), np.int64)
    total = int(weights.sum())
    wanted = min(max(round(total * held_out), 1), total - 1)
    held, others = _fitting(order, weights, wanted)
    there = int(weights[held].sum())
    if there < (LEAST * wanted if by_frames else 1):
        held += _added(others, weights, wanted - there, MOST * total - there)
    chosen = np.zeros(count, np.bool_)
    chosen[held] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def split_growing(
    recordings: Sequence[object] | np.ndarray, held_out: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `split`, but no recording changes sides when others are added after it.

    So a world that is trained on, with more data, is never measured on what it once learned from.
    One of each `round(1 / held_out)` recordings, in the order in which they appear, is held out.

    Args:
        recordings: of each episode, the recording that it is a part of, (E,).
        held_out: share of the recordings to hold out, 0 < fraction <= 1/2.
        seed: the same seed gives the same split.

    Raises:
        DataError: too few recordings for one of them to be held out for certain, or a fraction
            outside (0, 1/2].
    """
    if not 0 < held_out <= 0.5:
        raise DataError(f"data.held_out must lie between 0 and 1/2, got {held_out}")
    block = round(1 / held_out)
    numbers: dict[object, int] = {}
    for recording in np.asarray(recordings).tolist():
        numbers.setdefault(recording, len(numbers))
    if len(numbers) < block:
        raise DataError(
            f"data.held_out={held_out} holds out one recording of {block}, and there are "
            f"{len(numbers)}: collect more, or hold out a larger share"
        )
    blocks = -(-len(numbers) // block)
    picks = [int(np.random.default_rng([seed, k]).integers(block)) for k in range(blocks)]
    chosen = np.zeros(blocks * block, np.bool_)
    chosen[[k * block + pick for k, pick in enumerate(picks)]] = True
    held = chosen[[numbers[recording] for recording in np.asarray(recordings).tolist()]]
    return np.flatnonzero(~held), np.flatnonzero(held)


def _fitting(
    order: list[list[int]], weights: np.ndarray, wanted: int
) -> tuple[list[int], list[list[int]]]:
    """Episodes of the recordings that fit, one after the other, and the recordings that do not."""
    held: list[int] = []
    others: list[list[int]] = []
    for members in order:
        if weights[held].sum() + weights[members].sum() <= wanted:
            held += members
        else:
            others.append(members)
    return held, others


def _added(others: list[list[int]], weights: np.ndarray, missing: int, most: float) -> list[int]:
    """Episodes of one recording more: all of the smallest, or the last of the first.

    There are none where `most` forbids the former, and the others are of one part.
    """
    smallest = min(others, key=lambda members: int(weights[members].sum()))
    if weights[smallest].sum() <= most:
        return smallest
    members = next((members for members in others if len(members) > 1), [])
    sums = np.cumsum(weights[members][::-1])[:-1]  # of the last parts; the first is learned from
    return members[-1 - int(np.abs(sums - missing).argmin()) :] if len(sums) else []


def divides_a_recording(
    recordings: np.ndarray, train: Sequence[int] | np.ndarray, held_out: Sequence[int] | np.ndarray
) -> bool:
    """Whether parts of one recording (E,) lie on both sides of a split."""
    return bool(np.intersect1d(recordings[train], recordings[held_out]).size)
