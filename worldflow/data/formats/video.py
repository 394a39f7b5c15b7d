"""The format "video": a folder of videos, each an episode, and action files beside them.

Videos are mp4, mkv, webm, avi or mov, of any length and rate, at any depth, in order of their
paths; what is hidden is skipped. Row t of an action file (`worldflow.data.formats.action_files`) is
the action taken while frame t was on screen.

Frames come as they are stored: a rotation that a phone noted is not applied, alpha is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from worldflow.data.formats.action_files import ACTION_SUFFIXES, Steps, read_steps
from worldflow.data.formats.base import (
    Format,
    RawEpisode,
    RawFrame,
    check_size,
    infer_action_spec,
    inside,
)
from worldflow.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
# By the names of their decoders. H.264 and H.265 can be lossless, which the file does not tell.
LOSSLESS = {"ffv1", "ffvhuff", "huffyuv", "png", "rawvideo", "utvideo"}
# FFmpeg goes by content, and playlists, whatever they are called, open other files.
_OPTIONS = {"format_whitelist": "mov,matroska,avi"}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The open container and its first video stream, whose header was checked.

    Raises:
        DataError: no such video, or what FFmpeg reports while it is open.
    """
    try:
        # Absolute, since FFmpeg takes a name such as "concat:a.mp4" for a protocol.
        with av.open(path.absolute(), options=_OPTIONS, metadata_errors="replace") as container:
            if not container.streams.video:
                raise DataError(f"{path}: no video in it; remove the file")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise DataError(f"{path}: its codec is unknown to PyAV; encode it with another")
            check_size(str(path), stream.codec_context.height, stream.codec_context.width)
            yield container, stream
    except av.FFmpegError as error:
        raise DataError(
            f"{path}: damaged, or no {', '.join(s[1:] for s in VIDEO_SUFFIXES)} "
            f"({error.strerror}); copy or record it again, or remove it"
        ) from error


def frame_rate(path: Path) -> float:
    """The average rate that the header states or, as in what browsers record, that times give.

    Raises:
        DataError: the header is damaged, or there is neither a stated rate nor a second frame.
    """
    with _opened(path) as (container, stream):
        if stream.average_rate:
            return float(stream.average_rate)
        times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        if len(set(times)) < 2:
            raise DataError(f"{path}: neither a frame rate nor two frames in it; remove the file")
        return (len(times) - 1) / float((max(times) - min(times)) * stream.time_base)


def read_frames(path: Path) -> Iterator[RawFrame]:
    """The frames of a video in order, decoded one by one; the file is closed with the iterator.

    A file is truncated if one of its packets is, or if it ends more than 1.5 frames of its average
    rate, and more than 0.1 s, before the end that its header states. An mkv or webm recorded live
    states none: cut, it passes as a shorter video.

    Raises:
        DataError: the file is damaged, truncated or has no frames, its frames change their size,
            or one comes no later than the one before.
    """
    rate = frame_rate(path)
    with _opened(path) as (container, stream):
        start = last = size = None
        end = 0.0
        # All streams: the end that the header states is that of the longest.
        for packet in container.demux():
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                end = max(end, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            if packet.is_corrupt:
                raise _damaged(path, "a frame is cut short")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise _damaged(path, "a frame is broken")
                check_size(str(path), frame.height, frame.width)
                shape = f"{frame.height} x {frame.width}"
                size = size or shape
                if shape != size:
                    raise DataError(
                        f"{path}: frames change from {size} to {shape} pixels; cut it there, or "
                        "scale it: ffmpeg -i OLD NEW"
                    )
                now = frame_time(frame, last, rate)
                if last is not None and now <= last:
                    raise DataError(
                        f"{path}: a frame at {now:.4f} s follows one at {last:.4f} s; "
                        "encode it again: ffmpeg -i OLD NEW"
                    )
                start, last = now if start is None else start, now
                yield RawFrame(now - start, frame.to_ndarray(format="rgb24"))
        if last is None:
            raise DataError(f"{path}: no frames in it; record it again or remove it")
        stated = _stated_end(container, stream, rate)
        # The last frame may have no length, and sound is shifted by a packet.
        if stated - end > max(1.5 / rate, 0.1):
            raise _damaged(path, f"it ends at {end:.3f} s, its header states {stated:.3f} s")


def frame_time(frame: Any, last: float | None, rate: float) -> float:
    """When the PyAV frame is shown, in seconds on the container's clock: its pts.

    A frame without pts comes 1 / `rate` after the `last` one, or at 0 as the first.
    """
    if frame.pts is not None:
        return float(frame.pts * frame.time_base)
    return 0.0 if last is None else last + 1 / rate


def _stated_end(container: Any, stream: Any, rate: float) -> float:
    """Where the header puts the end, in seconds; 0 if it does not say."""
    if container.format.name == "avi":  # FFmpeg corrects an avi's duration by the file's size
        return float(stream.frames / rate)
    return (container.duration or 0) / av.time_base


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: damaged or truncated ({reason}); copy or record it again, or keep what can be "
        "read: ffmpeg -i OLD NEW"
    )


