"""Structural similarity of images (Wang, Bovik, Sheikh and Simoncelli, 2004)."""

from __future__ import annotations

import cv2
import numpy as np

from worldflow.metrics import PEAK

SIGMA, RADIUS = 1.5, 5  # of the Gaussian window, in pixels: 11 x 11 as in the paper
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """SSIM of uint8 images (..., H, W, 3): (...,), 1 for equal ones.

    Means over colours and over all places where the whole window lies in the image, as by
    scikit-image's `structural_similarity` with Gaussian weights and population covariances.

    Args:
        a: images.
        b: images of the same shape, or one that broadcasts against it.

    Raises:
        ValueError: wrong dtypes, images below 11 x 11 pixels, or shapes that do not broadcast.
    """
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {a.dtype} and {b.dtype}")
    if min(a.shape[-3:-1]) < 2 * RADIUS + 1:
        raise ValueError(f"SSIM needs images of 11 x 11 pixels or more, got {a.shape[-3:-1]}")
    a, b = np.broadcast_arrays(a, b)
    pairs = zip(a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:]), strict=True)
    return np.array([_of_pair(x, y) for x, y in pairs]).reshape(a.shape[:-3])


def _of_pair(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x = _windowed(x * x) - mean_x**2
    var_y = _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return float((luminance * structure).mean())


def _windowed(image: np.ndarray) -> np.ndarray:
    """Weighted means over the windows that lie in the image, (H - 10, W - 10, 3)."""
    size = 2 * RADIUS + 1
    blurred = cv2.GaussianBlur(image, (size, size), SIGMA)
    return np.asarray(blurred)[RADIUS:-RADIUS, RADIUS:-RADIUS]
