"""A contact sheet: frames of a video on one picture, numbered."""

from __future__ import annotations

import numpy as np

from worldflow.pictures.strips import strip

COLUMNS, ROWS = 8, 4
WIDTH = 96  # pixels, at least, of each frame


def contact_sheet(frames: np.ndarray, given: int) -> np.ndarray:
    """Up to 32 frames, evenly spread from the first to the last.

    Args:
        frames: (T, H, W, 3) uint8.
        given: how many of the first were not made by the world; they are labelled.

    Returns:
        (H', W', 3) uint8.
    """
    columns = min(COLUMNS, len(frames))
    rows = min(ROWS, len(frames) // columns)
    shown = np.linspace(0, len(frames) - 1, rows * columns).round().astype(int)
    scale = -(-WIDTH // frames.shape[2])
    parts = []
    for row in shown.reshape(rows, columns):
        count = int((row < given).sum())
        parts.append(strip({f"{count} given" if count else "dreamed": frames[row]}, row, scale))
    return np.concatenate(parts)
