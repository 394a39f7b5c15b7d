"""HDF5 files in the layout of DIAMOND's CS:GO."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from array_samples import pixels, write_csgo

from worldflow.actions import ActionSpec
from worldflow.data.formats.hdf5 import HDF5
from worldflow.errors import DataError


def test_csgo_is_read(tmp_path: Path) -> None:
    write_csgo(tmp_path / "hdf5_dm_july2021_10.hdf5", 12)
    write_csgo(tmp_path / "hdf5_dm_july2021_9.hdf5", 11)
    data = HDF5.open(tmp_path)
    assert data.names == ["hdf5_dm_july2021_9.hdf5", "hdf5_dm_july2021_10.hdf5"]
    assert (data.alignment, data.fps) == ("taken_at", 16.0)
    assert data.action_spec == ActionSpec("box", low=(0.0,) * 51, high=(1.0,) * 51)
    assert data.source == {
        "path": str(tmp_path),
        "files": 2,
        "layout": "csgo",
        "fps_from": "layout",
    }
    episode = data.open(1)
    frames = list(episode.read())
    assert [tuple(frame.pixels[3, 5]) for frame in frames] == [(2, 1, 100 + i) for i in range(12)]
    assert [frame.seconds for frame in frames] == [i / 16 for i in range(12)]
    np.testing.assert_array_equal(episode.actions, np.eye(51)[:12])
    assert (episode.rewards, episode.terminated, episode.frames) == (None, None, 12)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("frame_1_x", None, "frame_1_x is missing"),
        ("frame_1_y", None, "frame_1_y is missing"),
        ("frame_1_y", np.full(51, 2.0), "must be zeros and ones"),
        ("frame_1_y", np.ones(50), "same shape"),
        ("frame_0_x", np.zeros((4, 6, 3), np.float32), "float32, not uint8"),
        ("frame_0_x", np.zeros((4, 6), np.uint8), r"shape \(3, 4, 6\)"),
    ],
)
def test_a_wrong_csgo_file_is_named(tmp_path: Path, key: str, value: Any, message: str) -> None:
    write_csgo(tmp_path / "hdf5_1.hdf5", 3)
    write_csgo(tmp_path / "hdf5_2.hdf5", 3)
    with h5py.File(tmp_path / "hdf5_2.hdf5", "a") as file:
        del file[key]
        if value is not None:
            file[key] = value
    with pytest.raises(DataError, match=rf"hdf5_2\.hdf5.*{message}"):
        HDF5.open(tmp_path).open(1)


def test_a_wrong_csgo_frame_is_found_while_reading(tmp_path: Path) -> None:
    write_csgo(tmp_path / "hdf5_1.hdf5", 3)
    with h5py.File(tmp_path / "hdf5_1.hdf5", "a") as file:
        del file["frame_2_x"]
        file["frame_2_x"] = np.zeros((4, 6, 3))
    with pytest.raises(DataError, match=r"hdf5_1\.hdf5.*float64, not uint8"):
        pixels(HDF5.open(tmp_path).open(0))
