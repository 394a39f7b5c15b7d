"""Episodes in HDF5 files, in the layouts in use, and nothing that lies in another file."""

import json
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.formats.base import RawEpisode
from worldflow.data.formats.hdf5 import HDF5
from worldflow.errors import ConfigError, DataError


def images(length: int, first: int = 0) -> np.ndarray:
    """Frame t is (t, t + 10, t + 20), counted from `first`."""
    colours = first + np.arange(length)[:, None] + np.array([0, 10, 20])
    return np.broadcast_to(colours[:, None, None], (length, 4, 6, 3)).astype(np.uint8).copy()


def pixels(episode: RawEpisode) -> np.ndarray:
    return np.stack([frame.pixels for frame in episode.read()])


def write(path: Path, attributes: dict[str, Any] | None = None, **datasets: Any) -> Path:
    """A file of datasets, whose keys have "__" for "/"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file.create_dataset(key.replace("__", "/"), data=value)
        file.attrs.update(attributes or {})
    return path


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


def csgo(path: Path, length: int) -> None:
    """Frame i is blue by i, and its action has a one at place i."""
    with h5py.File(path, "w") as file:
        for i in range(length):
            file[f"frame_{i}_x"] = np.broadcast_to(np.uint8([100 + i, 1, 2]), (4, 6, 3))  # BGR
            file[f"frame_{i}_y"] = np.eye(51)[i]
            file[f"frame_{i}_xaux"] = np.zeros(54)
            file[f"frame_{i}_helperarr"] = np.array([0.0, 1.0])


def test_csgo_is_read(tmp_path: Path) -> None:
    csgo(tmp_path / "hdf5_dm_july2021_10.hdf5", 12)
    csgo(tmp_path / "hdf5_dm_july2021_9.hdf5", 11)
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
    csgo(tmp_path / "hdf5_1.hdf5", 3)
    csgo(tmp_path / "hdf5_2.hdf5", 3)
    with h5py.File(tmp_path / "hdf5_2.hdf5", "a") as file:
        del file[key]
        if value is not None:
            file[key] = value
    with pytest.raises(DataError, match=rf"hdf5_2\.hdf5.*{message}"):
        HDF5.open(tmp_path).open(1)


def test_a_wrong_csgo_frame_is_found_while_reading(tmp_path: Path) -> None:
    csgo(tmp_path / "hdf5_1.hdf5", 3)
    with h5py.File(tmp_path / "hdf5_1.hdf5", "a") as file:
        del file["frame_2_x"]
        file["frame_2_x"] = np.zeros((4, 6, 3))
    with pytest.raises(DataError, match=r"hdf5_1\.hdf5.*float64, not uint8"):
        pixels(HDF5.open(tmp_path).open(0))


@pytest.mark.parametrize("key", ["frames", "images", "observations", "obs", "pixels", "rgb"])
def test_a_whole_file_may_be_one_episode(tmp_path: Path, key: str) -> None:
    path = write(
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
    path = write(
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
    write(tmp_path / "x.h5", frames=np.zeros((400, 64, 128, 3), np.uint8))  # 9 MiB
    episode = HDF5.open(tmp_path).open(0)
    tracemalloc.start()
    try:
        assert sum(1 for _ in episode.read()) == 400
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


def test_a_broken_file_is_listed_and_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "1.h5", frames=images(3), action=np.arange(3)).read_bytes()
    (tmp_path / "0.h5").write_bytes(b"")
    (tmp_path / "2.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.h5").write_bytes(b"no HDF5 at all" * 100)
    write(tmp_path / "4.h5")
    write(tmp_path / "5.h5", observations=np.zeros((5, 17)), actions=np.zeros((5, 6)))  # D4RL
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
    path = write(tmp_path / "x.h5", a__frames=images(2), b__frames=images(2))
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
    write(tmp_path / "x.h5", **datasets)
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
    write(tmp_path / "x.h5", attributes, frames=images(2))
    with pytest.raises(DataError, match=rf"x\.h5: .*{message}"):
        HDF5.open(tmp_path)


@pytest.mark.parametrize("arguments", ["[]", "{}", '{"env_kwargs": {}}', '{"env_kwargs": null}'])
def test_arguments_without_a_rate_tell_none(tmp_path: Path, arguments: str) -> None:
    write(tmp_path / "x.h5", {"env_args": arguments}, frames=images(2))
    data = HDF5.open(tmp_path)
    assert (data.fps, data.source["fps_from"]) == (30.0, "assumed")


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
    secret = write(tmp_path / "secret.h5", frames=images(2), actions=np.arange(2))
    path = write(tmp_path / "data" / "x.h5", f__frames=images(2, 50))
    link(path, secret)
    shutil.copy(secret, path.parent)  # neither where it was nor beside the file
    data = HDF5.open(path)
    assert len(data.names) == 2 and data.names[0].startswith("x.h5:e")
    assert data.names[1] == "x.h5:f"
    with pytest.raises(DataError, match=rf"x\.h5:e.*{message}"):
        data.open(0)
    np.testing.assert_array_equal(pixels(data.open(1)), images(2, 50))


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.h5", frames=images(2))
    write(tmp_path / "data" / "a.h5", frames=images(2))
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
    path = write(tmp_path / "x.h5", frames=images(2))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert HDF5.detect(path)
    with pytest.raises(ConfigError, match=r"pip install 'worldflow\[data\]'"):
        HDF5.open(path)


def test_detection(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"")
    assert not HDF5.detect(tmp_path)
    with pytest.raises(DataError, match=r"no file ending in \.hdf5, \.h5, \.hf5"):
        HDF5.open(tmp_path)
    path = write(tmp_path / "sub" / "y.HDF5", frames=images(1))
    assert HDF5.detect(tmp_path) and HDF5.detect(path)
    assert not HDF5.detect(tmp_path / "x.npz")
