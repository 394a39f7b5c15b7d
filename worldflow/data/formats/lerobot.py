"""LeRobotDataset 2.1 and 3.0 on disk, read without lerobot.

`meta/info.json` holds the frame rate, the features, and templates of the paths of the other files.
2.1 has a parquet file and a video of each camera per episode. 3.0 has many episodes in a file;
`meta/episodes` says in which one lies, and from when to when in a video. Row i of an episode is its
frame at i / fps and the action taken there. Cameras of dtype "image" lie in the parquet files.

`next.done` marks the end of a recording. Where `next.success` is recorded too, an episode
terminates only where both are true. Time limits are not recorded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from worldflow.data.formats.base import (
    Format,
    RawEpisode,
    RawFrame,
    as_rgb,
    check_actions,
    check_size,
    infer_action_spec,
    inside,
)
from worldflow.data.formats.minari import decode_image, load_extra, read_json
from worldflow.errors import DataError

ROWS = 32  # read at a time where they hold images
_REMEDY = "download the dataset again (git lfs pull, where it is a pointer)"
_FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")
_OPTIONS = {
    # FFmpeg goes by content, and playlists, whatever they are called, open other files.
    "format_whitelist": "mov,matroska,avi",
    "protocol_whitelist": "file",
}


@dataclass(frozen=True)
class _Entry:
    """Where an episode of `length` rows lies.

    Attributes:
        data: path of the parquet file below the root.
        video: of the video; "" where images lie in the parquet file.
        start: in seconds of the video.
        stop: in seconds of the video, where the next begins.
    """

    index: int
    length: int
    data: str
    video: str
    start: float
    stop: float


class LeRobotFolder:
    """An opened LeRobotDataset; see `RawDataset`. Of several cameras the first by name is read.

    Raises:
        DataError: it is of another version, its metadata cannot be read, or it has no camera.
    """

    format = "lerobot"
    alignment = "taken_at"

    def __init__(self, path: Path) -> None:
        self._root = path
        self._info = _read_info(path)
        self._features: dict[str, dict[str, Any]] = self._info["features"]
        self.fps = float(self._info["fps"])
        cameras = sorted(key for key, feature in self._features.items() if _is_camera(feature))
        if not cameras:
            raise DataError(
                f"{path}/meta/info.json: no feature is a camera (dtype 'video' or 'image', and no "
                "depth); datasets without images cannot be used"
            )
        self._camera = cameras[0]
        self._in_video = self._features[self._camera]["dtype"] == "video"
        ends = [key for key in ("next.done", "next.success") if key in self._features]
        self._ends = ends if "next.done" in ends else []
        self._entries = sorted(self._read_entries(), key=lambda entry: entry.index)
        total = self._info.get("total_episodes")
        count = len(self._entries)
        if not count or count != total or self._entries[-1].index != count - 1:
            raise DataError(
                f"{path}/meta: {count} episodes are listed, must be total_episodes = {total} as "
                f"in info.json, numbered from 0; {_REMEDY}"
            )
        self.names = [f"{entry.data} episode {entry.index}" for entry in self._entries]
        self.lossy = self._compression()
        action = self._features.get("action", {})
        self._floats = str(action.get("dtype")).startswith("float")
        limits = self._recorded_limits() if self._floats else None
        found = self._readable(self._actions) if action else ()
        self.action_spec = infer_action_spec(found if limits is None else [limits])
        self.source: dict[str, Any] = {
            "path": str(path),
            "codebase_version": self._info["codebase_version"],
            "robot_type": self._info.get("robot_type"),
            "camera": self._camera,
            "other_cameras": cameras[1:],
            "action_names": action.get("names"),
            "terminations": " and ".join(self._ends) or None,
        }

    def open(self, index: int) -> RawEpisode:
        """The episode `names[index]`."""
        entry = self._entries[index]
        signals = [key for key in ("next.reward", *self._ends) if key in self._features]
        acts = "action" in self._features
        rows = self._rows(entry, [*signals, "action"] if acts else signals)
        for key in signals:
            if rows[key].size != entry.length or rows[key].dtype.kind not in "biuf":
                raise self._damaged(entry, f"{key} is not one number for each row")
        if self._in_video:
            self._at(entry.video)
        ended = [rows[key].reshape(-1).astype(np.bool_) for key in self._ends]
        return RawEpisode(
            name=self.names[index],
            read=partial(self._read_video if self._in_video else self._read_images, entry),
            frames=entry.length,
            actions=self._fitting_actions(entry, rows) if acts else None,
            rewards=rows["next.reward"].reshape(-1) if "next.reward" in rows else None,
            terminated=np.logical_and.reduce(ended) if ended else None,
        )

    def _read_video(self, entry: _Entry) -> Iterator[RawFrame]:
        path, slack = self._at(entry.video), 0.5 / self.fps  # times are rounded
        count = 0
        for frame in decode(path, entry.start - slack, entry.stop - slack):
            late = frame.seconds - entry.start - count / self.fps
            if abs(late) > slack:
                raise self._damaged(entry, f"{path}: frame {count} comes {late:.4f} s late")
            yield RawFrame(count / self.fps, frame.pixels)
            count += 1
            if count == entry.length:
                return
        raise self._damaged(entry, f"{entry.length} rows, but {count} frames in {path}")

    def _read_images(self, entry: _Entry) -> Iterator[RawFrame]:
        for i, content in enumerate(self._images(entry)):
            name = f"{self._where(entry)}, row {i}"
            yield RawFrame(i / self.fps, as_rgb(name, decode_image(name, content)))

    def _images(self, entry: _Entry) -> Iterator[bytes]:
        for columns in self._batches(entry, [self._camera], ROWS):
            for cell in columns[self._camera]:
                content = cell.get("bytes") if isinstance(cell, dict) else None
                if not isinstance(content, bytes):
                    raise self._damaged(entry, f"{self._camera} does not hold the images")
                yield content

    def _fitting_actions(self, entry: _Entry, rows: dict[str, np.ndarray]) -> np.ndarray:
        actions, spec = self._actions(entry, rows), self.action_spec
        width = len(spec.low) or 1
        if actions.shape[1] != width:
            raise self._damaged(entry, f"actions of {actions.shape[1]} numbers, not {width}")
        try:
            return spec.validate(actions.reshape(-1, *spec.shape))
        except DataError as error:
            raise DataError(
                f"{self._where(entry)}: {error}; where meta/stats.json or episodes_stats.jsonl is "
                "out of date, compute it anew, or remove it: the limits are then the data's"
            ) from error

    def _actions(self, entry: _Entry, rows: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """(length, D), floats where the feature is."""
        rows = rows or self._rows(entry, ["action"])
        actions = check_actions(self._where(entry), rows["action"].reshape(entry.length, -1))
        return actions.astype(float) if self._floats else actions

    def _rows(self, entry: _Entry, keys: list[str]) -> dict[str, np.ndarray]:
        """Columns of an episode, (length, ...) each."""
        columns: dict[str, list[Any]] = {key: [] for key in ["frame_index", *keys]}
        for batch in self._batches(entry, list(columns), 2**16):
            for key, cells in batch.items():
                columns[key].extend(cells)
        count = len(columns["frame_index"])
        if not count or count != entry.length or columns["frame_index"] != [*range(count)]:
            raise self._damaged(
                entry, f"{count} rows, must be {entry.length} with frame_index from 0 upwards"
            )
        try:
            return {key: np.array(cells) for key, cells in columns.items()}
        except ValueError as error:
            raise self._damaged(entry, f"rows of different lengths ({error})") from error

    def _batches(self, entry: _Entry, keys: list[str], size: int) -> Iterator[dict[str, list]]:
        """Columns of an episode, up to `size` rows at a time."""
        with _parquet(self._at(entry.data)) as file:
            missing = {"episode_index", *keys} - set(file.schema_arrow.names)
            if missing:
                raise self._damaged(entry, f"no columns {', '.join(sorted(missing))}")
            about = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            groups = [i for i, group in enumerate(about) if _may_hold(group, entry.index)]
            for batch in file.iter_batches(size, groups, ["episode_index", *keys]):
                batch = batch.filter(batch.column("episode_index").to_numpy() == entry.index)
                yield {key: batch.column(key).to_pylist() for key in keys}

    def _readable(self, read: Callable[[_Entry], Any]) -> Iterator[Any]:
        """What `read` gives of the episodes it can read; `open` says what is wrong with others."""
        for entry in self._entries:
            try:
                values = read(entry)
            except DataError:
                continue
            yield values

    def _compression(self) -> str | None:
        if not self._in_video:
            first = next(self._readable(lambda entry: next(self._images(entry), b"")), b"")
            return "JPEG" if first.startswith(b"\xff\xd8") else None
        codec = _details(self._features[self._camera]).get("video.codec")
        if not codec:
            codec = next(self._readable(lambda entry: _codec(self._at(entry.video))), "unread")
        return f"{codec} video"

    def _read_entries(self) -> Iterator[_Entry]:
        old, video = self._info["codebase_version"] == "v2.1", f"videos/{self._camera}/"
        lines = inside(self._root, self._root / "meta" / "episodes.jsonl")
        for row in _read_lines(lines) if old else self._tables(video):
            try:
                index, length = row["episode_index"], row["length"]
                if old:
                    chunk = index // self._info["chunks_size"]
                    place = {"episode_index": index, "episode_chunk": chunk}
                else:
                    place = {key: row[f"data/{key}"] for key in ("chunk_index", "file_index")}
                data, film, start, stop = _filled(self._info["data_path"], place), "", 0.0, 0.0
                if self._in_video:
                    stop = length / self.fps
                    if not old:
                        place = {key: row[video + key] for key in place}
                        start, stop = row[video + "from_timestamp"], row[video + "to_timestamp"]
                    film = _filled(self._info["video_path"], {**place, "video_key": self._camera})
                if not 0 <= start <= stop < np.inf:
                    raise ValueError(f"from {start} s to {stop} s")
                entry = _Entry(int(index), int(length), data, film, float(start), float(stop))
            except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
                raise DataError(
                    f"{self._root}/meta: where episode {row.get('episode_index')} lies is not "
                    f"said ({error!r}); {_REMEDY}"
                ) from error
            yield entry

    def _tables(self, video: str) -> Iterator[dict[str, Any]]:
        """Rows of the parquet files in meta/episodes, without the statistics in them."""
        for path in sorted((self._root / "meta" / "episodes").glob("*/*.parquet")):
            with _parquet(inside(self._root, path)) as file:
                wanted = ("episode_index", "length", "data/", video)
                keys = [key for key in file.schema_arrow.names if key.startswith(wanted)]
                yield from file.read(keys).to_pylist()

    def _recorded_limits(self) -> np.ndarray | None:
        """The least and the greatest actions (2, D) of the statistics; None if they do not say."""
        old = self._info["codebase_version"] == "v2.1"
        name = "episodes_stats.jsonl" if old else "stats.json"
        path = inside(self._root, self._root / "meta" / name)
        stats: list[Any] = []
        if path.is_file():
            stats = [row.get("stats") for row in _read_lines(path)] if old else [read_json(path)]
        try:
            low, high = (
                np.array([np.ravel(each["action"][end]) for each in stats], dtype=float)
                for end in ("min", "max")
            )
        except (KeyError, TypeError, ValueError):
            return None
        known = len(stats) == (len(self._entries) if old else 1) and low.shape == high.shape
        if not known or not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
            return None
        return np.stack([low.min(axis=0), high.max(axis=0)])

    def _at(self, relative: str) -> Path:
        """A file of the dataset."""
        path = inside(self._root, self._root / relative)
        if not path.is_file():
            raise DataError(f"{path} is missing; {_REMEDY}")
        return path

    def _damaged(self, entry: _Entry, reason: str) -> DataError:
        return DataError(f"{self._where(entry)}: {reason}; {_REMEDY}")

    def _where(self, entry: _Entry) -> str:
        return f"{self._root}/{entry.data} episode {entry.index}"


def decode(path: Path, start: float, stop: float) -> Iterator[RawFrame]:
    """The frames of a video from `start` to `stop` (excluded), in seconds of the file.

    Raises:
        DataError: it is no such video, or damaged.
    """
    with _video(path) as (container, stream):
        first = stream.start_time or 0
        # A second early, as files are sought by decoding times, which come before those of display.
        if start > 1:
            container.seek(first + int((start - 1) / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise DataError(f"{path}: truncated; {_REMEDY}")
            for frame in packet.decode():
                if frame.pts is None:
                    raise DataError(f"{path}: a frame has no time; {_REMEDY}")
                seconds = float((frame.pts - first) * stream.time_base)
                if seconds >= stop:
                    return
                if seconds >= start:
                    check_size(str(path), frame.height, frame.width)
                    yield RawFrame(seconds, frame.to_ndarray(format="rgb24"))


def _codec(path: Path) -> str:
    with _video(path) as (_, stream):
        return str(stream.codec_context.codec.canonical_name)


@contextmanager
def _video(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        with av.open(str(path.absolute()), options=dict(_OPTIONS)) as container:
            streams = container.streams.video
            if not streams or streams[0].codec_context is None:
                raise DataError(f"{path}: no video in it that can be decoded; {_REMEDY}")
            yield container, streams[0]
    except av.FFmpegError as error:
        raise DataError(f"{path}: no whole video ({error.strerror}); {_REMEDY}") from error


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    parquet = load_extra("pyarrow.parquet", "LeRobot datasets")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (load_extra("pyarrow", "LeRobot datasets").ArrowException, OSError) as error:
        raise DataError(f"{path}: no whole parquet file ({error}); {_REMEDY}") from error


def _may_hold(group: Any, index: int) -> bool:
    """Whether a row group may hold rows of an episode, by its statistics."""
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema == "episode_index" and column.statistics is not None:
            found = column.statistics
            return not found.has_min_max or found.min <= index <= found.max
    return True


def _is_camera(feature: dict[str, Any]) -> bool:
    details = _details(feature)
    depth = details.get("is_depth_map") or details.get("video.is_depth_map")
    return feature["dtype"] in ("video", "image") and not depth


def _details(feature: dict[str, Any]) -> dict[str, Any]:
    return feature.get("info") or feature.get("video_info") or {}


def _filled(template: str, values: dict[str, Any]) -> str:
    """A path template with its fields, {name} or {name:03d}, filled in."""
    path = _FIELD.sub(lambda match: str(values[match[1]]).zfill(int(match[2] or 0)), template)
    if "{" in path or "}" in path:
        raise ValueError(f"the template {template!r} is not understood")
    return path


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable lines of JSON ({error}); {_REMEDY}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: lines that are no JSON objects; {_REMEDY}")
    yield from rows


def _read_info(root: Path) -> dict[str, Any]:
    path = next(filter(Path.is_file, _about(root)), root / "meta" / "info.json")
    info = read_json(inside(root, path))
    version = info.get("codebase_version")
    if version not in ("v2.1", "v3.0"):
        raise DataError(
            f"{path}: codebase_version is {version!r}, v2.1 and v3.0 are read; convert older ones "
            "with the scripts convert_dataset_v1_to_v2.py and convert_dataset_v20_to_v21.py, which "
            "lerobot has before its version 0.4"
        )
    if info.get("storage_format") == "lance":
        raise DataError(f"{path}: stored as Lance tables; get the dataset of parquet files")
    fps, features = info.get("fps"), info.get("features")
    if not isinstance(fps, int | float) or not 0 < fps < np.inf:
        raise DataError(f"{path}: fps is {fps!r}, not a number above 0; correct it")
    if not isinstance(features, dict) or not all(
        isinstance(feature, dict) and "dtype" in feature for feature in features.values()
    ):
        raise DataError(f"{path}: features must give the dtype of each; {_REMEDY}")
    return info


def _about(root: Path) -> list[Path]:
    return [root / "meta" / "info.json", root / "meta_data" / "info.json"]  # the latter in 1.x


def _detect(path: Path) -> bool:
    return any(
        b'"codebase_version"' in about.read_bytes() for about in _about(path) if about.is_file()
    )


LEROBOT = Format(
    name="lerobot",
    describes="a LeRobotDataset 2.1 or 3.0: a folder with meta/info.json",
    detect=_detect,
    open=LeRobotFolder,
    extra="data",
)
