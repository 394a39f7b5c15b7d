"""Batches prepared beside the update that runs, so that training does not wait for Python."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Batch = TypeVar("Batch")

# A GPU is done with an update before one thread has drawn the next one's noise.
THREADS_FOR_CUDA = 4


class Prefetch(Generic[Batch]):
    """Calls `prepare(step)` for the next updates in threads while this one is computed.

    Args:
        prepare: the batch of an update; it must depend on the step alone, so that it does not
            matter when, in which thread, or whether it is called ahead.
        threads: batches prepared at once, and ahead.
    """

    def __init__(self, prepare: Callable[[int], Batch], threads: int = 1) -> None:
        self._prepare, self._threads = prepare, threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="prefetch")
        self._ahead: dict[int, Future[Batch]] = {}

    @classmethod
    def beside(cls, device: torch.device, prepare: Callable[[int], Batch]) -> Prefetch[Batch]:
        """With as many threads as updates on this device need."""
        return cls(prepare, THREADS_FOR_CUDA if device.type == "cuda" else 1)

    def batch(self, step: int) -> Batch:
        """The batch of update `step`; what `prepare` raised ahead of time is raised here."""
        wanted = range(step + 1, step + 1 + self._threads)
        ready = self._ahead.pop(step, None)
        batch = ready.result() if ready is not None else self._prepare(step)
        self._ahead = {
            each: self._ahead.get(each) or self._pool.submit(self._prepare, each) for each in wanted
        }
        return batch
