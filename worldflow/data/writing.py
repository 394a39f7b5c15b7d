"""Episodes written in formats of other tools, one file or one pair of files for each."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeWriter
from worldflow.data.formats.captions import CAPTION_SUFFIX
from worldflow.data.formats.extras import load_extra
from worldflow.data.metadata import DatasetMetadata, write_atomically
from worldflow.errors import DataError


class Writer(Protocol):
    """Adds episodes to a folder."""

    metadata: DatasetMetadata

    def add(self, index: int, episode: Episode) -> Path:
        """Write one episode under its index."""

    def remove(self, index: int) -> None:
        """Take back an episode."""


class _FolderWriter:
    """A folder of files named by the episode's index.

    Only the store says of each action whether it is known, so here it must be of all of an episode
    (but that of its first frame) or of none; then the actions are left out.
    """

    suffixes: tuple[str, ...]

    def __init__(self, folder: Path, metadata: DatasetMetadata) -> None:
        self.folder, self.metadata = folder, metadata
        self._captions_left_out = False  # and said so
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, index: int, episode: Episode) -> Path:
        """Write one episode under its index.

        Raises:
            DataError: some of its actions are known and some are not.
        """
        arrays: dict[str, np.ndarray] = {}
        known = episode.known[1:]
        if self.metadata.action_spec.kind != "none" and known.any():
            if not known.all():
                raise DataError(
                    f"episode {index}: some of its actions are not known, which only the format "
                    "'store' can say; use format=store"
                )
            arrays["actions"] = episode.actions
        if self.metadata.has_rewards:
            arrays["rewards"] = episode.rewards
        if self.metadata.has_terminations:
            arrays["terminated"] = episode.terminated
        self._write(self._path(index), episode.frames, arrays)
        if episode.caption is not None and CAPTION_SUFFIX in self.suffixes:
            text = self._path(index).with_suffix(CAPTION_SUFFIX)
            write_atomically(text, f"{episode.caption}\n".encode())
        elif episode.caption is not None and not self._captions_left_out:
            self._captions_left_out = True
            kind = self.suffixes[0].removeprefix(".")
            print(
                f"{self.folder}: captions are left out, as {kind} files have no place for them; "
                "format=store and format=video keep them"
            )
        return self._path(index)

    def remove(self, index: int) -> None:
        """Take back an episode."""
        for suffix in self.suffixes:
            self._path(index).with_suffix(suffix).unlink(missing_ok=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}{self.suffixes[0]}"

    def _write(self, path: Path, frames: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        raise NotImplementedError


class NpzWriter(_FolderWriter):
    """`frames`, `fps`, and of `actions`, `rewards`, `terminated` those there are; `led_to`."""

    suffixes = (".npz",)

    def _write(self, path: Path, frames: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        fps = np.array(self.metadata.fps)
        write_atomically(path, _npz({"frames": frames, "fps": fps, **arrays}))


class Hdf5Writer(_FolderWriter):
    """One file an episode with `frames` (T) and the arrays between them (T - 1) at its root."""

    suffixes = (".hdf5",)

    def _write(self, path: Path, frames: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        h5py = load_extra("h5py", path)
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.attrs["fps"] = self.metadata.fps
            chunk = (min(64, len(frames)), *frames.shape[1:])
            file.create_dataset("frames", data=frames, chunks=chunk, compression="gzip")
            for name, values in arrays.items():
                file.create_dataset(name, data=values[1:])
        write_atomically(path, buffer.getvalue())


class VideoWriter(_FolderWriter):
    """A lossless video (FFV1 in Matroska), its caption and, where there are steps, an .npz."""

    suffixes = (".mkv", ".npz", CAPTION_SUFFIX)

    def _write(self, path: Path, frames: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        if arrays and len(frames) > 1:
            between = {name: values[1:] for name, values in arrays.items()}
            write_atomically(path.with_suffix(".npz"), _npz(between))
        partial = path.with_name(path.name + ".partial")
        with av.open(str(partial), "w", format="matroska") as container:
            rate = Fraction(self.metadata.fps).limit_denominator(1000)
            stream = container.add_stream("ffv1", rate=rate)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "bgr0"  # not YUV, so nothing is lost
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Path, DatasetMetadata], Writer]] = {
    "store": EpisodeWriter,
    "npz": NpzWriter,
    "hdf5": Hdf5Writer,
    "video": VideoWriter,
}
