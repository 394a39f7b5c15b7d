"""Episodes in HDF5 files: one file, or a folder of them, in one of two layouts.

"groups": an episode is a group, at any depth, that holds an image dataset; what goes with it lies
beside it under the names in `FIELDS`, all optional. A file whose root is such a group is one
episode. The images are uint8, (T, H, W, C) or (T, C, H, W), and named as in `IMAGES`; or they are a
camera, which is any such dataset of three channels in a subgroup of `CAMERAS` (robomimic: `obs`).
Of several cameras `FAVOURITE` is read, or else the first by name; `source` says which.

"csgo": see `worldflow.data.formats.csgo`.

Only what lies in the file itself is read: no soft or external links, no virtual or external data.
Where such a link stands in for an episode, or for something that an episode needs, that episode is
unreadable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflow.data.formats.array_files import (
    DEFAULT_FPS,
    ArrayFiles,
    Loaded,
    check_fps,
    check_frames,
    make_episode,
)
from worldflow.data.formats.base import Format, RawFrame
from worldflow.data.formats.csgo import csgo_episode, is_csgo
from worldflow.data.formats.files import find_files, natural
from worldflow.data.formats.hdf5_file import (
    DAMAGE,
    address,
    find,
    is_array,
    is_group,
    open_hdf5,
    read_array,
)
from worldflow.data.formats.pixels import as_rgb
from worldflow.errors import DataError

if TYPE_CHECKING:
    import h5py

IMAGES = ("frames", "images", "observations", "obs", "pixels", "rgb")
CAMERAS = ("obs", "observations", "obs/images", "observations/images")
FAVOURITE = "agentview_image"
FIELDS = {
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminated": ("terminated", "terminations", "dones", "done"),
}
FPS = ("fps", "frame_rate", "control_freq")
_ROWS = 64  # frames read at a time, fewer where they are large
_ROW_BYTES = 2**26


class Hdf5Files(ArrayFiles):
    """The HDF5 files of a folder."""

    format = "hdf5"
    alignment = "taken_at"
    suffixes = (".hdf5", ".h5", ".hf5")

    def _keys(self, path: Path) -> Sequence[str]:
        try:
            with open_hdf5(str(path), self._inside(path)) as file:
                return ("",) if is_csgo(file) else _episode_keys(file) or ("",)
        except DataError:
            return ("",)  # listed, so that opening it says what is wrong

    def _load(self, index: int, survey: bool = False) -> Loaded:
        name, (path, key) = self.names[index], self._entries[index]
        with open_hdf5(name, self._inside(path)) as file:
            if is_csgo(file):
                return csgo_episode(name, path, file, survey)
            return _group_episode(name, path, file, key)


def _group_episode(name: str, path: Path, file: h5py.File, key: str) -> Loaded:
    group = find(name, file, key)
    found = _image(name, group)
    if found is None:
        raise DataError(
            f"{name}: no group in it holds images, (frames, height, width, channels) of uint8, "
            f"named {', '.join(IMAGES)}; rename them, or remove the file"
        )
    place, dataset = found
    frames = check_frames(f"{name}: {place}", dataset.shape, dataset.dtype)
    arrays = {}
    for field, keys in FIELDS.items():
        nodes = ((each, find(name, group, each)) for each in keys)
        each, node = next(((each, node) for each, node in nodes if node is not None), ("", None))
        if each:
            arrays[field] = read_array(f"{name}: {each}", node)
    recorded = _recorded_fps(name, group)
    fps = recorded or DEFAULT_FPS

    def read() -> Iterator[RawFrame]:
        with open_hdf5(name, path) as file:
            images = find(name, file, f"{key}/{place}")
            rows = min(_ROWS, max(1, _ROW_BYTES // math.prod(images.shape[1:])))
            for start in range(0, frames, rows):
                for i, image in enumerate(images[start : start + rows], start):
                    yield RawFrame(i / fps, as_rgb(name, image))

    facts = {"layout": ["groups"], "fps_from": ["attributes" if recorded else "assumed"]}
    if "/" in place:
        facts["camera"] = [place]
    return Loaded(make_episode(name, read, frames, arrays), fps, facts)


def _image(name: str, group: Any) -> tuple[str, Any] | None:
    """Path of an episode's image dataset below its group, and the dataset; None if it has none."""
    for key in IMAGES:
        node = find(name, group, key)
        if is_array(node) and (node.ndim == 4 or node.dtype.hasobject):
            return key, node
    cameras = {}
    for place in CAMERAS:
        below = find(name, group, place)
        for key in below if is_group(below) else ():
            node = find(name, below, key)
            if not is_array(node) or node.ndim != 4 or node.dtype != np.uint8:
                continue
            if key in IMAGES or 3 in (node.shape[1], node.shape[3]):
                cameras[f"{place}/{key}"] = node
    best = min(cameras, key=lambda path: (not path.endswith(f"/{FAVOURITE}"), path), default=None)
    return None if best is None else (best, cameras[best])


def _episode_keys(file: h5py.File) -> list[str]:
    """Paths of the groups that are episodes, in natural order, unreadable ones included."""
    found, seen, todo = [], set(), [""]
    while todo:
        key = todo.pop()
        try:
            node = find(key, file, key)
            if not is_group(node) or address(node) in seen:  # hard links may make circles
                continue
            seen.add(address(node))
            if _image(key, node) is not None:
                found.append(key)
            else:
                todo.extend(f"{key}/{child}".lstrip("/") for child in node)
        except (DataError, *DAMAGE):
            found.append(key)  # reading it says what is wrong
    return sorted(found, key=natural)


def _recorded_fps(name: str, group: h5py.Group) -> float | None:
    """The frame rate that a group or one around it has among its attributes, the nearest first."""
    while True:
        for key in FPS:
            if key in group.attrs:
                return check_fps(f"{name}: attribute {key}", group.attrs[key])
        if "env_args" in group.attrs:  # robomimic
            try:
                arguments = json.loads(group.attrs["env_args"])
            except (TypeError, ValueError) as error:
                raise DataError(f"{name}: attribute env_args is not JSON; correct it") from error
            options = arguments.get("env_kwargs") if isinstance(arguments, dict) else None
            if isinstance(options, dict) and "control_freq" in options:
                return check_fps(f"{name}: env_args control_freq", options["control_freq"])
        if group.name == "/":
            return None
        group = group.parent


def _detect(path: Path) -> bool:
    return bool(find_files(path, Hdf5Files.suffixes))


HDF5 = Format("hdf5", "episodes in HDF5 files: groups, or CS:GO's", _detect, Hdf5Files, "data")
