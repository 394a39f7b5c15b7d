"""Episodes recorded in several processes, given back in order."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice

from worldflow.data.episode import Episode

Record = Callable[[int], Episode]

_record: Record | None = None  # of a worker


def recorded_side_by_side(
    make: Callable[[], Record], indices: Iterable[int], workers: int
) -> Generator[tuple[int, Episode], None, None]:
    """Episodes with their indices, in the order of `indices`, recorded a few ahead.

    An episode depends on its index alone, so it does not matter which process records it. What was
    recorded ahead of the last one that is asked for is thrown away.

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
    _record = make()


def _work(index: int) -> Episode:
    assert _record is not None
    return _record(index)
