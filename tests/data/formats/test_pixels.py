"""Images of any layout become RGB, and what may be stacked frames is refused."""

import struct

import cv2
import numpy as np
import pytest

from worldflow.data.formats.pixels import as_rgb, decode_image
from worldflow.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, :1]
ALPHA = np.concatenate([RGB, GREY], axis=2)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (RGB.transpose(2, 0, 1), RGB),
        (GREY[:, :, 0], GREY.repeat(3, axis=2)),
        (GREY, GREY.repeat(3, axis=2)),
        (GREY.transpose(2, 0, 1), GREY.repeat(3, axis=2)),
        (ALPHA, RGB),
        (RGB[:3], RGB[:3]),  # 3 high, and channels last
    ],
)
def test_layouts(image: np.ndarray, expected: np.ndarray) -> None:
    found = as_rgb("x", image)
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("shape", [(4, 84, 84), (2, 84, 84), (84, 84, 2), (84, 84, 12), (84,)])
def test_stacked_frames_are_refused(shape: tuple[int, ...]) -> None:
    text = ", ".join(map(str, shape))
    with pytest.raises(
        DataError, match=rf"^x: .*\({text},?\) is no image.*of stacked frames store"
    ):
        as_rgb("x", np.zeros(shape, np.uint8))


def test_other_numbers_and_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="x: frames are float32, not uint8; convert"):
        as_rgb("x", RGB.astype(np.float32))
    with pytest.raises(DataError, match="x: frames of 1 x 8193 pixels; sides from 1 to 8192"):
        as_rgb("x", np.zeros((1, 8193, 3), np.uint8))
    with pytest.raises(DataError, match="x: frames of 0 x 5 pixels"):
        as_rgb("x", np.zeros((0, 5, 3), np.uint8))


def test_encoded_images() -> None:
    content = cv2.imencode(".png", RGB[:, :, ::-1])[1]
    np.testing.assert_array_equal(decode_image("x", content.tobytes()), RGB)
    np.testing.assert_array_equal(decode_image("x", content), RGB)
    for damaged in (b"", b"no image"):
        with pytest.raises(DataError, match=r"x: no image that can be decoded.*download"):
            decode_image("x", damaged)


def test_a_picture_is_turned_as_its_orientation_says() -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = 255  # white on the left
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    # EXIF with one entry: orientation 6, which is turned a quarter clockwise to be shown
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    content = jpeg[:2] + segment + jpeg[2:]
    assert decode_image("x", content).shape == (16, 32, 3)  # a recorded frame is as it lies there
    shown = decode_image("x", content, turned=True)
    assert shown.shape == (32, 16, 3)
    assert shown[:14].min() > 200 and shown[18:].max() < 50  # white on top
