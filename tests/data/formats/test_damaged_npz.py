"""Files of .npz that are damaged or hostile: an error that names each, and no pickle."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_samples import images, pixels, write_npz

from worldflow.actions import ActionSpec
from worldflow.data.formats.npz import NPZ
from worldflow.errors import DataError


def test_a_broken_file_is_listed_and_named(tmp_path: Path) -> None:
    whole = write_npz(tmp_path / "1.npz", image=images(9), action=np.arange(9)).read_bytes()
    (tmp_path / "0.npz").write_bytes(b"")
    (tmp_path / "2.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.npz").write_bytes(b"no zip at all")
    data = NPZ.open(tmp_path)
    assert data.names == ["0.npz", "1.npz", "2.npz", "3.npz"]
    assert data.action_spec == ActionSpec("discrete", n=9)
    for index in (0, 2, 3):
        with pytest.raises(DataError, match=rf"{index}\.npz: not a whole \.npz file.*again"):
            data.open(index)


@pytest.mark.parametrize("compress", [True, False])
def test_damaged_frames_are_found_while_reading(tmp_path: Path, compress: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    path = write_npz(tmp_path / "x.npz", compress, image=noise)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz: not a whole \.npz file"):
        pixels(NPZ.open(tmp_path).open(0))


def test_frames_that_the_directory_only_claims_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (2, 4, 6, 3)}
    write_member(path, header, images(2).tobytes()[:-1])
    content = bytearray(path.read_bytes())
    size = content.rindex(b"PK\1\2") + 24  # of the member, uncompressed
    content[size] += 1
    path.write_bytes(content)
    frames = NPZ.open(tmp_path).open(0).read()
    np.testing.assert_array_equal(next(frames).pixels, images(1)[0])
    with pytest.raises(DataError, match=r"x\.npz: image ends at frame 1"):
        next(frames)


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", image=images(2), action=np.arange(2), fps=np.float64(20))
    content, random = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        broken = bytearray(content)
        broken[random.integers(len(broken))] = random.integers(256)
        path.write_bytes(broken)
        try:
            pixels(NPZ.open(path).open(0))
        except DataError:
            refused += 1
    assert refused > 50


def write_member(path: Path, header: dict[str, Any], data: bytes, version: bytes = b"\1\0") -> None:
    """An .npz file whose `image` has this header."""
    text = (repr(header) + "\n").encode()
    member = b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", member)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((2, 4, 6, 3), 143, "image is not all there"),
        ((2, 4, 6, 3), 145, "image is not all there"),
        ((-2, -4, 6, 3), 144, "image is not all there"),
        ((0, 4, 6, 3), 0, r"shape \(0, 4, 6, 3\), not \(frames, height"),
        ((1, 9000, 1, 3), 27000, "frames of 9000 x 1 pixels"),
        ((1, 5, 6, 5), 150, "no image"),
    ],
)
def test_sizes_are_checked_first(
    tmp_path: Path, shape: tuple[int, ...], size: int, message: str
) -> None:
    path = tmp_path / "x.npz"
    write_member(path, {"descr": "|u1", "fortran_order": False, "shape": shape}, bytes(size))
    with pytest.raises(DataError, match=rf"x\.npz.*{message}"):
        NPZ.open(path)


@pytest.mark.parametrize("version", [b"\4\0", b"\1\0"])
def test_a_hostile_header_is_refused(tmp_path: Path, version: bytes) -> None:
    header = {"descr": "|u1" if version == b"\4\0" else (), "fortran_order": False, "shape": (72,)}
    write_member(tmp_path / "x.npz", header, bytes(72), version)
    with pytest.raises(DataError, match=r"x\.npz: not a whole \.npz file"):
        NPZ.open(tmp_path)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()]), allow_pickle=True)
    with zipfile.ZipFile(write_npz(tmp_path / "x.npz", image=images(1)), "a") as archive:
        archive.writestr("action.npy", buffer.getvalue())
    with pytest.raises(DataError, match="action holds objects"):
        NPZ.open(tmp_path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))
