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
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldflow.data.formats.array_files import (
    DEFAULT_FPS,
    ArrayFiles,
    Loaded,
    check_bytes,
    check_fps,
    check_frames,
    check_objects,
    make_episode,
)
from worldflow.data.formats.base import Format, RawFrame
from worldflow.data.formats.files import find_files
from worldflow.data.formats.pixels import as_rgb
from worldflow.errors import DataError

IMAGES = ("frames", "images", "image", "obs", "observations", "pixels")
FIELDS = {
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminated": ("terminated", "is_terminal", "done", "dones"),
}
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
                if _first(archive, _DREAMER_V3):  # all become what lies between the frames
                    arrays = {
                        field: values[: frames - 1] if field == "actions" else values[1:]
                        for field, values in arrays.items()
                    }

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
    """Whether the first readable .npz file holds images."""
    for file in find_files(path, NpzFiles.suffixes):
        try:
            with _archive(file.name, file) as archive:
                key = _image(file.name, archive)
                return key is not None and len(_header(file.name, archive, key).shape) == 4
        except DataError:
            continue
    return False


NPZ = Format("npz", "a folder of .npz files, each an episode", _detect, NpzFiles)
