"""The order of samples: each once an epoch, the same whoever asks, and shared out over ranks."""

from __future__ import annotations

import numpy as np
import pytest

from worldflow.errors import ConfigError
from worldflow.training.distributed import Ranks
from worldflow.training.order import EpochOrder

COUNT, BATCH = 20, 8


def positions(steps: range, key: tuple[int, ...] = (0, 1)) -> np.ndarray:
    order = EpochOrder(COUNT, BATCH, key)
    return np.concatenate([order.positions(step) for step in steps])


def test_every_sample_comes_once_an_epoch() -> None:
    seen = positions(range(10)).reshape(4, COUNT)  # four epochs in ten batches
    assert (np.sort(seen, axis=1) == np.arange(COUNT)).all()
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 4  # in another order each


def test_a_batch_may_be_longer_than_an_epoch() -> None:
    seen = EpochOrder(3, 7, (0, 1)).positions(0)
    assert sorted(seen[:3]) == sorted(seen[3:6]) == [0, 1, 2]


def test_the_order_depends_on_the_key_and_the_step_only() -> None:
    whole = positions(range(10))
    assert (positions(range(6, 10)) == whole[6 * BATCH :]).all()  # a run that continues
    assert (EpochOrder(COUNT, BATCH, (0, 1)).positions(3) == whole[3 * BATCH : 4 * BATCH]).all()
    assert not (positions(range(10), key=(1, 1)) == whole).all()
    assert not (positions(range(10), key=(0, 2)) == whole).all()


@pytest.mark.parametrize(("size", "pieces"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_ranks_share_out_a_batch(size: int, pieces: int) -> None:
    rows = [Ranks(rank, size).rows(BATCH, pieces, "batch") for rank in range(size)]
    assert {len(piece) for of_rank in rows for piece in of_rank} == {BATCH // size // pieces}
    assert sorted(row for r in rows for piece in r for row in piece) == list(range(BATCH))


def test_over_an_epoch_the_ranks_see_every_sample_once() -> None:
    order = EpochOrder(24, BATCH, (0, 1))
    rows = [Ranks(rank, 2).rows(BATCH, 1, "batch")[0] for rank in range(2)]
    seen = [{p for step in range(3) for p in order.positions(step)[mine]} for mine in rows]
    assert not seen[0] & seen[1] and seen[0] | seen[1] == set(range(24))


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.flow\.batch=8 .*use a multiple of 6"):
        Ranks(0, 3).rows(8, 2, "training.flow.batch")
