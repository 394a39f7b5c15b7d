"""Images of any layout as the RGB frames that all formats give."""

from __future__ import annotations

import cv2
import numpy as np

from worldflow.errors import DataError

MAX_SIDE = 8192  # pixels; larger frames are refused, as they are files gone wrong or hostile ones


def check_size(name: str, height: int, width: int) -> None:
    """Raises DataError unless frames of this size can be meant."""
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise DataError(
            f"{name}: frames of {height} x {width} pixels; sides from 1 to {MAX_SIDE} are read"
        )


def as_rgb(name: str, image: np.ndarray) -> np.ndarray:
    """An image array as (H, W, 3) uint8.

    It is (H, W), (H, W, 1), (H, W, 3), (H, W, 4), (1, H, W) or (3, H, W); where both could be
    meant, channels are last. Grey is repeated, alpha dropped. Four channels first are refused, as
    they are mostly frames stacked for an agent.

    Raises:
        DataError: no such image, or not uint8: what 0..1 or 0..4095 mean is not guessed.
    """
    if image.dtype != np.uint8:
        raise DataError(f"{name}: frames are {image.dtype}, not uint8; convert them first")
    shape = image.shape
    if image.ndim == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3, 4):
        image = image.transpose(1, 2, 0)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise DataError(
            f"{name}: a frame of shape {shape} is no image: channels are 1 or 3, first or last, or "
            "4 last (RGBA); of stacked frames store each once"
        )
    check_size(name, image.shape[0], image.shape[1])
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def decode_image(name: str, content: bytes | np.ndarray, turned: bool = False) -> np.ndarray:
    """The pixels (H, W, 3) RGB, uint8 or as deep as stored, of an encoded image (JPEG, PNG, ...).

    Args:
        name: for errors.
        content: the file's.
        turned: as its EXIF orientation says, as a camera's pictures want; recorded frames are not.

    Raises:
        DataError: it is no image that can be decoded.
    """
    how = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    if not turned:
        how |= cv2.IMREAD_IGNORE_ORIENTATION
    failed = DataError(f"{name}: no image that can be decoded; download or write it again")
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), how)
    except cv2.error as error:
        raise failed from error
    if pixels is None:
        raise failed
    return np.asarray(pixels[:, :, ::-1])
