"""Minari datasets on disk: `data/metadata.json` beside `data/main_data.hdf5`, read without minari.

The file holds a group `episode_<i>` per episode: T + 1 observations, in groups of their own where
the observation space is a Dict or a Tuple, and T actions, rewards, terminations and truncations.
Images are arrays (T + 1, H, W, C), or one JPEG file per frame. No frame rate is recorded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.data.formats.base import Format, RawEpisode, RawFrame, readable
from worldflow.data.formats.files import inside, read_json
from worldflow.data.formats.hdf5_file import find, is_array, open_hdf5, read_array
from worldflow.data.formats.minari_spaces import MIN_SIDE, images_of, parse_actions, sides
from worldflow.data.formats.pixels import as_rgb, decode_image
from worldflow.data.formats.recorded_actions import check_actions, infer_action_spec
from worldflow.errors import DataError

FPS = 30.0
BLOCK_BYTES = 2**24  # read at a time, as an HDF5 chunk spans many frames
_COLUMNS = ("rewards", "terminations", "truncations")
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
        images = self._parsed(metadata, "observation_space", images_of)
        if not images:
            raise DataError(
                f"{self._about}: observation_space has no image, a uint8 Box of H x W pixels, "
                f"{MIN_SIDE} or more, or with 1 or 3 channels; Minari datasets without pixels "
                "cannot be used: render them first"
            )
        self._image, *others = images
        self._shape = images[self._image]
        self.source: dict[str, Any] = {
            "path": str(path),
            "dataset_id": metadata.get("dataset_id"),
            "image": self._image,
            "other_images": sorted(others),
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
        first = next(readable(self.names, self._is_jpeg), None)
        if first is None:
            raise DataError(f"{self._file}: no episode has images that can be read; {_REMEDY}")
        self.lossy = "JPEG" if first[1] else None
        kind, self._start, spec = self._parsed(metadata, "action_space", parse_actions)
        self.action_spec = spec or self._inferred(kind)

    def open(self, index: int) -> RawEpisode:
        """The episode `names[index]`."""
        with self._opened() as file:
            actions = self._actions(file, index)
            length = len(self._frames(file, index))
            columns = [self._array(file, index, name) for name in _COLUMNS]
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
                    name = f"{self._place(index)}, frame {t}"
                    pixels = as_rgb(name, decode_image(name, image) if image.ndim == 1 else image)
                    if pixels.shape[:2] != sides(self._shape):
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

    def _is_jpeg(self, index: int) -> bool:
        with self._opened() as file:
            return bool(self._frames(file, index).ndim <= 2)

    def _actions(self, file: Any, index: int) -> np.ndarray:
        """(T, D) as recorded."""
        actions = self._array(file, index, "actions")
        if not actions.size:
            raise self._damaged(index, "no actions")
        return check_actions(self._place(index), actions.reshape(len(actions), -1))

    def _inferred(self, kind: str) -> ActionSpec:
        """The spec of actions whose space does not limit them, or in several discrete ways."""
        if kind not in ("Box", "MultiDiscrete", "MultiBinary"):
            raise DataError(
                f"{self._about}: action_space is {kind}, which is not read; write the dataset "
                "again with a Discrete, Box, MultiDiscrete or MultiBinary one"
            )

        def actions(index: int) -> np.ndarray:
            with self._opened() as file:
                found = self._actions(file, index)
            # Floats, as whole numbers would be taken for choices.
            return found.astype(float) if kind == "Box" else found

        return infer_action_spec(readable(self.names, actions))

    def _parsed(self, metadata: dict[str, Any], key: str, parse: Callable[[Any], Any]) -> Any:
        """What `parse` makes of a space."""
        try:
            return parse(json.loads(metadata[key]))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._about}: no {key} that can be read ({error!r}); write the dataset again, "
                "with this space given"
            ) from error

    def _opened(self) -> AbstractContextManager[Any]:
        return open_hdf5(str(self._file), self._file)

    def _array(self, file: Any, index: int, name: str) -> np.ndarray:
        return read_array(f"{self._place(index)}: {name}", self._dataset(file, index, name))

    def _dataset(self, file: Any, index: int, name: str) -> Any:
        """An HDF5 dataset of an episode, whose content lies in this file and in no other."""
        place = self._place(index)
        node = find(place, find(place, file, self._keys[index]), name)
        if not is_array(node) or not node.shape:
            raise self._damaged(index, f"{name} is missing or no array")
        return node

    def _damaged(self, index: int, reason: str) -> DataError:
        return DataError(f"{self._place(index)}: {reason}; {_REMEDY}")

    def _place(self, index: int) -> str:
        return f"{self._file} {self._keys[index]}"


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
