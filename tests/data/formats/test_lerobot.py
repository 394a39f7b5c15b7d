"""LeRobotDatasets 2.1 and 3.0: what was written is read, and damaged rows are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from lerobot_samples import (
    CAMERA,
    FPS,
    LENGTHS,
    VERSIONS,
    actions,
    data_file,
    feature,
    frames,
    png,
    relist,
    write_lerobot,
)

from worldflow.actions import ActionSpec
from worldflow.data.formats.lerobot import LEROBOT
from worldflow.errors import DataError


@pytest.mark.parametrize("image", [False, True], ids=["video", "image"])
@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_written_is_read(tmp_path: Path, version: str, image: bool) -> None:
    data = LEROBOT.open(write_lerobot(tmp_path, version, image))
    new = [f"data/chunk-000/file-{f:03d}.parquet episode {i}" for i, f in enumerate((0, 1, 1))]
    old = [f"data/chunk-000/episode_{i:06d}.parquet episode {i}" for i in range(3)]
    assert data.names == (old if version == "v2.1" else new)
    assert (data.format, data.alignment, data.fps) == ("lerobot", "taken_at", 10.0)
    assert data.lossy == (None if image else "h264 video")
    assert data.action_spec == ActionSpec("box", low=(-3.0, -1.0), high=(1.0, 3.0))
    assert data.source == {
        "path": str(tmp_path),
        "codebase_version": version,
        "robot_type": "arm",
        "camera": CAMERA,
        "other_cameras": [],
        "action_names": ["x", "y"],
        "terminations": "next.done and next.success",
    }
    for i, length in enumerate(LENGTHS):
        episode = data.open(i)
        for _ in range(2):  # it can be read again
            found = list(episode.read())
            assert [f.seconds for f in found] == [t / FPS for t in range(length)]
            np.testing.assert_array_equal([f.pixels for f in found], frames(i))
        assert (episode.name, episode.frames, episode.truncated) == (data.names[i], length, False)
        np.testing.assert_array_equal(episode.actions, actions(i))
        np.testing.assert_array_equal(episode.rewards, np.arange(length) / 4 + i)
        np.testing.assert_array_equal(episode.terminated, [False] * (length - 1) + [i != 1])
        assert episode.terminated.dtype == np.bool_


@pytest.mark.parametrize("image", [False, True])
def test_row_groups_do_not_matter(tmp_path: Path, image: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr("worldflow.data.formats.lerobot.ROWS", 4)
    episode = LEROBOT.open(write_lerobot(tmp_path, image=image, one_row_group=True)).open(2)
    np.testing.assert_array_equal(episode.actions, actions(2))
    np.testing.assert_array_equal([f.pixels for f in episode.read()], frames(2))


def test_single_numbers_are_actions(tmp_path: Path) -> None:
    def change(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        return {**columns, "action": pa.array(np.arange(LENGTHS[episode]) % 4)}

    folder = feature(
        write_lerobot(tmp_path, change=change), "action", {"dtype": "int64", "shape": [1]}
    )
    data = LEROBOT.open(folder)
    assert data.action_spec == ActionSpec("discrete", n=4)
    np.testing.assert_array_equal(data.open(1).actions, np.arange(6) % 4)
    feature(folder, "action", {"dtype": "float32", "shape": [1]})
    (folder / "meta" / "stats.json").unlink()
    data = LEROBOT.open(folder)
    assert data.action_spec == ActionSpec("box", low=(0,), high=(3,))
    np.testing.assert_array_equal(data.open(1).actions, (np.arange(6) % 4)[:, None])


def test_what_is_not_recorded(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path)
    feature(folder, "next.success", None)
    episode = LEROBOT.open(folder).open(1)
    np.testing.assert_array_equal(episode.terminated, [False] * 5 + [True])
    for name in ("action", "next.done", "next.reward"):
        feature(folder, name, None)
    data = LEROBOT.open(folder)
    assert data.action_spec == ActionSpec("none")
    assert (data.source["action_names"], data.source["terminations"]) == (None, None)
    episode = data.open(1)
    assert (episode.actions, episode.rewards, episode.terminated) == (None, None, None)
    # Success alone says nothing of the end.
    feature(folder, "next.success", {"dtype": "bool"})
    assert LEROBOT.open(folder).open(1).terminated is None


def test_jpeg_images(tmp_path: Path) -> None:
    smooth = np.zeros((32, 48, 3), np.uint8) + np.uint8([200, 100, 30])

    def change(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        cells = [{"bytes": png(smooth, ".jpg"), "path": None}] * LENGTHS[episode]
        return {**columns, CAMERA: cells}

    data = LEROBOT.open(write_lerobot(tmp_path, image=True, change=change))
    assert data.lossy == "JPEG"
    for frame in data.open(0).read():
        np.testing.assert_allclose(frame.pixels.astype(int), smooth.astype(int), atol=3)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"bytes": None, "path": "images/0.png"}, "front does not hold the images"),
        ({"bytes": b"no image", "path": ""}, "row 0: no image that can be decoded"),
        (
            {"bytes": cv2.imencode(".png", np.zeros((9, 9), np.uint16))[1].tobytes(), "path": ""},
            "row 0: frames are uint16",
        ),
        ("images/0.png", "front does not hold the images"),
    ],
    ids=["path", "bytes", "deep", "text"],
)
def test_damaged_images(tmp_path: Path, cell: Any, message: str) -> None:
    def change(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        return {**columns, CAMERA: [cell] * LENGTHS[episode]}

    data = LEROBOT.open(write_lerobot(tmp_path, image=True, change=change))
    with pytest.raises(DataError, match=f"file-000.parquet episode 0.*{message}"):
        list(data.open(0).read())


def without(name: str) -> Callable[[int, dict[str, Any]], dict[str, Any]]:
    return lambda episode, columns: {key: columns[key] for key in columns if key != name}


def other(name: str, make: Callable[[int], Any]) -> Callable[[int, dict[str, Any]], dict[str, Any]]:
    return lambda episode, columns: {**columns, name: make(LENGTHS[episode])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other("episode_index", lambda n: np.full(n, 7)), "0 rows, must be 6"),
        (
            other("frame_index", lambda n: np.arange(n)[::-1].copy()),
            "6 rows, must be 6 with frame_index",
        ),
        (other("next.reward", lambda n: ["1"] * n), "next.reward is not one number for each row"),
        (other("next.done", lambda n: [[True, False]] * n), "next.done is not one number"),
        (other("action", lambda n: [[1.0]] * (n - 1) + [[1.0, 2.0]]), "rows of different lengths"),
        (other("action", lambda n: [[np.nan, 0]] * n), "the action of frame 0 is not a number"),
        (other("action", lambda n: ["left"] * n), "they must be numbers"),
        (other("action", lambda n: [None] * n), "they must be numbers"),
    ],
)
def test_damaged_rows(tmp_path: Path, change: Any, message: str) -> None:
    data = LEROBOT.open(write_lerobot(tmp_path, change=change))
    with pytest.raises(DataError, match=f"file-001.parquet episode 1: .*{message}"):
        data.open(1)


@pytest.mark.parametrize("name", ["frame_index", "episode_index", "action", "next.reward"])
def test_missing_columns(tmp_path: Path, name: str) -> None:
    data = LEROBOT.open(
        feature(write_lerobot(tmp_path, change=without(name)), name, {"dtype": "float32"})
    )
    with pytest.raises(DataError, match=f"file-001.parquet episode 1: no columns {name}"):
        data.open(1)


@pytest.mark.parametrize("version", VERSIONS)
def test_damaged_files_spoil_no_other_episode(tmp_path: Path, version: str) -> None:
    folder = write_lerobot(tmp_path, version)
    path = data_file(folder)
    path.write_bytes(path.read_bytes()[:-30])
    data = LEROBOT.open(folder)
    assert len(list(data.open(0).read())) == LENGTHS[0]
    with pytest.raises(DataError, match=f"{path.name}: no whole parquet file.*git lfs pull"):
        data.open(1)
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name} is missing; download"):
        data.open(1)


def test_fewer_rows_than_listed(tmp_path: Path) -> None:
    folder = relist(write_lerobot(tmp_path), length=7)
    with pytest.raises(DataError, match="episode 1: 6 rows, must be 7"):
        LEROBOT.open(folder).open(1)