class VideoFolder:
    """The videos of a folder, or a single video, as `RawDataset`; its `names` are their paths.

    Attributes:
        fps: average rate of the first video whose header can be read.
        lossy: the lossy codecs of all videos; H.264 and H.265 count, coarser colour (yuv420p) alone
            does not.

    Raises:
        DataError: no video is there or readable, or their actions are of several kinds.
    """

    format = "video"
    alignment = "taken_at"

    def __init__(self, path: Path) -> None:
        single = path.is_file()
        self._root = path.parent if single else path
        self._videos: list[Path] = []
        self._beside: dict[Path, list[Path]] = {}
        for file in sorted(self._root.iterdir() if single else _visible(path)):
            if file.suffix.lower() in ACTION_SUFFIXES:
                self._beside.setdefault(file.with_suffix(""), []).append(file)
            elif file.suffix.lower() in VIDEO_SUFFIXES and (not single or file == path):
                self._videos.append(file)
        if not self._videos:
            raise DataError(f"{path}: no videos there; they end in {', '.join(VIDEO_SUFFIXES)}")
        self.names = [video.relative_to(self._root).as_posix() for video in self._videos]
        self.source = {"path": str(path), "videos": len(self._videos)}
        self.action_spec = infer_action_spec(self._readable_actions())
        self.fps, self.lossy = self._rate_and_codecs()

    def open(self, index: int) -> RawEpisode:
        """The video `names[index]` and its actions.

        Raises:
            DataError: the video's header or its action file cannot be read, there are two action
                files, or a link leads out of the folder.
            ConfigError: the actions are in a parquet file, and pyarrow is not installed.
        """
        video = inside(self._root, self._videos[index])
        frame_rate(video)  # raises where the header is damaged
        name, read, steps = self.names[index], partial(read_frames, video), self._steps(video)
        return RawEpisode(
            name, read, actions=steps.actions, rewards=steps.rewards, terminated=steps.terminated
        )

    def _steps(self, video: Path) -> Steps:
        files = self._beside.get(video.with_suffix(""), [])
        if len(files) > 1:
            raise DataError(
                f"{video}: {' and '.join(file.name for file in files)} lie beside it; keep one"
            )
        return read_steps(inside(self._root, files[0])) if files else Steps()

    def _readable_actions(self) -> Iterator[np.ndarray]:
        for video in self._videos:
            try:
                actions = self._steps(video).actions
            except DataError:  # named when its episode is opened
                continue
            if actions is not None:
                yield actions

    def _rate_and_codecs(self) -> tuple[float, str | None]:
        rate, codecs, errors = 0.0, set(), []
        for video in self._videos:
            try:
                with _opened(inside(self._root, video)) as (_, stream):
                    codecs.add(stream.codec_context.name)
                rate = rate or frame_rate(video)
            except DataError as error:  # named when its episode is opened
                errors.append(error)
        if not rate:
            raise DataError(f"none of {len(errors)} videos can be read; the first: {errors[0]}")
        lossy = sorted(codecs - LOSSLESS)
        return rate, f"{', '.join(lossy)} video" if lossy else None


def _visible(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden; links included, wherever they lead."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and (path.is_file() or path.is_symlink()):
            yield path


def _detect(path: Path) -> bool:
    files = [path] if path.is_file() else _visible(path)
    return any(file.suffix.lower() in VIDEO_SUFFIXES for file in files)


VIDEO = Format(
    name="video",
    describes="videos (mp4, mkv, webm, avi, mov), actions beside each (npz, csv, jsonl, parquet)",
    detect=_detect,
    open=VideoFolder,
)
