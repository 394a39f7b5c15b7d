"""LeRobotDataset 2.1 and 3.0 on disk, read without lerobot.

Row i of an episode is its frame at i / fps and the action taken there. Cameras of dtype "image" lie
in the parquet files, those of dtype "video" in videos; `worldflow.data.formats.lerobot_meta` tells
where.

`next.done` marks the end of a recording. Where `next.success` is recorded too, an episode
terminates only where both are true. Time limits are not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldflow.data.formats.base import Format, RawEpisode, RawFrame, readable
from worldflow.data.formats.decoding import open_video
from worldflow.data.formats.files import inside
from worldflow.data.formats.lerobot_meta import REMEDY, Entry, LeRobotMeta, info_files
from worldflow.data.formats.parquet_file import open_parquet
from worldflow.data.formats.pixels import as_rgb, decode_image
from worldflow.data.formats.recorded_actions import check_actions, infer_action_spec
from worldflow.errors import DataError

ROWS = 32  # read at a time where they hold images


class LeRobotFolder:
    """An opened LeRobotDataset; see `RawDataset`. Of several cameras the first by name is read.

    Raises:
        DataError: its metadata cannot be read, see `LeRobotMeta`.
    """

    format = "lerobot"
    alignment = "taken_at"

    def __init__(self, path: Path) -> None:
        self._root = path
        self._meta = meta = LeRobotMeta(path)
        self._entries, self._camera = meta.entries, meta.cameras[0]
        self.fps = meta.fps
        self.names = [f"{entry.data} episode {entry.index}" for entry in self._entries]
        ends = [key for key in ("next.done", "next.success") if key in meta.features]
        self._ends = ends if "next.done" in ends else []
        self.lossy = f"{meta.codec} video" if meta.in_video else None
        if meta.codec is None:
            found = readable(self.names, self._compression)
            self.lossy = next((compression for _, compression in found), self.lossy)
        action = meta.features.get("action", {})
        self._floats = str(action.get("dtype")).startswith("float")
        limits = meta.recorded_limits() if self._floats else None
        recorded = readable(self.names, self._actions) if action else ()
        self.action_spec = limits or infer_action_spec(recorded)
        self.source: dict[str, Any] = {
            "path": str(path),
            "codebase_version": meta.version,
            "robot_type": meta.info.get("robot_type"),
            "camera": self._camera,
            "other_cameras": meta.cameras[1:],
            "action_names": action.get("names"),
            "terminations": " and ".join(self._ends) or None,
        }

    def open(self, index: int) -> RawEpisode:
        """The episode `names[index]`."""
        entry = self._entries[index]
        signals = [key for key in ("next.reward", *self._ends) if key in self._meta.features]
        acts = "action" in self._meta.features
        rows = self._rows(entry, [*signals, "action"] if acts else signals)
        for key in signals:
            if rows[key].size != entry.length or rows[key].dtype.kind not in "biuf":
                raise self._damaged(entry, f"{key} is not one number for each row")
        if self._meta.in_video:
            self._at(entry.video)
        ended = [rows[key].reshape(-1).astype(np.bool_) for key in self._ends]
        return RawEpisode(
            name=self.names[index],
            read=partial(self._read_video if self._meta.in_video else self._read_images, entry),
            frames=entry.length,
            actions=self._fitting_actions(entry, rows) if acts else None,
            rewards=rows["next.reward"].reshape(-1) if "next.reward" in rows else None,
            terminated=np.logical_and.reduce(ended) if ended else None,
        )

    def _read_video(self, entry: Entry) -> Iterator[RawFrame]:
        path, slack = self._at(entry.video), 0.5 / self.fps  # times are rounded
        count = 0
        with open_video(path) as video:
            start, stop = video.start + entry.start, video.start + entry.stop
            for seconds, pixels in video.frames(start - slack, stop - slack):
                late = seconds - start - count / self.fps
                if abs(late) > slack:
                    raise self._damaged(entry, f"{path}: frame {count} comes {late:.4f} s late")
                yield RawFrame(count / self.fps, pixels)
                count += 1
                if count == entry.length:
                    return
        raise self._damaged(entry, f"{entry.length} rows, but {count} frames in {path}")

    def _read_images(self, entry: Entry) -> Iterator[RawFrame]:
        for i, content in enumerate(self._images(entry)):
            name = f"{self._where(entry)}, row {i}"
            yield RawFrame(i / self.fps, as_rgb(name, decode_image(name, content)))

    def _images(self, entry: Entry) -> Iterator[bytes]:
        for columns in self._batches(entry, [self._camera], ROWS):
            for cell in columns[self._camera]:
                content = cell.get("bytes") if isinstance(cell, dict) else None
                if not isinstance(content, bytes):
                    raise self._damaged(entry, f"{self._camera} does not hold the images")
                yield content

    def _fitting_actions(self, entry: Entry, rows: dict[str, np.ndarray]) -> np.ndarray:
        actions, spec = self._as_recorded(entry, rows), self.action_spec
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

    def _actions(self, index: int) -> np.ndarray:
        entry = self._entries[index]
        return self._as_recorded(entry, self._rows(entry, ["action"]))

    def _as_recorded(self, entry: Entry, rows: dict[str, np.ndarray]) -> np.ndarray:
        """The actions (length, D), floats where the feature is."""
        actions = check_actions(self._where(entry), rows["action"].reshape(entry.length, -1))
        return actions.astype(float) if self._floats else actions

    def _rows(self, entry: Entry, keys: list[str]) -> dict[str, np.ndarray]:
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

    def _batches(self, entry: Entry, keys: list[str], size: int) -> Iterator[dict[str, list]]:
        """Columns of an episode, up to `size` rows at a time."""
        with open_parquet(self._at(entry.data)) as file:
            missing = {"episode_index", *keys} - set(file.schema_arrow.names)
            if missing:
                raise self._damaged(entry, f"no columns {', '.join(sorted(missing))}")
            about = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            groups = [i for i, group in enumerate(about) if _may_hold(group, entry.index)]
            for batch in file.iter_batches(size, groups, ["episode_index", *keys]):
                batch = batch.filter(batch.column("episode_index").to_numpy() == entry.index)
                yield {key: batch.column(key).to_pylist() for key in keys}

    def _compression(self, index: int) -> str | None:
        entry = self._entries[index]
        if not self._meta.in_video:
            return "JPEG" if next(self._images(entry), b"").startswith(b"\xff\xd8") else None
        with open_video(self._at(entry.video)) as video:
            return f"{video.codec} video"

    def _at(self, relative: str) -> Path:
        """A file of the dataset."""
        path = inside(self._root, self._root / relative)
        if not path.is_file():
            raise DataError(f"{path} is missing; {REMEDY}")
        return path

    def _damaged(self, entry: Entry, reason: str) -> DataError:
        return DataError(f"{self._where(entry)}: {reason}; {REMEDY}")

    def _where(self, entry: Entry) -> str:
        return f"{self._root}/{entry.data} episode {entry.index}"


def _may_hold(group: Any, index: int) -> bool:
    """Whether a row group may hold rows of an episode, by its statistics."""
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema == "episode_index" and column.statistics is not None:
            found = column.statistics
            return not found.has_min_max or found.min <= index <= found.max
    return True


def _detect(path: Path) -> bool:
    return any(
        b'"codebase_version"' in about.read_bytes() for about in info_files(path) if about.is_file()
    )


LEROBOT = Format(
    name="lerobot",
    describes="a LeRobotDataset 2.1 or 3.0: a folder with meta/info.json",
    detect=_detect,
    open=LeRobotFolder,
    extra="data",
)
