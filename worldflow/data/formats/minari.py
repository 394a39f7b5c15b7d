"""Minari datasets on disk: `data/metadata.json` beside `data/main_data.hdf5`, read without minari.

The file holds a group `episode_<i>` per episode: T + 1 observations, in groups of their own where
the observation space is a Dict or a Tuple, and T actions, rewards, terminations and truncations.
Images are arrays (T + 1, H, W, C), or one JPEG file per frame. No frame rate is recorded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from worldflow.actions import ActionSpec
from worldflow.data.formats.base import (
    Format,
    RawEpisode,
    RawFrame,
    as_rgb,
    check_actions,
    infer_action_spec,
    inside,
)
from worldflow.errors import DataError

IMAGE_NAMES = ("image", "pixels", "rgb")  # taken first where there are several images
MIN_SIDE = 32  # as in Minari: smaller arrays are symbols, such as the 7 x 7 grid of MiniGrid
FPS = 30.0
BLOCK_BYTES = 2**24  # read at a time, as an HDF5 chunk spans many frames
_COLUMNS = ("rewards", "terminations", "truncations")
_HDF5_ERRORS = (OSError, KeyError, RuntimeError)
_REMEDY = "download the dataset or write it again"


class MinariFolder:
    """An opened Minari dataset; see `RawDataset`.

    Raises:
        DataError: its metadata or its file cannot be read, or it has no images, or actions that are
            neither Discrete, Box, MultiDiscrete nor MultiBinary.
    """

    format = "minari"
    alignment = "taken_at"  # one action fewer than frames always lie between them
    fps = FPS

    def __init__(self, path: Path) -> None:
        folder = path / "data" if (path / "data" / "metadata.json").is_file() else path
        self._about = inside(path, folder / "metadata.json")
        self._file = inside(path, folder / "main_data.hdf5")
        metadata = read_json(self._about)
        if metadata.get("data_format") != "hdf5":
            raise DataError(
                f"{self._about}: data_format is {metadata.get('data_format')!r}, only 'hdf5' is "
                "read; write the dataset again with data_format='hdf5'"
            )
        images = self._parsed(metadata, "observation_space", lambda space: dict(_images(space)))
        if not images:
            raise DataError(
                f"{self._about}: observation_space has no image, a uint8 Box of H x W pixels, "
                f"{MIN_SIDE} or more, or with 1 or 3 channels; Minari datasets without pixels "
                "cannot be used: render them first"
            )
        self._image = min(images, key=_preference)
        self._shape = images[self._image]
        self.source: dict[str, Any] = {
            "path": str(path),
            "dataset_id": metadata.get("dataset_id"),
            "image": self._image,
            "other_images": sorted(set(images) - {self._image}),
            "fps": "assumed, as Minari records none",
        }
        with self._opened() as file:
            keys = [key for key in file if re.fullmatch(r"episode_\d+", key)]
        self._keys = sorted(keys, key=lambda key: int(key.removeprefix("episode_")))
        if not keys or len(keys) != metadata.get("total_episodes"):
            raise DataError(
                f"{self._file} holds {len(keys)} episodes, total_episodes in {self._about} is "
                f"{metadata.get('total_episodes')}; {_REMEDY}"
            )
        self.names = [f"{self._file.relative_to(path)} {key}" for key in self._keys]
        jpeg = next(self._readable(lambda file, i: self._frames(file, i).ndim <= 2), None)
        if jpeg is None:
            raise DataError(f"{self._file}: no episode has images that can be read; {_REMEDY}")
        self.lossy = "JPEG" if jpeg else None
        kind, self._start, spec = self._parsed(metadata, "action_space", _parse_actions)
        self.action_spec = spec or self._inferred(kind)

    def open(self, index: int) -> RawEpisode:
        """The episode `names[index]`."""
        with self._opened() as file:
            actions = self._actions(file, index)
            length = len(self._frames(file, index))
            columns = [self._dataset(file, index, name)[()] for name in _COLUMNS]
        if length != len(actions) + 1:
            raise self._damaged(index, f"{length} observations, but {len(actions)} actions")
        for name, values in zip(_COLUMNS, columns, strict=True):
            if values.shape != (len(actions),) or values.dtype.kind not in "biuf":
                raise self._damaged(index, f"{name} are not one number for each action")
        rewards, terminations, truncations = columns
        width = len(self.action_spec.low) or 1
        if actions.shape[1] != width:
            raise self._damaged(index, f"actions of {actions.shape[1]} numbers, not {width}")
        if self.action_spec.kind == "discrete":
            actions = actions.reshape(-1) - self._start
            if not ((actions >= 0) & (actions < self.action_spec.n)).all():
                raise self._damaged(index, "actions that action_space does not have")
        return RawEpisode(
            name=self.names[index],
            read=partial(self._read, index),
            frames=length,
            actions=actions,
            rewards=rewards,
            terminated=terminations.astype(np.bool_),
            truncated=bool(truncations[-1]),
        )

    def _read(self, index: int) -> Iterator[RawFrame]:
        with self._opened() as file:
            frames = self._frames(file, index)
            block = max(BLOCK_BYTES // int(np.prod(self._shape)), 1)
            for start in range(0, len(frames), block):
                for t, image in enumerate(frames[start : start + block], start):
                    name = f"{self._file} {self._keys[index]}, frame {t}"
                    pixels = as_rgb(name, decode_image(name, image) if image.ndim == 1 else image)
                    if pixels.shape[:2] != _sides(self._shape):
                        raise self._damaged(index, f"frame {t} has {pixels.shape[:2]} pixels")
                    yield RawFrame(t / self.fps, pixels)

    def _frames(self, file: Any, index: int) -> Any:
        """The HDF5 dataset of an episode's images: (T + 1, ...) arrays, or T + 1 JPEG files."""
        frames = self._dataset(file, index, self._image)
        arrays = frames.dtype == np.uint8 and frames.shape[1:] == self._shape
        # JPEG files of one length are the rows of a matrix, others an array of arrays.
        rows = frames.dtype == np.uint8 and frames.ndim == 2
        ragged = (frames.dtype.metadata or {}).get("vlen") == np.uint8 and frames.ndim == 1
        if not arrays and not rows and not ragged:
            reason = f"{self._image} is {frames.shape} {frames.dtype}, not frames of {self._shape}"
            raise self._damaged(index, reason)
        return frames

    def _actions(self, file: Any, index: int) -> np.ndarray:
        """(T, D) as recorded."""
        actions = np.asarray(self._dataset(file, index, "actions")[()])
        if not actions.size:
            raise self._damaged(index, "no actions")
        name = f"{self._file} {self._keys[index]}"
        return check_actions(name, actions.reshape(len(actions), -1))

    def _inferred(self, kind: str) -> ActionSpec:
        """The spec of actions whose space does not limit them, or in several discrete ways."""
        if kind not in ("Box", "MultiDiscrete", "MultiBinary"):
            raise DataError(
                f"{self._about}: action_space is {kind}, which is not read; write the dataset "
                "again with a Discrete, Box, MultiDiscrete or MultiBinary one"
            )
        found = self._readable(self._actions)
        # Floats, as whole numbers would be taken for choices.
        return infer_action_spec((a.astype(float) for a in found) if kind == "Box" else found)

    def _parsed(self, metadata: dict[str, Any], key: str, parse: Callable[[Any], Any]) -> Any:
        """What `parse` makes of a space."""
        try:
            return parse(json.loads(metadata[key]))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._about}: no {key} that can be read ({error!r}); write the dataset again, "
                "with this space given"
            ) from error

    def _readable(self, read: Callable[[Any, int], Any]) -> Iterator[Any]:
        """What `read` gives of the episodes it can read; `open` says what is wrong with others."""
        with self._opened() as file:
            for index in range(len(self._keys)):
                try:
                    values = read(file, index)
                except (DataError, *_HDF5_ERRORS):
                    continue
                yield values

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with load_extra("h5py", "Minari datasets").File(self._file, "r") as file:
                yield file
        except _HDF5_ERRORS as error:
            raise DataError(f"{self._file} cannot be read ({error}); {_REMEDY}") from error

    def _dataset(self, file: Any, index: int, name: str) -> Any:
        """An HDF5 dataset of an episode, whose content lies in this file and in no other."""
        h5py = load_extra("h5py", "Minari datasets")
        node = file
        for part in (self._keys[index], *name.split("/")):
            here = isinstance(node, h5py.Group) and node.get(part, getlink=True)
            node = node[part] if isinstance(here, h5py.HardLink) else None
        if not isinstance(node, h5py.Dataset) or not node.shape or node.is_virtual or node.external:
            raise self._damaged(index, f"{name} is missing, or no array in this file")
        return node

    def _damaged(self, index: int, reason: str) -> DataError:
        return DataError(f"{self._file} {self._keys[index]}: {reason}; {_REMEDY}")


