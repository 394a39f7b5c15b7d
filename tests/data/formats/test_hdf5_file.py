"""HDF5 files that are damaged, and nothing that lies in another file."""

import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from array_samples import images, pixels, write_hdf5

from worldflow.actions import ActionSpec
from worldflow.data.formats.hdf5 import HDF5
from worldflow.errors import ConfigError, DataError


def test_a_broken_file_is_listed_and_named(tmp_path: Path) -> None:
    whole = write_hdf5(tmp_path / "1.h5", frames=images(3), action=np.arange(3)).read_bytes()
    (tmp_path / "0.h5").write_bytes(b"")
    (tmp_path / "2.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.h5").write_bytes(b"no HDF5 at all" * 100)
    write_hdf5(tmp_path / "4.h5")
    write_hdf5(tmp_path / "5.h5", observations=np.zeros((5, 17)), actions=np.zeros((5, 6)))  # D4RL
    data = HDF5.open(tmp_path)
    assert data.names == ["0.h5", "1.h5", "2.h5", "3.h5", "4.h5", "5.h5"]
    assert data.action_spec == ActionSpec("discrete", n=3)
    for index in (0, 2, 3):
        with pytest.raises(DataError, match=rf"{index}\.h5: cannot be read as HDF5.*again"):
            data.open(index)
    for index in (4, 5):
        with pytest.raises(DataError, match=rf"{index}\.h5: no group in it holds images.*rename"):
            data.open(index)


def test_a_damaged_group_leaves_the_others(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "x.h5", a__frames=images(2), b__frames=images(2))
    content = path.read_bytes()
    at = content.rindex(b"HEAP")  # what holds the names in the last group
    path.write_bytes(content[:at] + b"JUNK" + content[at + 4 :])
    data = HDF5.open(path)
    assert data.names == ["x.h5:a", "x.h5:b"]
    np.testing.assert_array_equal(pixels(data.open(0)), images(2))
    with pytest.raises(DataError, match=r"x\.h5:b: cannot be read as HDF5"):
        data.open(1)


def test_damaged_frames_are_found_while_reading(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("frames", data=noise, chunks=(1, 16, 16, 3), fletcher32=True)
    content = bytearray((tmp_path / "x.h5").read_bytes())
    content[content.index(noise[4].tobytes())] ^= 0xFF
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.h5: cannot be read as HDF5"):
        pixels(HDF5.open(tmp_path).open(0))


def link_frames(path: Path, secret: Path) -> None:
    with h5py.File(path, "a") as file:
        file["e/frames"] = h5py.ExternalLink(secret.name, "/frames")


def link_group(path: Path, secret: Path) -> None:
    with h5py.File(path, "a") as file:
        file["e"] = h5py.ExternalLink(str(secret), "/")


def link_softly(path: Path, secret: Path) -> None:
    with h5py.File(path, "a") as file:
        file["e/frames"] = h5py.SoftLink("/f/frames")


def link_camera(path: Path, secret: Path) -> None:
    with h5py.File(path, "a") as file:
        file["e/obs/camera"] = h5py.ExternalLink(secret.name, "/frames")


def link_nowhere(path: Path, secret: Path) -> None:
    with h5py.File(path, "a") as file:
        file["e"] = h5py.ExternalLink("nowhere.h5", "/")


def link_actions(path: Path, secret: Path) -> None:
    with h5py.File(path, "a") as file:
        file["e/frames"] = images(2)
        file["e/actions"] = h5py.ExternalLink(secret.name, "/actions")


def map_frames(path: Path, secret: Path) -> None:
    layout = h5py.VirtualLayout((2, 4, 6, 3), np.uint8)
    layout[:] = h5py.VirtualSource(secret, "frames", (2, 4, 6, 3))
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("e/frames", layout)


def store_outside(path: Path, secret: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_dataset("e/frames", (2, 4, 6, 3), np.uint8, external=[(str(secret), 0, 144)])


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (link_frames, "frames is a soft or external link"),
        (link_group, "e is a soft or external link"),
        (link_softly, "frames is a soft or external link"),
        (link_camera, "camera is a soft or external link"),
        (link_nowhere, "e is a soft or external link"),
        (link_actions, "actions is a soft or external link"),
        (map_frames, "frames lie in other files"),
        (store_outside, "frames lie in other files"),
    ],
)
def test_what_lies_in_another_file_is_refused(tmp_path: Path, link: Any, message: str) -> None:
    secret = write_hdf5(tmp_path / "secret.h5", frames=images(2), actions=np.arange(2))
    path = write_hdf5(tmp_path / "data" / "x.h5", f__frames=images(2, 50))
    link(path, secret)
    shutil.copy(secret, path.parent)  # neither where it was nor beside the file
    data = HDF5.open(path)
    assert len(data.names) == 2 and data.names[0].startswith("x.h5:e")
    assert data.names[1] == "x.h5:f"
    with pytest.raises(DataError, match=rf"x\.h5:e.*{message}"):
        data.open(0)
    np.testing.assert_array_equal(pixels(data.open(1)), images(2, 50))


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret = write_hdf5(tmp_path / "secret.h5", frames=images(2))
    write_hdf5(tmp_path / "data" / "a.h5", frames=images(2))
    (tmp_path / "data" / "b.h5").symlink_to(secret)
    data = HDF5.open(tmp_path / "data")
    assert data.names == ["a.h5", "b.h5"]
    with pytest.raises(DataError, match=r"b\.h5 leads out of the data folder"):
        data.open(1)


def test_an_array_too_large_to_be_read_whole_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["frames"] = images(2)
        file.create_dataset("actions", (2, 2**40), "f8", chunks=(1, 1024))  # takes no space
    with pytest.raises(DataError, match=r"x\.h5: actions .*bytes are not read"):
        HDF5.open(tmp_path)


def test_without_h5py_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hdf5(tmp_path / "x.h5", frames=images(2))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert HDF5.detect(path)
    with pytest.raises(ConfigError, match=r"pip install 'worldflow\[data\]'"):
        HDF5.open(path)
