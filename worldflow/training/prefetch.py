"""Batches prepared beside the update that runs, so that training does not wait for Python."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Prefetch(Generic[Batch]):
    """Calls `prepare(step)` for the next update in a thread while this one is computed.

    Args:
        prepare: the batch of an update; it must depend on the step alone, so that it does not
            matter when, or whether, it is called ahead.
    """

    def __init__(self, prepare: Callable[[int], Batch]) -> None:
        self._prepare = prepare
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        """The batch of update `step`; what `prepare` raised ahead of time is raised here."""
        ahead = self._ahead
        self._ahead = None
        ready = ahead is not None and ahead[0] == step
        batch = ahead[1].result() if ahead is not None and ready else self._prepare(step)
        self._ahead = step + 1, self._thread.submit(self._prepare, step + 1)
        return batch
