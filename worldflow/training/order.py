"""The order in which training sees its samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class EpochOrder:
    """All samples once an epoch, in a new random order each time, in batches without end.

    Update k has the positions k * batch to (k + 1) * batch of the endless sequence of epochs, so
    that a batch may lie in two of them. Everything depends on the arguments alone, so that a run
    continues where it was, also on another number of ranks.

    Args:
        count: of samples.
        batch: of an update.
        key: seeds the order; other users of the same seed need another key.
    """

    def __init__(self, count: int, batch: int, key: Sequence[int]) -> None:
        self._count, self._batch, self._key = count, batch, tuple(key)
        self._last: tuple[int, np.ndarray] | None = None

    def positions(self, step: int) -> np.ndarray:
        """The numbers of update `step`'s samples: (batch,) int64 in 0..count - 1."""
        sequence = np.arange(step * self._batch, (step + 1) * self._batch)
        epochs, places = np.divmod(sequence, self._count)
        positions = np.empty(self._batch, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            rows = epochs == epoch
            positions[rows] = self._permutation(epoch)[places[rows]]
        return positions

    def _permutation(self, epoch: int) -> np.ndarray:
        last = self._last
        if last is None or last[0] != epoch:
            seeds = np.random.SeedSequence(self._key, spawn_key=(epoch,))
            last = epoch, np.random.default_rng(seeds).permutation(self._count)
            self._last = last
        return last[1]
