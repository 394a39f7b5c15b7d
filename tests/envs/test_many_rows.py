"""More rows than are reset together: each is still on its own, whatever the device batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldflow.compiled import open_world
from worldflow.envs import imagination
from worldflow.envs.imagination import Imagination
from worldflow.envs.reset_batches import GROUP, MOST, reset_batches
from worldflow.errors import ConfigError
from worldflow.testing import tiny_world

ROWS = 5 * GROUP
LAST = ROWS - 1  # of the last group


def play(dream: Imagination, resets: list[list[int]], observed: int) -> list[np.ndarray]:
    """What a row shows in a dream in whose steps these rows are reset besides."""
    everyone = np.ones(ROWS, dtype=bool)
    shown = [dream.reset(everyone, list(range(ROWS))).observations[observed]]
    for step, rows in enumerate(resets):
        moved = dream.step(np.full(ROWS, step % 3))
        ended = moved.terminated | moved.truncated
        ended[rows] = True
        shown.append(moved.observations[observed])
        if ended.any():
            shown.append(dream.reset(ended).observations[observed])
    return shown


@pytest.mark.parametrize("observation", ["frames", "latents"])
def test_a_row_does_not_depend_on_what_is_reset_beside_it(observation: str) -> None:
    world = tiny_world()
    alone, crowd = (
        play(Imagination(world, ROWS, observation=observation), resets, LAST)
        for resets in (
            [[LAST], [LAST], [0, LAST]],
            [[LAST, LAST - 1, 3], [LAST], [LAST, *range(20)]],
        )
    )
    assert len(alone) == len(crowd) == 7
    for x, y in zip(alone, crowd, strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


def test_only_the_rows_that_are_reset_change() -> None:
    dream = Imagination(tiny_world(), ROWS)
    before = dream.reset(seeds=list(range(ROWS))).observations
    some = np.zeros(ROWS, dtype=bool)
    some[[1, LAST]] = True
    after = dream.reset(some, [k + 100 for k in range(ROWS)]).observations
    changed = (before != after).any(axis=(1, 2, 3))
    assert not changed[~some].any() and changed[some].all()
    np.testing.assert_array_equal(dream.frames, after)


def test_rows_batched_alone_as_on_a_gpu_are_the_same_up_to_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, resets = tiny_world(), [[2, LAST], [LAST, 5, 6], [LAST]]
    expected = play(Imagination(world, ROWS, observation="latents"), resets, LAST)
    monkeypatch.setattr(
        imagination, "reset_batches", lambda rows, _: reset_batches(rows, torch.device("cuda"))
    )
    found = play(Imagination(world, ROWS, observation="latents"), resets, LAST)
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def test_batches_are_whole_groups_on_a_cpu_and_the_rows_alone_on_a_gpu() -> None:
    rows = np.zeros(2 * MOST + 3, dtype=bool)
    rows[[1, 2 * GROUP, 2 * MOST + 1]] = True
    cpu, gpu = (reset_batches(rows, torch.device(kind)) for kind in ("cpu", "cuda"))
    assert [(batch[0], batch[-1]) for batch in cpu] == [(0, 7), (16, 23), (512, 514)]
    assert [batch.tolist() for batch in gpu] == [[1, 2 * GROUP, 513]]
    everyone = reset_batches(np.ones(MOST + 2, dtype=bool), torch.device("cuda"))
    assert [len(batch) for batch in everyone] == [MOST, 2]


def test_a_device_is_one_that_is_there() -> None:
    with pytest.raises(ConfigError, match="world_device is 'tpu'; use one of auto, cpu, cuda"):
        open_world("catch", "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no GPU"):
            open_world("catch", "cuda")
    assert next(open_world("catch", "cpu").parameters()).device.type == "cpu"
