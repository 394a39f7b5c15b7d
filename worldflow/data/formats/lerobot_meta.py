"""What the folder `meta` of a LeRobotDataset 2.1 or 3.0 says: its features, and where episodes lie.

`info.json` holds the frame rate, the features, and templates of the paths of the other files. 2.1
has a parquet file and a video of each camera per episode. 3.0 has many episodes in a file;
`episodes` says in which one lies, and from when to when in a video.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.data.formats.files import inside, read_json
from worldflow.data.formats.parquet_file import open_parquet
from worldflow.data.formats.recorded_actions import box_spec
from worldflow.errors import DataError

REMEDY = "download the dataset again (git lfs pull, where it is a pointer)"
_FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")


@dataclass(frozen=True)
class Entry:
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


class LeRobotMeta:
    """The metadata of a dataset.

    Attributes:
        version: "v2.1" or "v3.0".
        info: all of info.json.
        fps: frames per second.
        features: what is said of each column, by its name.
        cameras: features that are frames, by name; one or more, of which the first is read.
        in_video: whether the first camera lies in videos, not in the parquet files.
        entries: the episodes, in order.

    Raises:
        DataError: it is of another version, its metadata cannot be read, or it has no camera.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.info = _read_info(root)
        self.version: str = self.info["codebase_version"]
        self.fps = float(self.info["fps"])
        self.features: dict[str, dict[str, Any]] = self.info["features"]
        self.cameras = sorted(key for key, feature in self.features.items() if _is_camera(feature))
        if not self.cameras:
            raise DataError(
                f"{root}/meta/info.json: no feature is a camera (dtype 'video' or 'image', and no "
                "depth); datasets without images cannot be used"
            )
        self.in_video = self.features[self.cameras[0]]["dtype"] == "video"
        self.entries = sorted(self._read_entries(), key=lambda entry: entry.index)
        total, count = self.info.get("total_episodes"), len(self.entries)
        if not count or count != total or self.entries[-1].index != count - 1:
            raise DataError(
                f"{root}/meta: {count} episodes are listed, must be total_episodes = {total} as "
                f"in info.json, numbered from 0; {REMEDY}"
            )

    @property
    def codec(self) -> str | None:
        """Of the first camera's videos; None if it is not said, or there are none."""
        camera = self.features[self.cameras[0]]
        return _details(camera).get("video.codec") if self.in_video else None

    def recorded_limits(self) -> ActionSpec | None:
        """The box of the statistics' least and greatest actions; None if they do not say."""
        old = self.version == "v2.1"
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
        known = (
            low.size and len(stats) == (len(self.entries) if old else 1) and low.shape == high.shape
        )
        if not known or not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
            return None
        return box_spec(low.min(axis=0), high.max(axis=0))

    def _read_entries(self) -> Iterator[Entry]:
        old, video = self.version == "v2.1", f"videos/{self.cameras[0]}/"
        lines = inside(self._root, self._root / "meta" / "episodes.jsonl")
        for row in _read_lines(lines) if old else self._tables(video):
            try:
                index, length = row["episode_index"], row["length"]
                if old:
                    chunk = index // self.info["chunks_size"]
                    place = {"episode_index": index, "episode_chunk": chunk}
                else:
                    place = {key: row[f"data/{key}"] for key in ("chunk_index", "file_index")}
                data, film, start, stop = _filled(self.info["data_path"], place), "", 0.0, 0.0
                if self.in_video:
                    stop = length / self.fps
                    if not old:
                        place = {key: row[video + key] for key in place}
                        start, stop = row[video + "from_timestamp"], row[video + "to_timestamp"]
                    film = _filled(self.info["video_path"], {**place, "video_key": self.cameras[0]})
                if not 0 <= start <= stop < np.inf:
                    raise ValueError(f"from {start} s to {stop} s")
                entry = Entry(int(index), int(length), data, film, float(start), float(stop))
            except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
                raise DataError(
                    f"{self._root}/meta: where episode {row.get('episode_index')} lies is not "
                    f"said ({error!r}); {REMEDY}"
                ) from error
            yield entry

    def _tables(self, video: str) -> Iterator[dict[str, Any]]:
        """Rows of the parquet files in meta/episodes, without the statistics in them."""
        for path in sorted((self._root / "meta" / "episodes").glob("*/*.parquet")):
            with open_parquet(inside(self._root, path)) as file:
                wanted = ("episode_index", "length", "data/", video)
                keys = [key for key in file.schema_arrow.names if key.startswith(wanted)]
                yield from file.read(keys).to_pylist()


def _is_camera(feature: dict[str, Any]) -> bool:
    details = _details(feature)
    depth = details.get("is_depth_map") or details.get("video.is_depth_map")
    return feature["dtype"] in ("video", "image") and not depth


def _details(feature: dict[str, Any]) -> dict[str, Any]:
    details = feature.get("info") or feature.get("video_info")
    return details if isinstance(details, dict) else {}


def _filled(template: str, values: dict[str, Any]) -> str:
    """A path template with its fields, {name} or {name:03d}, filled in."""
    path = _FIELD.sub(lambda match: str(values[match[1]]).zfill(int(match[2] or 0)), template)
    if "{" in path or "}" in path:
        raise ValueError(f"the template {template!r} is not understood")
    return path


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable lines of JSON ({error}); {REMEDY}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: lines that are no JSON objects; {REMEDY}")
    return rows


def _read_info(root: Path) -> dict[str, Any]:
    path = next(filter(Path.is_file, info_files(root)), root / "meta" / "info.json")
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
        raise DataError(f"{path}: features must give the dtype of each; {REMEDY}")
    return info


def info_files(root: Path) -> list[Path]:
    """Where info.json may lie."""
    return [root / "meta" / "info.json", root / "meta_data" / "info.json"]  # the latter in 1.x
