"""The layout "csgo" of HDF5 files, which DIAMOND learns from.

They are those of Pearce & Zhu, "Counter-Strike Deathmatch with Large-Scale Behavioural Cloning". A
file is an episode, `frame_{i}_x` its image i, stored as BGR, and `frame_{i}_y` its action: ones for
the keys, buttons and mouse movements made after image i was grabbed. The flags
`frame_{i}_helperarr` (a kill, a death) are not read: they are no rewards, a death ends no file, and
they came with image i rather than after it. Nor is `frame_{i}_xaux`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldflow.data.formats.array_files import Loaded, check_frames, make_episode
from worldflow.data.formats.base import RawEpisode, RawFrame
from worldflow.data.formats.hdf5_file import find, open_hdf5, read_array
from worldflow.data.formats.pixels import as_rgb
from worldflow.errors import DataError

if TYPE_CHECKING:
    import h5py

FPS = 16.0  # the rate of the recorder, `loop_fps` in its config.py
_IMAGE = re.compile(r"frame_(\d+)_x")


def is_csgo(file: h5py.File) -> bool:
    """Whether a file is of this layout."""
    return any(map(_IMAGE.fullmatch, file))


def csgo_episode(name: str, path: Path, file: h5py.File, survey: bool) -> Loaded:
    """The episode of a file; in a survey its actions are their limits only.

    Raises:
        DataError: images or actions are missing or of other kinds.
    """
    numbers = {int(match[1]) for match in map(_IMAGE.fullmatch, file) if match}
    frames = len(numbers)
    missing = set(range(frames)) - numbers
    if missing:
        raise DataError(
            f"{name}: frame_{min(missing)}_x is missing; get the file again or remove it"
        )

    def array(file: h5py.File, key: str) -> np.ndarray:
        return read_array(f"{name}: {key}", find(name, file, key))

    first = array(file, "frame_0_x")
    check_frames(f"{name}: frame_*_x", (frames, *first.shape), first.dtype)

    def read() -> Iterator[RawFrame]:
        with open_hdf5(name, path) as file:
            for i in range(frames):
                yield RawFrame(i / FPS, as_rgb(name, array(file, f"frame_{i}_x")[..., ::-1]))

    if survey:  # the limits are known, and the set has millions of actions, each a dataset
        zeros = np.zeros_like(array(file, "frame_0_y"))
        episode = RawEpisode(name, read, actions=np.stack([zeros, zeros + 1]))
    else:
        actions = np.stack([array(file, f"frame_{i}_y") for i in range(frames)])
        if not np.isin(actions, (0, 1)).all():
            raise DataError(f"{name}: frame_*_y must be zeros and ones; get the file again")
        episode = make_episode(name, read, frames, {"actions": actions})
    return Loaded(episode, FPS, {"layout": ["csgo"], "fps_from": ["layout"]})
