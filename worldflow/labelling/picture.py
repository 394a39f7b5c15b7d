"""The reliability diagram: how often a posterior is right, against how sure it is."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from worldflow.pictures.strips import write_text

SIDE, LEFT, TOP, BELOW = 320, 44, 24, 108  # pixels
SHARES = 56  # height of the bars below that say how many transitions there are
_BLUE, _GREY, _LIGHT = (31, 119, 180), (120, 120, 120), (225, 225, 225)


def reliability_diagram(rows: list[dict[str, Any]]) -> np.ndarray:
    """A bar of accuracy for each bin of confidence, and below it the bin's share: (H, W, 3) uint8.

    On the grey diagonal confidence and accuracy agree; bars below it are too sure.

    Args:
        rows: of `calibration.reliability`.
    """
    canvas = np.full((TOP + SIDE + BELOW, LEFT + SIDE + 16, 3), 255, np.uint8)
    bottom, base = TOP + SIDE, TOP + SIDE + 32 + SHARES

    def x(value: float) -> int:
        return LEFT + round(value * SIDE)

    def y(value: float) -> int:
        return bottom - round(value * SIDE)

    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        cv2.line(canvas, (LEFT, y(value)), (x(1.0), y(value)), _LIGHT)
        write_text(canvas, f"{value:g}", 8, y(value) + 4)
        write_text(canvas, f"{value:g}", x(value) - 8, bottom + 14)
    total = max(sum(row["count"] for row in rows), 1)
    for row in rows:
        if not row["count"]:
            continue
        left, right = x(row["low"]) + 1, x(row["high"]) - 1
        cv2.rectangle(canvas, (left, y(row["accuracy"])), (right, bottom), _BLUE, cv2.FILLED)
        height = max(round(SHARES * row["count"] / total), 1)
        cv2.rectangle(canvas, (left, base - height), (right, base), _GREY, cv2.FILLED)
    cv2.line(canvas, (x(0.0), y(0.0)), (x(1.0), y(1.0)), _GREY, 1, cv2.LINE_AA)
    write_text(canvas, "accuracy against confidence, and share of transitions", 8, TOP - 10)
    return canvas
