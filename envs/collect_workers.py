"""Episodes recorded in several processes, given back in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path

from worldflow.data.episode import Episode

Record = Callable[[int], Episode]

_record: Record | None = None  # of a worker


def recorded_side_by_side(
    make: Callable[[], Record], indices: Iterable[int], workers: int
) -> Generator[tuple[int, Episode], None, None]:
    """Episodes with their indices, in the order of `indices`, recorded a few ahead.

    An episode depends on its index alone, so it does not matter which process records it. What was
    recorded ahead of the last one that is asked for is thrown away. The processes end with this
    one, even if it is killed.

    Args:
        make: what records an episode by its index, called once in each process; picklable.
        indices: of the episodes, without end if you like.
        workers: processes.
    """
    waiting = iter(indices)
    # spawned, as a fork would copy the threads' locks of this process
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(make,)
    )
    try:
        ahead: deque[tuple[int, Future[Episode]]] = deque()
        for index in islice(waiting, 2 * workers):
            ahead.append((index, pool.submit(_work, index)))
        while ahead:
            index, future = ahead.popleft()
            episode = future.result()
            for following in islice(waiting, 1):
                ahead.append((following, pool.submit(_work, following)))
            yield index, episode
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[], Record]) -> None:
    global _record
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _record = make()


def _end_with_parent() -> None:
    """Wait until the parent is gone; then end this process and the games that it runs.

    A parent that is killed tells its workers nothing, and they would wait for work forever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a worker
    wait([parent.sentinel])
    # not by closing the environments, which the main thread may be using
    for children in Path("/proc/self/task").glob("*/children"):  # Linux; elsewhere there is none
        for child in children.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
    os._exit(1)


def _work(index: int) -> Episode:
    assert _record is not None
    return _record(index)
