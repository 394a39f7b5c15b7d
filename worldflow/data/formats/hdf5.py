"""Episodes in HDF5 files: one file, or a folder of them, in one of two layouts.

"groups": an episode is a group, at any depth, that holds an image dataset; what goes with it lies
beside it under the names in `FIELDS`, all optional. A file whose root is such a group is one
episode. The images are uint8, (T, H, W, C) or (T, C, H, W), and named as in `IMAGES`; or they are a
camera, which is any such dataset of three channels in a subgroup of `CAMERAS` (robomimic: `obs`).
Of several cameras `FAVOURITE` is read, or else the first by name; `source` says which.

"csgo": the files of Pearce & Zhu, "Counter-Strike Deathmatch with Large-Scale Behavioural Cloning",
which DIAMOND learns from. A file is an episode, `frame_{i}_x` its image i, stored as BGR, and
`frame_{i}_y` its action: ones for the keys, buttons and mouse movements made after image i was
grabbed. The flags `frame_{i}_helperarr` (a kill, a death) are not read: they are no rewards, a
death ends no file, and they came with image i rather than after it. Nor is `frame_{i}_xaux`.

Only what lies in the file itself is read: no soft or external links, no virtual or external data.
Where such a link stands in for an episode, or for something that an episode needs, that episode is
unreadable.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflow.data.formats.base import Format, RawEpisode, RawFrame, as_rgb
from worldflow.data.formats.npz import (
    DEFAULT_FPS,
    ArrayFiles,
    Loaded,
    check_bytes,
    check_fps,
    check_frames,
    find_files,
    make_episode,
    natural,
)
from worldflow.errors import ConfigError, DataError

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
CSGO_FPS = 16.0  # the rate of the recorder, `loop_fps` in its config.py
_CSGO_IMAGE = re.compile(r"frame_(\d+)_x")
_ROWS = 64  # frames read at a time, fewer where they are large
_ROW_BYTES = 2**26
_CHUNK_CACHE = 2**26  # bytes; else a chunk longer than a slice is decompressed for each slice
# What h5py makes of HDF5's errors on damaged files.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)


class Hdf5Files(ArrayFiles):
    """The HDF5 files of a folder."""

    format = "hdf5"
    alignment = "taken_at"
    suffixes = (".hdf5", ".h5", ".hf5")

    def __init__(self, path: Path) -> None:
        try:
            import h5py  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"{path}: HDF5 needs h5py; pip install 'worldflow[data]'") from error
        super().__init__(path)

    def _keys(self, path: Path) -> Sequence[str]:
        try:
            with _opened(str(path), self._inside(path)) as file:
                return ("",) if _csgo_numbers(file) else _episode_keys(file) or ("",)
        except DataError:
            return ("",)  # listed, so that opening it says what is wrong

    def _load(self, index: int, survey: bool = False) -> Loaded:
        name, (path, key) = self.names[index], self._entries[index]
        with _opened(name, self._inside(path)) as file:
            if _csgo_numbers(file):
                return _csgo_episode(name, path, file, survey)
            return _group_episode(name, path, file, key)


def _group_episode(name: str, path: Path, file: h5py.File, key: str) -> Loaded:
    group = _find(name, file, key)
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
        nodes = ((each, _find(name, group, each)) for each in keys)
        each, node = next(((each, node) for each, node in nodes if node is not None), ("", None))
        if each:
            arrays[field] = _array(f"{name}: {each}", node)
    recorded = _recorded_fps(name, group)
    fps = recorded or DEFAULT_FPS

    def read() -> Iterator[RawFrame]:
        with _opened(name, path) as file:
            images = _find(name, file, f"{key}/{place}")
            rows = min(_ROWS, max(1, _ROW_BYTES // math.prod(images.shape[1:])))
            for start in range(0, frames, rows):
                for i, image in enumerate(images[start : start + rows], start):
                    yield RawFrame(i / fps, as_rgb(name, image))

    facts = {"layout": ["groups"], "fps_from": ["attributes" if recorded else "assumed"]}
    if "/" in place:
        facts["camera"] = [place]
    return Loaded(make_episode(name, read, frames, arrays), fps, facts)


def _csgo_numbers(file: h5py.File) -> list[int]:
    """Numbers of the frames of a file of the CS:GO layout, ascending; none in any other."""
    return sorted(int(match[1]) for match in map(_CSGO_IMAGE.fullmatch, file) if match)


def _csgo_episode(name: str, path: Path, file: h5py.File, survey: bool) -> Loaded:
    numbers = _csgo_numbers(file)
    frames = len(numbers)
    if numbers != list(range(frames)):
        missing = min(set(range(frames)) - set(numbers))
        raise DataError(f"{name}: frame_{missing}_x is missing; get the file again or remove it")

    def image(file: h5py.File, i: int) -> np.ndarray:
        return _array(f"{name}: frame_{i}_x", _find(name, file, f"frame_{i}_x"))

    def action(i: int) -> np.ndarray:
        return _array(f"{name}: frame_{i}_y", _find(name, file, f"frame_{i}_y"))

    first = image(file, 0)
    check_frames(f"{name}: frame_*_x", (frames, *first.shape), first.dtype)

    def read() -> Iterator[RawFrame]:
        with _opened(name, path) as file:
            for i in range(frames):
                yield RawFrame(i / CSGO_FPS, as_rgb(name, image(file, i)[..., ::-1]))

    if survey:  # the limits are known, and the set has millions of actions, each a dataset
        zeros = np.zeros_like(action(0))
        episode = RawEpisode(name, read, actions=np.stack([zeros, zeros + 1]))
    else:
        actions = np.stack([action(i) for i in range(frames)])
        if not np.isin(actions, (0, 1)).all():
            raise DataError(f"{name}: frame_*_y must be zeros and ones; get the file again")
        episode = make_episode(name, read, frames, {"actions": actions})
    return Loaded(episode, CSGO_FPS, {"layout": ["csgo"], "fps_from": ["layout"]})


@contextmanager
def _opened(name: str, path: Path) -> Iterator[h5py.File]:
    """An opened file; raises DataError where it turns out damaged."""
    import h5py

    try:
        with h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE) as file:
            yield file
    except _DAMAGE as error:
        raise DataError(
            f"{name}: cannot be read as HDF5 ({error}); get the file again or remove it"
        ) from error


def _find(name: str, node: Any, path: str) -> Any:
    """The group or dataset at a path below `node`, None if there is none.

    Raises:
        DataError: a link is on the way that is not a hard one, or the data lie in another file.
    """
    import h5py

    for part in filter(None, path.split("/")):
        # Not `part in node`, which follows external links.
        if not isinstance(node, h5py.Group) or not node.id.links.exists(part.encode()):
            return None
        if node.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise DataError(f"{name}: {part} is a soft or external link; put the data in its place")
        node = node[part]
    if isinstance(node, h5py.Dataset) and (node.is_virtual or node.external):
        raise DataError(f"{name}: the data of {path} lie in other files; store them in this one")
    return node


def _array(name: str, node: Any) -> np.ndarray:
    """A whole dataset; raises DataError if it is none, or not of numbers, or too large."""
    import h5py

    if not isinstance(node, h5py.Dataset) or node.shape is None:
        raise DataError(f"{name} is missing or no array; get the file again or remove it")
    check_bytes(name, node.shape, node.dtype)
    return np.asarray(node[()])


def _image(name: str, group: Any) -> tuple[str, Any] | None:
    """Path of an episode's image dataset below its group, and the dataset; None if it has none."""
    import h5py

    for key in IMAGES:
        node = _find(name, group, key)
        if isinstance(node, h5py.Dataset) and (node.ndim == 4 or node.dtype.hasobject):
            return key, node
    cameras = {}
    for place in CAMERAS:
        below = _find(name, group, place)
        for key in below if isinstance(below, h5py.Group) else ():
            node = _find(name, below, key)
            if not isinstance(node, h5py.Dataset) or node.ndim != 4 or node.dtype != np.uint8:
                continue
            if key in IMAGES or 3 in (node.shape[1], node.shape[3]):
                cameras[f"{place}/{key}"] = node
    best = min(cameras, key=lambda path: (not path.endswith(f"/{FAVOURITE}"), path), default=None)
    return None if best is None else (best, cameras[best])


def _episode_keys(file: h5py.File) -> list[str]:
    """Paths of the groups that are episodes, in natural order, unreadable ones included."""
    import h5py

    found, seen, todo = [], set(), [""]
    while todo:
        key = todo.pop()
        try:
            node = _find(key, file, key)
            if isinstance(node, h5py.Group):
                address = h5py.h5o.get_info(node.id).addr
                if address in seen:  # hard links may make circles
                    continue
                seen.add(address)
            if _image(key, node) is not None:
                found.append(key)
            elif isinstance(node, h5py.Group):
                todo.extend(f"{key}/{child}".lstrip("/") for child in node)
        except (DataError, *_DAMAGE):
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
