"""Which episodes of a dataset a world learned from, and which it never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from omegaconf import MISSING

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.splitting import split, split_growing
from worldflow.errors import DataError
from worldflow.world_spec import HeldOut


@dataclass
class RealData:
    """Which real episodes.

    Attributes:
        path: folder of a dataset.
        unseen: True: the world saw none of these episodes, and all are used, with detection those
            of one half (see `worldflow.evaluation.clips.taught_and_measured`). False: it learned
            from this dataset, and only the episodes it held out are used.
    """

    path: str = MISSING
    unseen: bool = False


def held_out_episodes(dataset: EpisodeDataset, held_out: HeldOut | None) -> np.ndarray:
    """Indices of the episodes that pretraining held out; of all episodes if None.

    Raises:
        DataError: see `split_of`.
    """
    return np.arange(len(dataset)) if held_out is None else split_of(dataset, held_out)[1]


def split_of(dataset: EpisodeDataset, held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the episodes that pretraining learned from, and of those that it held out.

    Where the dataset grows (`HeldOut.growing`), it may have more by now: those are in neither.

    Raises:
        DataError: the dataset has not as many episodes, recordings or frames as pretraining had.
    """
    if held_out.growing and len(dataset) > held_out.episodes:
        return _split_of_before(dataset, held_out)
    if len(dataset) != held_out.episodes:
        raise DataError(
            f"{dataset.folder} has {len(dataset)} episodes, the world's dataset had "
            f"{held_out.episodes}, so that it is unknown which it learned from; give that dataset, "
            "or one that the world never saw with data.unseen=true"
        )
    recordings = dataset.recordings
    if held_out.recordings is None:
        recordings = np.arange(len(dataset))
    elif len(np.unique(recordings)) != held_out.recordings:
        raise DataError(
            f"{dataset.folder} has parts of {len(np.unique(recordings))} recordings, the world's "
            f"dataset had those of {held_out.recordings}, so that it is unknown which it learned "
            "from; give that dataset, or one that the world never saw with data.unseen=true"
        )
    if held_out.growing:
        return split_growing(recordings, held_out.fraction, held_out.seed)
    if held_out.frames is None:
        return split(recordings, held_out.fraction, held_out.seed)
    frames, parts = int(dataset.lengths.sum()), len(np.unique(recordings)) < len(dataset)
    if parts and frames != held_out.frames:
        raise DataError(
            f"{dataset.folder} has {frames} frames, the world's dataset had {held_out.frames}, so "
            "that it is unknown which it learned from; give that dataset, or one that the world "
            "never saw with data.unseen=true"
        )
    return split(recordings, held_out.fraction, held_out.seed, dataset.lengths)


def _split_of_before(dataset: EpisodeDataset, held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """As `split_of`, of the first episodes of a dataset to which others were added."""
    recordings = dataset.recordings[: held_out.episodes]
    found = len(np.unique(recordings)), int(dataset.lengths[: held_out.episodes].sum())
    had = held_out.recordings, held_out.frames
    if any(b not in (None, a) for a, b in zip(found, had, strict=True)):
        raise DataError(
            f"{dataset.folder} begins with {held_out.episodes} episodes of {found[0]} recordings "
            f"and {found[1]} frames, the world's dataset had as many of {had[0]} and {had[1]}, so "
            "that it is unknown which it learned from; give that dataset, or one that the world "
            "never saw with data.unseen=true"
        )
    return split_growing(recordings, held_out.fraction, held_out.seed)
