"""The file of all frames' latents, which several processes may write, and its check sums."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from worldflow.data.metadata import write_atomically
from worldflow.errors import DataError


class LatentFile:
    """`latents.bin`: the frames of all episodes one after the other, each (N, C) in float32.

    `latents.json` has the key of what was encoded and a sum of each episode. While the file is
    being written, each process notes the sums of its own part in `latents.RANK.json`.

    Args:
        folder: where they lie.
        lengths: frames of each episode, (E,).
        shape: N and C.
    """

    def __init__(self, folder: Path, lengths: np.ndarray, shape: tuple[int, int]) -> None:
        self._folder, self._shape = folder, shape
        self._data, self._state = folder / "latents.bin", folder / "latents.json"
        self._starts = np.concatenate(([0], np.cumsum(lengths)))

    def prepare(self, key: str) -> list[int | None]:
        """Make the file if there is none of this key; by one process, before the others write.

        Returns:
            the sum of each episode that is said to be there, None for the others.

        Raises:
            DataError: the disk has no room for it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        count, size = len(self._starts) - 1, 4 * int(self._starts[-1]) * math.prod(self._shape)
        status = self._data.stat() if self._data.exists() else None
        there = 0 if status is None else status.st_size
        taken = 0 if status is None else _taken(status)
        check_room(self._data, size, f"the latents of {self._starts[-1]} frames", taken)
        sums: list[int | None] = [None] * count
        parts = sorted(self._folder.glob("latents.[0-9]*.json"))
        for state in [self._state, *parts] if there == size else []:
            for index, value in _read(state, key, count):
                sums[index] = value
        if not any(value is not None for value in sums):
            with self._data.open("wb") as file:
                file.truncate(size)
        self.finish(key, sums)
        return sums

    def open(self) -> BinaryIO:
        """The file, for `write`."""
        return self._data.open("r+b")

    def write(self, file: BinaryIO, index: int, parts: Iterable[np.ndarray]) -> int:
        """Write an episode, (T, N, C) in parts; returns its sum."""
        # Not through a map: on a disk that several machines share, that would write whole pages,
        # in which the ends of neighbouring episodes lie.
        file.seek(4 * int(self._starts[index]) * math.prod(self._shape))
        found = 0
        for part in parts:
            content = np.ascontiguousarray(part, np.float32).tobytes()
            found = zlib.crc32(content, found)
            file.write(content)
        return found

    def note(self, file: BinaryIO, key: str, rank: int, sums: Mapping[int, int]) -> None:
        """Say which episodes this process has written."""
        file.flush()
        os.fsync(file.fileno())
        path = self._folder / f"latents.{rank}.json"
        write_atomically(path, json.dumps({"key": key, "sums": dict(sums)}).encode())

    def finish(self, key: str, sums: list[int | None]) -> None:
        """Say which episodes are written, by whichever process."""
        write_atomically(self._state, json.dumps({"key": key, "sums": sums}).encode())
        for part in self._folder.glob("latents.[0-9]*.json"):
            part.unlink()

    def read(self) -> np.ndarray:
        """All frames (F, N, C), mapped."""
        shape = (int(self._starts[-1]), *self._shape)
        return np.memmap(self._data, np.float32, "r", shape=shape)

    def sum(self, frames: np.ndarray, index: int) -> int:
        """The sum of an episode in `frames`, which `read` gave."""
        return zlib.crc32(frames[self._starts[index] : self._starts[index + 1]].data)


def check_room(path: Path, size: int, content: str, taken: int = 0) -> None:
    """Raises DataError if the disk has no room for a file of `size` bytes.

    Args:
        path: of the file; its folder exists.
        size: in bytes.
        content: what it holds, for the message.
        taken: bytes on the disk that the file takes already.
    """
    free = shutil.disk_usage(path.parent).free + taken
    if size > free:
        raise DataError(
            f"{path} needs {size / 1e9:.1f} GB for {content}, {free / 1e9:.1f} GB are free; put "
            "the run on a larger disk with out="
        )


def _taken(status: os.stat_result) -> int:
    """Bytes that a file takes on its disk: one that is being filled has holes.

    Where it is not said, as on Windows, whose files are made without holes: its size.
    """
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else 512 * int(blocks)


def _read(path: Path, key: str, count: int) -> list[tuple[int, int]]:
    """The episodes and sums that a file of sums has, of `count` episodes.

    None if it is missing, of another key, or damaged: then their latents are written anew.
    """
    if not path.exists():
        return []
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["key"] != key:
            return []
        sums = state["sums"]
        every = sums.items() if isinstance(sums, dict) else enumerate(sums)
        found = [(int(index), int(value)) for index, value in every if value is not None]
        if not all(0 <= index < count for index, _ in found):
            raise ValueError(f"sums of other episodes than 0 to {count - 1}")
    except (KeyError, TypeError, ValueError) as error:
        print(f"warning: {path} is damaged ({error!r}); its latents are made anew", file=sys.stderr)
        return []
    return found
