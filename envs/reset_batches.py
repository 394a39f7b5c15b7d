"""Which rows of a batch of dreams begin their episodes in one forward of the world."""

from __future__ import annotations

import numpy as np
import torch

GROUP = 8  # rows that are reset together on a CPU
MOST = 256  # on a GPU: four frames of so many rows take about a gigabyte in the encoder


def reset_batches(rows: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """Indices of the rows that are computed together, in batches with all that are to be reset.

    On a CPU the batches are the fixed groups of 8 rows in which one is to be reset, whole: so the
    bits of a row do not depend on which others are reset with it. On a GPU, where what counts is
    the number of forwards, they are the rows that are to be reset and no others.

    Args:
        rows: (B,) bool, those that are to be reset.
        device: of the world.
    """
    if device.type == "cpu":
        groups = np.split(np.arange(len(rows)), range(GROUP, len(rows), GROUP))
        return [group for group in groups if rows[group].any()]
    wanted = np.flatnonzero(rows)
    if len(wanted) == 0:  # a forward of no rows would fail
        return []
    return np.split(wanted, range(MOST, len(wanted), MOST))
