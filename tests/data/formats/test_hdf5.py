"""Episodes as groups of HDF5 files, in the layouts in use."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from array_samples import images, pixels, write_hdf5

from worldflow.actions import ActionSpec
from worldflow.data.formats.hdf5 import HDF5
from worldflow.errors import DataError


def test_robomimic_is_read(tmp_path: Path) -> None:
    path = tmp_path / "image.hdf5"
    with h5py.File(path, "w") as file:
        for number in (10, 2):
            demo = file.create_group(f"data/demo_{number}")
            demo["obs/agentview_image"] = images(5, number)
            demo["obs/a_camera"] = images(5, 100)
            demo["obs/robot0_eef_pos"] = np.zeros((5, 3))
            demo["next_obs/agentview_image"] = images(5, 200)
            demo["actions"] = np.linspace(-1, 1, 10).reshape(5, 2)
            demo["rewards"] = np.array([0, 0, 0, 0, 1.0])
            demo["dones"] = np.array([0, 0, 0, 0, 1])
            demo["states"] = np.zeros((5, 7))
        file["mask/train"] = np.array([b"demo_2"])
        arguments = {"env_name": "Lift", "env_kwargs": {"control_freq": 20}}
        file["data"].attrs["env_args"] = json.dumps(arguments)
    data = HDF5.open(path)
    assert (data.format, data.alignment, data.fps, data.lossy) == ("hdf5", "taken_at", 20.0, None)
    assert data.names == ["image.hdf5:data/demo_2", "image.hdf5:data/demo_10"]
    assert data.source == {
        "path": str(path),
        "files": 1,
        "layout": "groups",
        "fps_from": "attributes",
        "camera": "obs/agentview_image",
    }
    np.testing.assert_allclose(data.action_spec.low, [-1, -7 / 9])
    np.testing.assert_allclose(data.action_spec.high, [7 / 9, 1])
    for index, number in enumerate((2, 10)):
        episode = data.open(index)
        assert (episode.name, episode.frames, episode.truncated) == (data.names[index], 5, False)
        for _ in range(2):  # it may be read again
            np.testing.assert_array_equal(pixels(episode), images(5, number))
        assert [frame.seconds for frame in episode.read()] == [i / 20 for i in range(5)]
        np.testing.assert_array_equal(episode.actions, np.linspace(-1, 1, 10).reshape(5, 2))
        np.testing.assert_array_equal(episode.rewards, [0, 0, 0, 0, 1])
        np.testing.assert_array_equal(episode.terminated, [False] * 4 + [True])


@pytest.mark.parametrize("key", ["frames", "images", "observations", "obs", "pixels", "rgb"])
def test_a_whole_file_may_be_one_episode(tmp_path: Path, key: str) -> None:
    path = write_hdf5(
        tmp_path / "a" / "x.h5",
        {"fps": 15},
        **{key: images(3)},
        action=np.array([2, 0], np.int32),
        reward=np.zeros((3, 1)),
        terminations=np.array([False, False, True]),
        unrelated__numbers=np.zeros(3),
    )
    data = HDF5.open(tmp_path)
    assert (data.names, data.fps) == (["a/x.h5"], 15.0)
    assert "camera" not in data.source
    assert data.action_spec == ActionSpec("discrete", n=3)
    episode = data.open(0)
    np.testing.assert_array_equal(pixels(episode), images(3))
    assert episode.actions is not None and episode.actions.tolist() == [2, 0]
    assert episode.rewards is not None and episode.rewards.shape == (3,)
    assert episode.terminated is not None and episode.terminated.tolist() == [False, False, True]
    assert HDF5.open(path).names == ["x.h5"]


@pytest.mark.parametrize(
    ("cameras", "chosen"),
    [
        ({"obs/wrist": 0, "obs/front": 1}, "obs/front"),
        ({"obs/a": 0, "obs/agentview_image": 1}, "obs/agentview_image"),
        ({"observations/images/cam_low": 0, "observations/images/cam_high": 1}, None),
        ({"obs/rgb": 0}, "obs/rgb"),
    ],
)
def test_the_choice_of_a_camera(
    tmp_path: Path, cameras: dict[str, int], chosen: str | None
) -> None:
    with h5py.File(tmp_path / "x.hf5", "w") as file:
        for key, first in cameras.items():
            file[f"e/{key}"] = images(2, first).transpose(0, 3, 1, 2)  # channels first
    data = HDF5.open(tmp_path)
    assert data.names == ["x.hf5:e"]
    chosen = chosen or "observations/images/cam_high"
    assert data.source["camera"] == chosen
    np.testing.assert_array_equal(pixels(data.open(0)), images(2, cameras[chosen]))


def test_groups_at_any_depth_each_once(tmp_path: Path) -> None:
    path = write_hdf5(
        tmp_path / "x.h5",
        level__e10__frames=images(2),
        e2__frames=images(3),
        table__rgb=np.zeros((2, 3)),
    )
    with h5py.File(path, "a") as file:
        file["level/again"] = file["level/e10"]
        file["level/circle"] = file["level"]
        file["level"].attrs["frame_rate"] = np.array([60.0])
    data = HDF5.open(tmp_path)
    assert len(data.names) == 2
    assert data.names[0] == "x.h5:e2" and data.names[1] in ("x.h5:level/again", "x.h5:level/e10")
    assert [frame.seconds for frame in data.open(1).read()] == [0, 1 / 60]
    assert [frame.seconds for frame in data.open(0).read()] == [0, 1 / 30, 2 / 30]
    assert data.fps == 30.0  # of the first
    assert data.source["fps_from"] == "assumed, attributes"


def test_more_frames_than_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("frames", data=images(150), chunks=(100, 4, 6, 3), compression="gzip")
    np.testing.assert_array_equal(pixels(HDF5.open(tmp_path).open(0)), images(150))
    monkeypatch.setattr("worldflow.data.formats.hdf5._ROW_BYTES", 200)  # of two frames and a bit
    np.testing.assert_array_equal(pixels(HDF5.open(tmp_path).open(0)), images(150))


def test_memory_stays_flat(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "x.h5", frames=np.zeros((400, 64, 128, 3), np.uint8))  # 9 MiB
    episode = HDF5.open(tmp_path).open(0)
    tracemalloc.start()
    try:
        assert sum(1 for _ in episode.read()) == 400
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"frames": images(3).astype(np.float32)}, "float32, not uint8"),
        ({"frames": np.zeros((0, 4, 6, 3), np.uint8)}, r"shape \(0, 4, 6, 3\)"),
        ({"frames": np.zeros((1, 9000, 1, 3), np.uint8)}, "9000 x 1 pixels"),
        ({"frames": np.zeros((2, 5, 6, 7), np.uint8)}, "no image"),
        ({"frames": ["jpeg", "jpeg"]}, "frames holds objects"),
        ({"frames": images(3), "action": np.arange(5)}, r"3 frames but actions of shape \(5,\)"),
        ({"frames": images(3), "action": ["a", "b", "c"]}, "action holds objects"),
        ({"frames": images(3), "action": h5py.Empty("f8")}, "action is missing or no array"),
        ({"frames": images(3), "action__x": np.zeros(3)}, "action is missing or no array"),
        ({"frames": images(3), "action": np.array([np.nan, 0, 0])}, "action of frame 0"),
        ({"frames": images(3), "reward": np.zeros(1)}, r"3 frames but rewards of shape \(1,\)"),
        ({"frames": images(3), "dones": np.array([0.5, 0, 0])}, "terminated must be 0 or 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, datasets: dict[str, Any], message: str
) -> None:
    write_hdf5(tmp_path / "x.h5", **datasets)
    with pytest.raises(DataError, match=rf"none of its 1 episodes.*x\.h5.*{message}"):
        HDF5.open(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"fps": 0}, "attribute fps: its frame rate is 0"),
        ({"frame_rate": "fast"}, "attribute frame_rate: its frame rate is fast"),
        ({"control_freq": np.inf}, "attribute control_freq: its frame rate is inf"),
        ({"env_args": "{"}, "attribute env_args is not JSON"),
        ({"env_args": 3}, "attribute env_args is not JSON"),
        ({"env_args": '{"env_kwargs": {"control_freq": null}}'}, "frame rate is None"),
    ],
)
def test_a_wrong_rate_is_refused(tmp_path: Path, attributes: dict, message: str) -> None:
    write_hdf5(tmp_path / "x.h5", attributes, frames=images(2))
    with pytest.raises(DataError, match=rf"x\.h5: .*{message}"):
        HDF5.open(tmp_path)


@pytest.mark.parametrize("arguments", ["[]", "{}", '{"env_kwargs": {}}', '{"env_kwargs": null}'])
def test_arguments_without_a_rate_tell_none(tmp_path: Path, arguments: str) -> None:
    write_hdf5(tmp_path / "x.h5", {"env_args": arguments}, frames=images(2))
    data = HDF5.open(tmp_path)
    assert (data.fps, data.source["fps_from"]) == (30.0, "assumed")


def test_detection(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"")
    assert not HDF5.detect(tmp_path)
    with pytest.raises(DataError, match=r"no file ending in \.hdf5, \.h5, \.hf5"):
        HDF5.open(tmp_path)
    path = write_hdf5(tmp_path / "sub" / "y.HDF5", frames=images(1))
    assert HDF5.detect(tmp_path) and HDF5.detect(path)
    assert not HDF5.detect(tmp_path / "x.npz")
