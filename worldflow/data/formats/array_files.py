"""Episodes in files of arrays: what the formats "npz" and "hdf5" share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldflow.data.formats.base import RawEpisode, RawFrame
from worldflow.data.formats.files import find_files, inside
from worldflow.data.formats.pixels import as_rgb
from worldflow.data.formats.recorded_actions import check_actions, infer_action_spec
from worldflow.errors import DataError

DEFAULT_FPS = 30.0  # of files that do not say; `source` then tells it was assumed
MAX_BYTES = 2**30  # of one array of actions, rewards or ends: these are read whole


class Loaded(NamedTuple):
    """An episode, its frames per second, and facts on it for `source`."""

    episode: RawEpisode
    fps: float
    facts: Mapping[str, Sequence[str]]


class ArrayFiles(ABC):
    """Episodes in files of arrays: what such formats share.

    Raises:
        DataError: there are no such files, or none of the episodes in them can be read.
    """

    format: str
    alignment: str
    suffixes: tuple[str, ...]
    lossy: str | None = None

    def __init__(self, path: Path) -> None:
        self._folder = path if path.is_dir() else None
        root = self._folder or path.parent
        files = find_files(path, self.suffixes)
        if not files:
            raise DataError(f"{path}: no file ending in {', '.join(self.suffixes)} lies there")
        self._entries = [(file, key) for file in files for key in self._keys(file)]
        self.names = [
            file.relative_to(root).as_posix() + (f":{key}" if key else "")
            for file, key in self._entries
        ]
        self._rates: list[float] = []
        self._facts: dict[str, set[str]] = {}
        self._error: DataError | None = None
        self.action_spec = infer_action_spec(self._survey())
        if not self._rates:
            raise DataError(
                f"{path}: none of its {len(self.names)} episodes can be read; "
                f"the first: {self._error}"
            ) from self._error
        self.fps = self._rates[0]
        facts = {name: ", ".join(sorted(values)) for name, values in self._facts.items()}
        self.source = {"path": str(path), "files": len(files), **facts}

    def open(self, index: int) -> RawEpisode:
        """The episode `names[index]`.

        Raises:
            DataError: it is damaged.
        """
        return self._load(index).episode

    def _survey(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and actions of the readable episodes; notes their rates and facts in passing."""
        for index in range(len(self.names)):
            try:
                episode, fps, facts = self._load(index, survey=True)
            except DataError as error:
                self._error = self._error or error
                continue
            self._rates.append(fps)
            for name, values in facts.items():
                self._facts.setdefault(name, set()).update(values)
            if episode.actions is not None:
                yield episode.name, episode.actions

    def _inside(self, path: Path) -> Path:
        """`path`, checked unless the user named the file itself."""
        return inside(self._folder, path) if self._folder else path

    def _keys(self, path: Path) -> Sequence[str]:
        """Where the episodes lie in a file; "" is the file itself, which may be unreadable."""
        return ("",)

    @abstractmethod
    def _load(self, index: int, survey: bool = False) -> Loaded:
        """The episode; in a survey its actions may be their limits only. Raises DataError."""


def check_frames(name: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """The number of frames of an image array; raises DataError unless `as_rgb` can read them."""
    check_objects(name, dtype)
    if len(shape) != 4 or shape[0] < 1:
        raise DataError(f"{name} is of shape {shape}, not (frames, height, width, channels)")
    as_rgb(name, np.broadcast_to(np.zeros((), dtype), shape[1:]))
    return shape[0]


def check_fps(name: str, value: object) -> float:
    """A recorded frame rate; raises DataError unless it is a positive number."""
    try:
        fps = float(np.asarray(value).item())
    except (TypeError, ValueError):
        fps = math.nan
    if not 0 < fps < math.inf:
        raise DataError(f"{name}: its frame rate is {value}; correct it to frames per second")
    return fps


def check_objects(name: str, dtype: np.dtype) -> None:
    """Raises DataError if an array holds Python objects, or rows of varying length."""
    if dtype.hasobject:
        raise DataError(f"{name} holds objects, not numbers; save it as an array of numbers")


def check_bytes(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises DataError unless an array is one of numbers and small enough to be read whole."""
    check_objects(name, dtype)
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise DataError(
            f"{name} is of shape {shape} and type {dtype}: more than {MAX_BYTES} bytes are not read"
        )


def make_episode(
    name: str, read: Callable[[], Iterator[RawFrame]], frames: int, arrays: dict[str, np.ndarray]
) -> RawEpisode:
    """An episode of so many frames.

    Args:
        name: see `RawEpisode`.
        read: likewise.
        frames: F, their number.
        arrays: "actions", "rewards" and "terminated", those that were recorded: F or F - 1 of each.

    Raises:
        DataError: their lengths do not fit the frames, or their values are none.
    """
    for field, array in arrays.items():
        if array.ndim == 0 or len(array) not in (frames, frames - 1):
            raise DataError(
                f"{name}: {frames} frames but {field} of shape {array.shape}; there must be one "
                "for each frame, or one less"
            )
        if field != "actions" and (array.size != len(array) or array.dtype.kind not in "biuf"):
            raise DataError(
                f"{name}: {field} of shape {array.shape} and type {array.dtype}; "
                "they must be one number for each frame"
            )
    actions, rewards, ends = map(arrays.get, ("actions", "rewards", "terminated"))
    if rewards is not None and not np.isfinite(rewards).all():
        raise DataError(f"{name}: rewards hold NaN or infinity; repair them or remove the episode")
    if ends is not None and not np.isin(ends, (0, 1)).all():
        raise DataError(f"{name}: terminated must be 0 or 1 for each frame; repair it")
    return RawEpisode(
        name,
        read,
        frames,
        actions=None if actions is None else check_actions(name, actions),
        rewards=None if rewards is None else rewards.reshape(-1),
        terminated=None if ends is None else ends.reshape(-1).astype(np.bool_),
    )
