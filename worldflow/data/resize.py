"""Frames of any size to square ones."""

from __future__ import annotations

import cv2
import numpy as np

FITS = ("crop", "stretch", "pad")


def fit_frame(pixels: np.ndarray, size: int, fit: str) -> np.ndarray:
    """(H, W, 3) uint8 to (size, size, 3) uint8.

    Args:
        pixels: the frame.
        size: of both sides.
        fit: "crop" takes the largest square in the middle, "stretch" changes the proportions, "pad"
            keeps everything and adds black bars. Shrinking averages areas, enlarging interpolates
            linearly.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    if fit == "crop" and height != width:
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    elif fit == "pad" and height != width:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = np.zeros((side, side, 3), np.uint8)
        square[top : top + height, left : left + width] = pixels
        pixels = square
    if pixels.shape[:2] == (size, size):
        return np.ascontiguousarray(pixels)
    shrinking = pixels.shape[0] >= size and pixels.shape[1] >= size
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(pixels), (size, size), interpolation=method)