def _images(space: Any, name: str = "observations") -> Iterator[tuple[str, tuple[int, ...]]]:
    """The images of an observation space: where they lie in an episode, and their shape."""
    parts = space.get("subspaces", {})
    if isinstance(parts, list):  # of a Tuple
        parts = {f"_index_{i}": part for i, part in enumerate(parts)}
    for key, part in parts.items():
        yield from _images(part, f"{name}/{key}")
    shape = tuple(space.get("shape", ()))
    box = space["type"] == "Box" and space["dtype"] == "uint8"
    if box and len(shape) in (2, 3) and min(_sides(shape)) >= MIN_SIDE:
        yield name, shape


def _parse_actions(space: Any) -> tuple[str, int, ActionSpec | None]:
    """Kind, the first of discrete actions, and the spec; None if the data must tell the limits."""
    kind = space["type"]
    if kind == "Discrete":
        return kind, int(space["start"]), ActionSpec("discrete", n=int(space["n"]))
    if kind == "Box":
        limits = np.array([space["low"], space["high"]], dtype=float).reshape(2, -1)
        if np.isfinite(limits).all():
            return kind, 0, infer_action_spec([limits])
    return kind, 0, None


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W) of an image of this shape, (0, 0) if it is none."""
    if len(shape) == 2 or shape[2] in (1, 3):
        return shape[:2]
    return shape[1:] if shape[0] in (1, 3) else (0, 0)


def _preference(name: str) -> tuple[int, str]:
    last = name.rsplit("/", 1)[-1]
    return (IMAGE_NAMES.index(last) if last in IMAGE_NAMES else len(IMAGE_NAMES), name)


def load_extra(module: str, what: str) -> ModuleType:
    """An optional dependency.

    Raises:
        DataError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"reading {what} needs {module.split('.')[0]}: pip install 'worldflow[data]'"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        DataError: the file is missing or holds none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable JSON ({error}); {_REMEDY}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds no JSON object; {_REMEDY}")
    return values


def decode_image(name: str, content: bytes | np.ndarray) -> np.ndarray:
    """The pixels (H, W, 3) RGB, uint8 or as deep as stored, of an encoded image (JPEG, PNG, ...).

    Raises:
        DataError: it is no image that can be decoded.
    """
    how = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), how)
    except cv2.error as error:
        raise DataError(f"{name}: no image that can be decoded ({error}); {_REMEDY}") from error
    if pixels is None:
        raise DataError(f"{name}: no image that can be decoded; {_REMEDY}")
    return np.asarray(pixels[:, :, ::-1])


def _detect(path: Path) -> bool:
    for folder in (path / "data", path):
        about = folder / "metadata.json"
        if about.is_file():
            return (folder / "main_data.hdf5").is_file() or b'"data_format"' in about.read_bytes()
    return False


MINARI = Format(
    name="minari",
    describes="a Minari dataset with image observations: a folder with data/main_data.hdf5",
    detect=_detect,
    open=MinariFolder,
    extra="data",
)
