"""Batches made ahead are the batches of their steps."""

from __future__ import annotations

import threading

import pytest

from worldflow.training.prefetch import Prefetch


@pytest.mark.parametrize("threads", [1, 3])
def test_every_step_gets_its_own_batch_in_any_order(threads: int) -> None:
    prefetch = Prefetch(lambda step: step * step, threads)
    assert [prefetch.batch(step) for step in (0, 1, 2, 7, 8, 3, 3)] == [0, 1, 4, 49, 64, 9, 9]


def test_the_next_batch_is_made_while_this_one_is_used() -> None:
    made, threads = {step: threading.Event() for step in range(3)}, {}

    def prepare(step: int) -> int:
        threads[step] = threading.current_thread().name
        made[step].set()
        return step

    prefetch = Prefetch(prepare)
    assert prefetch.batch(0) == 0
    assert made[1].wait(timeout=10.0)  # nobody has asked for it yet
    assert threads[0] == "MainThread" and threads[1].startswith("prefetch")


def test_threads_prepare_as_many_batches_at_once() -> None:
    barrier = threading.Barrier(3)

    def prepare(step: int) -> int:
        if step > 0:
            barrier.wait(timeout=10.0)  # passed only by three of them together
        return step

    prefetch = Prefetch(prepare, threads=3)
    assert prefetch.batch(0) == 0
    assert prefetch.batch(1) == 1
    assert [prefetch._ahead[step].result() for step in (2, 3)] == [2, 3]
    barrier.abort()  # nothing waits for a fourth


def test_an_error_ahead_of_time_comes_with_its_own_step() -> None:
    def prepare(step: int) -> int:
        if step == 2:
            raise OSError("damaged")
        return step

    prefetch = Prefetch(prepare)
    assert [prefetch.batch(0), prefetch.batch(1)] == [0, 1]
    with pytest.raises(OSError, match="damaged"):
        prefetch.batch(2)
    assert prefetch.batch(3) == 3
