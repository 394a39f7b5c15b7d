"""Strips: rows of frames under each other, one step a column, labelled, as one PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from worldflow.data.metadata import write_atomically

LABEL_WIDTH = 72  # pixels
HEADER_HEIGHT = 16
GAP = 2
_INK = (40, 40, 40)


def strip(rows: Mapping[str, np.ndarray], steps: np.ndarray, scale: int = 1) -> np.ndarray:
    """Lay frames out in rows.

    Args:
        rows: label to frames (T, H, W, 3) uint8, top row first, all of one shape.
        steps: (T,) numbers written above the columns.
        scale: whole factor of enlargement, without smoothing.

    Returns:
        (H', W', 3) uint8 on white.

    Raises:
        ValueError: no rows, or rows of different shapes or of another number of steps.
    """
    if not rows:
        raise ValueError("a strip needs one row or more")
    shapes = {frames.shape for frames in rows.values()}
    if len(shapes) > 1 or next(iter(shapes))[0] != len(steps):
        raise ValueError(f"rows of shapes {sorted(shapes)} do not fit {len(steps)} steps")
    count, height, width, _ = next(iter(shapes))
    height, width = height * scale, width * scale
    canvas = np.full(
        (HEADER_HEIGHT + len(rows) * (height + GAP), LABEL_WIDTH + count * (width + GAP), 3),
        255,
        dtype=np.uint8,
    )
    for column, step in enumerate(steps):
        write_text(canvas, str(int(step)), LABEL_WIDTH + column * (width + GAP), HEADER_HEIGHT - 4)
    for row, (label, frames) in enumerate(rows.items()):
        top = HEADER_HEIGHT + row * (height + GAP)
        write_text(canvas, label, 2, top + height // 2)
        for column, frame in enumerate(enlarge(frames, scale)):
            left = LABEL_WIDTH + column * (width + GAP)
            canvas[top : top + height, left : left + width] = frame
    return canvas


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Frames (..., H, W, 3), every pixel repeated `scale` times in both directions."""
    return frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def png(image: np.ndarray) -> bytes:
    """An RGB image (H, W, 3) uint8 as PNG."""
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise ValueError(f"cannot encode an image of shape {image.shape} as PNG")
    return encoded.tobytes()


def save_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB image (H, W, 3) uint8, whole or not at all."""
    write_atomically(path, png(image))


def write_text(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    """Write small dark text on an image (H, W, 3) uint8 in place; (x, y) is its lower left."""
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.36, _INK, 1, cv2.LINE_AA)
