"""What a video starts from and what happens in it, read from files of any size and shape."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.data.formats.action_files import ACTION_SUFFIXES, read_steps
from worldflow.data.formats.decoding import VIDEO_SUFFIXES, read_frames
from worldflow.data.formats.pixels import as_rgb, decode_image
from worldflow.data.resize import FITS, fit_frame
from worldflow.errors import ConfigError, DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_start(
    path: str | Path, frame_shape: tuple[int, int, int], fit: str, last: int
) -> np.ndarray:
    """An image or the `last` frames of a clip, see `read_image` and `read_clip`."""
    suffix = Path(path).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return read_image(path, frame_shape, fit)
    if suffix in VIDEO_SUFFIXES:
        return read_clip(path, frame_shape, fit, last)
    raise ConfigError(
        f"{path}: neither an image ({', '.join(IMAGE_SUFFIXES)}) nor a video "
        f"({', '.join(VIDEO_SUFFIXES)})"
    )


def read_image(path: str | Path, frame_shape: tuple[int, int, int], fit: str) -> np.ndarray:
    """An image of any size and mode with 8 bits as a frame, (1, H, W, 3) uint8.

    Grey is repeated, alpha dropped, it is turned as EXIF says, and the size is made the world's.

    Args:
        path: of the image.
        frame_shape: the world's.
        fit: "crop", "stretch" or "pad", see `fit_frame`.

    Raises:
        DataError: there is no such image, it cannot be decoded, or it has more than 8 bits.
        ConfigError: an unknown `fit`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such image")
    pixels = as_rgb(str(path), decode_image(str(path), path.read_bytes(), turned=True))
    return _fitted(str(path), pixels, frame_shape, fit)[None]


def read_clip(
    path: str | Path, frame_shape: tuple[int, int, int], fit: str, last: int
) -> np.ndarray:
    """The last frames of a video as they come, whatever its rate, (K, H, W, 3) uint8.

    Args:
        path: of the video.
        frame_shape: the world's.
        fit: see `fit_frame`.
        last: K, where the video has as many; else all.

    Raises:
        DataError: there is no such video, it has no frames, or is damaged.
        ConfigError: an unknown `fit`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such video")
    frames = deque((frame.pixels for frame in read_frames(path)), maxlen=last)
    return np.stack([_fitted(str(path), pixels, frame_shape, fit) for pixels in frames])


def read_actions(
    path: str | Path, spec: ActionSpec, length: int, given: int
) -> tuple[np.ndarray, np.ndarray]:
    """The actions of a video, as `actions[t]` that leads to frame t, and which are known.

    Args:
        path: in one of the formats of `worldflow.data.formats.action_files`.
        spec: of the world.
        length: T, frames of the video.
        given: how many of them are given.

    Returns:
        actions (T, ...) and known (T,) bool.

    Raises:
        DataError: the file cannot be read, the actions do not fit the world, or there are neither
            T - 1 of them (one before each frame but the first) nor one for each frame to be made.
    """
    path = Path(path)
    if spec.kind == "none":
        raise DataError(f"{path}: this world knows no actions; leave them out")
    if not path.is_file() or path.suffix.lower() not in ACTION_SUFFIXES:
        raise DataError(f"{path}: there is no such file of {', '.join(ACTION_SUFFIXES)}")
    found = read_steps(path).actions
    if found is None:
        raise DataError(f"{path}: no actions in it; name a column `action`")
    made = length - max(given, 1)  # a first frame has no action
    if len(found) not in (length - 1, made):
        wanted = f"{length - 1}" if made == length - 1 else f"{length - 1} or {made}"
        raise DataError(
            f"{path}: {len(found)} actions, but a video of {length} frames, of which {given} are "
            f"given, takes {wanted}; set length, or add actions"
        )
    wanted_shape, single = (len(found), *spec.shape), ((len(found),), (len(found), 1))
    if found.shape in single and wanted_shape in single:  # one number a row, written either way
        found = found.reshape(wanted_shape)
    if found.shape != wanted_shape:
        raise DataError(
            f"{path}: actions of shape {found.shape[1:]} a row, but this world's have {spec.shape}"
        )
    try:
        checked = spec.validate(found)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    actions, known = no_actions(spec, length)
    actions[length - len(checked) :], known[length - len(checked) :] = checked, True
    return actions, known


def no_actions(spec: ActionSpec, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Actions (T, ...) of which none is known, and `known` (T,)."""
    return np.zeros((length, *spec.shape), spec.dtype), np.zeros(length, np.bool_)


def _fitted(
    name: str, pixels: np.ndarray, frame_shape: tuple[int, int, int], fit: str
) -> np.ndarray:
    if fit not in FITS:
        raise ConfigError(f"fit is {fit!r}; use one of {', '.join(FITS)}")
    height, width, _ = frame_shape
    if height == width:
        return fit_frame(pixels, height, fit)
    if pixels.shape != frame_shape:
        raise DataError(
            f"{name}: {pixels.shape[0]} x {pixels.shape[1]} pixels; this world's frames are no "
            f"squares, so {height} x {width} are needed"
        )
    return pixels
