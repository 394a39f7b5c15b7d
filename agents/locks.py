"""Folders that one process at a time may write."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock"


@contextlib.contextmanager
def held(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file, if no other process does; the system lets go of it when a process dies.

    Args:
        path: the file.
        wait: until the other process lets go of it.

    Yields:
        Whether this process holds it now.
    """
    with path.open("a") as stream:  # to append nothing leaves the file as it was
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
