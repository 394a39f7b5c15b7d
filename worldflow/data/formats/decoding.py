"""Videos decoded by PyAV: one way to open a file that may be damaged or hostile, and to read it.

A rotation that a phone noted is applied, in quarter turns; alpha is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np

from worldflow.data.formats.base import RawFrame
from worldflow.data.formats.pixels import check_size
from worldflow.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_OPTIONS = {
    # FFmpeg goes by content, and playlists, whatever they are called, open other files.
    "format_whitelist": "mov,matroska,avi",
    "protocol_whitelist": "file",
}


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """An open video, whose header was checked.

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
            yield Video(path, container, stream)
    except av.FFmpegError as error:
        raise DataError(
            f"{path}: damaged, or no {', '.join(s[1:] for s in VIDEO_SUFFIXES)} "
            f"({error.strerror}); get it again (git lfs pull, where it is a pointer) or remove it"
        ) from error


def read_frames(path: Path) -> Iterator[RawFrame]:
    """All frames of a video in order, the first at 0 s; the file is closed with the iterator.

    A file is truncated if one of its packets is, or if it ends more than 1.5 frames of its average
    rate, and more than 0.1 s, before the end that its header states. An mkv or webm recorded live
    states none: cut, it passes as a shorter video.

    Raises:
        DataError: the file is damaged, truncated or has no frames; or see `Video.frames`.
    """
    with open_video(path) as video:
        first = None
        for seconds, pixels in video.frames():
            first = seconds if first is None else first
            yield RawFrame(seconds - first, pixels)
        if first is None:
            raise DataError(f"{path}: no frames in it; record it again or remove it")
        video.check_end()


class Video:
    """An open video, of which the first video stream is read; see `open_video`.

    Attributes:
        codec: its name, such as "h264".
        start: where the stream begins, in seconds on the container's clock.
    """

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._end = 0.0  # of what was read
        self.codec = str(stream.codec_context.codec.canonical_name)
        self.start = float((stream.start_time or 0) * stream.time_base)

    @cached_property
    def rate(self) -> float:
        """The average that the header states or, as in what browsers record, that times give.

        Raises:
            DataError: there is neither a stated rate nor a second frame.
        """
        if self._stream.average_rate:
            return float(self._stream.average_rate)
        with open_video(self._path) as other:
            times = [packet.pts for packet in other._packets() if packet.pts is not None]
        if len(set(times)) < 2:
            raise DataError(
                f"{self._path}: neither a frame rate nor two frames in it; remove the file"
            )
        return (len(times) - 1) / float((max(times) - min(times)) * self._stream.time_base)

    def frames(self, since: float = -math.inf, until: float = math.inf) -> Iterator[RawFrame]:
        """The frames from `since` to `until` (excluded), decoded one by one.

        Args:
            since: seconds on the container's clock, as the times of the frames are.
            until: likewise.

        Raises:
            DataError: a packet or a frame is damaged, frames change their size, or one comes no
                later than the one before.
        """
        before = last = size = None
        if since > self.start + 1:
            # A second early: files are sought by decoding times, which precede those of display.
            place = int((since - 1) / self._stream.time_base)
            self._container.seek(place, stream=self._stream)
            before = -math.inf  # a frame without a time cannot be placed here
        for packet in self._packets():
            for frame in packet.decode():
                before = now = self.time_of(frame, before)
                if now >= until:
                    return
                if now < since:
                    continue
                if frame.is_corrupt:
                    raise self._damaged("a frame is broken")
                check_size(str(self._path), frame.height, frame.width)
                shape = f"{frame.height} x {frame.width}"
                size = size or shape
                if shape != size:
                    raise DataError(
                        f"{self._path}: frames change from {size} to {shape} pixels; cut it there, "
                        "or scale it: ffmpeg -i OLD NEW"
                    )
                if last is not None and now <= last:
                    raise DataError(
                        f"{self._path}: a frame at {now:.4f} s follows one at {last:.4f} s; "
                        "encode it again: ffmpeg -i OLD NEW"
                    )
                last = now
                # counter-clockwise degrees, see AVDisplayMatrix in libavutil
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield RawFrame(now, np.ascontiguousarray(pixels))

    def time_of(self, frame: Any, before: float | None) -> float:
        """When a frame is shown, in seconds on the container's clock: its pts.

        A frame without pts comes 1 / `rate` after the one `before`, or at 0 as the first.
        """
        if frame.pts is not None:
            return float(frame.pts * frame.time_base)
        return 0.0 if before is None else before + 1 / self.rate

    def check_end(self) -> None:
        """Raises DataError if what was read ended long before the end that the header states."""
        if self._container.format.name == "avi":
            # FFmpeg corrects the duration of an avi by the file's size.
            stated = float(self._stream.frames / self.rate)
        else:
            stated = (self._container.duration or 0) / av.time_base
        # The last frame may have no length, and sound is shifted by a packet.
        if stated - self._end > max(1.5 / self.rate, 0.1):
            raise self._damaged(f"it ends at {self._end:.3f} s, its header states {stated:.3f} s")

    def _packets(self) -> Iterator[Any]:
        """The packets of the stream that are left; raises DataError if one is cut short."""
        # All streams: the end that the header states is that of the longest.
        for packet in self._container.demux():
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                self._end = max(
                    self._end, float((time + (packet.duration or 0)) * packet.time_base)
                )
            if packet.stream.index == self._stream.index:
                if packet.is_corrupt:
                    raise self._damaged("a frame is cut short")
                yield packet

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"{self._path}: damaged or truncated ({reason}); get it again, or keep what can be "
            "read: ffmpeg -i OLD NEW"
        )
