"""Episodes as .npz files: one file, or a folder of them, each an episode.

The image array, (T, H, W, C) or (T, C, H, W) uint8, has one of the names `IMAGES`; those of what
goes with it are in `FIELDS`, all optional. Entry t of each led to frame t or arrived with it, as in
this library's own store and in the episodes of DreamerV2 (`image`, `action`, `reward`,
`is_terminal`). The replay chunks of DreamerV3 (which hold `is_first` beside `reset` or `stepid`)
differ: action t was taken at image t. They are read accordingly. Where `is_first` marks another
episode within a file, the file is refused. `fps`, a scalar, is the frame rate. Nothing else is read
(`is_last`, `discount`, ...).

One-hot actions stay a box, since nothing tells them from continuous ones.
"""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldflow.data.formats.base import (
    Format,
    RawEpisode,
    RawFrame,
    as_rgb,
    check_actions,
    infer_action_spec,
    inside,
)
from worldflow.data.formats.video import VIDEO_SUFFIXES
from worldflow.errors import DataError

IMAGES = ("frames", "images", "image", "obs", "observations", "pixels")
FIELDS = {
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminated": ("terminated", "is_terminal", "done", "dones"),
}
DEFAULT_FPS = 30.0  # of files that do not say; `source` then tells it was assumed
MAX_BYTES = 2**30  # of one array of actions, rewards or ends: these are read whole
_DREAMER_V3 = ("reset", "stepid")
_DAMAGE = (
    OSError,
    EOFError,
    IndexError,
    RuntimeError,
    ValueError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


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

    def _survey(self) -> Iterator[np.ndarray]:
        """The actions of the readable episodes; notes their rates and facts in passing."""
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
                yield episode.actions

    def _inside(self, path: Path) -> Path:
        """`path`, checked unless the user named the file itself."""
        return inside(self._folder, path) if self._folder else path

    def _keys(self, path: Path) -> Sequence[str]:
        """Where the episodes lie in a file; "" is the file itself, which may be unreadable."""
        return ("",)

    @abstractmethod
    def _load(self, index: int, survey: bool = False) -> Loaded:
        """The episode; in a survey its actions may be their limits only. Raises DataError."""


class NpzFiles(ArrayFiles):
    """The .npz files of a folder."""

    format = "npz"
    alignment = "led_to"
    suffixes = (".npz",)

    def _load(self, index: int, survey: bool = False) -> Loaded:
        name, path = self.names[index], self._inside(self._entries[index][0])
        with _archive(name, path) as archive:
            image = _image(name, archive)
            if image is None:
                raise DataError(f"{name}: no array in it is named {', '.join(IMAGES)}")
            shape, dtype, offset = _header(name, archive, image)
            frames = check_frames(f"{name}: {image}", shape, dtype)
            keys = {field: _first(archive, names) for field, names in FIELDS.items()}
            arrays = {field: _array(name, archive, key) for field, key in keys.items() if key}
            recorded = _first(archive, ("fps",)) is not None
            fps = check_fps(name, _array(name, archive, "fps")) if recorded else DEFAULT_FPS
            if _first(archive, ("is_first",)):
                later = np.flatnonzero(_array(name, archive, "is_first").reshape(-1)[1:])
                if later.size:
                    raise DataError(
                        f"{name}: is_first marks another episode at frame {later[0] + 1}; "
                        "give each episode a file of its own"
                    )
                if "actions" in arrays and _first(archive, _DREAMER_V3):
                    arrays["actions"] = arrays["actions"][: frames - 1]  # between the frames

        def read() -> Iterator[RawFrame]:
            size = math.prod(shape[1:])
            with _archive(name, path) as archive, archive.open(f"{image}.npy") as file:
                file.read(offset)
                for i in range(frames):
                    row = file.read(size)
                    if len(row) != size:
                        raise DataError(f"{name}: {image} ends at frame {i}; get the file again")
                    pixels = np.frombuffer(bytearray(row), np.uint8).reshape(shape[1:])
                    yield RawFrame(i / fps, as_rgb(name, pixels))

        facts = {
            "keys": [image, *(key for key in keys.values() if key)],
            "fps_from": ["fps" if recorded else "assumed"],
        }
        return Loaded(make_episode(name, read, frames, arrays), fps, facts)


def find_files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file `path`, or those below it that are not hidden: of these suffixes, sorted."""
    if path.is_file():
        return [path] if path.suffix.lower() in suffixes else []
    found = (file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    names = {file.relative_to(path).as_posix(): file for file in found}
    shown = [name for name in names if not re.search(r"(^|/)\.", name)]
    return [names[name] for name in sorted(shown, key=natural)]


def natural(text: str) -> list[str | int]:
    """Sorts numbers in names by their value: demo_2 before demo_10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))]


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
    """An episode of so many frames; `arrays` holds those of `FIELDS` that were recorded.

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
    actions, rewards, ends = (arrays.get(field) for field in FIELDS)
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


class _Header(NamedTuple):
    """What an .npy member says of its array, and where in it the data start."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


@contextmanager
def _archive(name: str, path: Path) -> Iterator[zipfile.ZipFile]:
    """An opened .npz file; raises DataError where it turns out damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGE as error:
        raise DataError(
            f"{name}: not a whole .npz file ({error}); get the file again or remove it"
        ) from error


def _header(name: str, archive: zipfile.ZipFile, key: str) -> _Header:
    """The header of an array; raises DataError if its data are not all there."""
    member = archive.getinfo(f"{key}.npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        offset = file.tell()
    check_objects(f"{name}: {key}", dtype)
    if min(shape, default=0) < 0 or member.file_size - offset != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{name}: {key} is not all there; get the file again or remove it")
    if fortran and len(shape) > 2:
        raise DataError(
            f"{name}: {key} is in Fortran order; save np.ascontiguousarray({key}) instead"
        )
    return _Header(shape, dtype, offset)


def _array(name: str, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    header = _header(name, archive, key)
    check_bytes(f"{name}: {key}", header.shape, header.dtype)
    with archive.open(f"{key}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _first(archive: zipfile.ZipFile, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if f"{key}.npy" in archive.namelist()), None)


def _image(name: str, archive: zipfile.ZipFile) -> str | None:
    """The name of the image array: the first of rank 4; of another rank if there is none."""
    named = [key for key in IMAGES if _first(archive, (key,))]
    rank_4 = (key for key in named if len(_header(name, archive, key).shape) == 4)
    return next(rank_4, named[0] if named else None)


def _detect(path: Path) -> bool:
    """Whether the first readable .npz file holds images, and no videos lie there."""
    if path.is_dir() and any(file.suffix.lower() in VIDEO_SUFFIXES for file in path.rglob("*")):
        return False
    for file in find_files(path, NpzFiles.suffixes):
        try:
            with _archive(file.name, file) as archive:
                key = _image(file.name, archive)
                return key is not None and len(_header(file.name, archive, key).shape) == 4
        except DataError:
            continue
    return False


NPZ = Format("npz", "a folder of .npz files, each an episode", _detect, NpzFiles)
