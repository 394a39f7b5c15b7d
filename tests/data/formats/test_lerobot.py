"""LeRobotDatasets 2.1 and 3.0: written here as lerobot lays them out, and read back."""

import json
import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.formats.lerobot import LEROBOT, decode
from worldflow.errors import DataError

FPS = 10
LENGTHS = (14, 6, 9)
CAMERA = "observation.images.front"
VERSIONS = ("v2.1", "v3.0")
# Which episodes share a file; of the data and of the videos differently, as file sizes decide.
FILES = {"v2.1": (([0], [1], [2]), ([0], [1], [2])), "v3.0": (([0], [1, 2]), ([0, 1], [2]))}
IN_30 = "chunk-{chunk_index:03d}/file-{file_index:03d}"
IN_21 = "episode_{episode_index:06d}"
PATHS = {
    "v2.1": (
        f"data/chunk-{{episode_chunk:03d}}/{IN_21}.parquet",
        f"videos/chunk-{{episode_chunk:03d}}/{{video_key}}/{IN_21}.mp4",
    ),
    "v3.0": (f"data/{IN_30}.parquet", f"videos/{{video_key}}/{IN_30}.mp4"),
}


def frames(episode: int) -> np.ndarray:
    """(length, 32, 48, 3) of noise, unlike in all episodes."""
    shape = (LENGTHS[episode], 32, 48, 3)
    return np.random.default_rng(episode).integers(0, 256, shape, dtype=np.uint8)


def actions(episode: int) -> np.ndarray:
    return np.random.default_rng(100 + episode).uniform(-1, 1, (LENGTHS[episode], 2)).astype("f4")


def encode(
    path: Path,
    images: np.ndarray,
    codec: str = "libx264rgb",
    times: range | list[int] = range(99),
    index_first: bool = False,
    **options: str,
) -> None:
    """Write a lossless video with B-frames, and few key frames; `times` are in frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    movflags = {"movflags": "faststart"} if index_first else {}
    with av.open(str(path), "w", options=movflags) as container:
        stream = container.add_stream(codec, rate=FPS, options=options or {"crf": "0", "g": "8"})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "yuv420p"
        for t, image in zip(times, images, strict=False):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def png(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def rows(episode: int) -> dict[str, Any]:
    length = LENGTHS[episode]
    last = np.arange(length) == length - 1
    return {
        "observation.state": pa.array(np.zeros((length, 3)).tolist(), pa.list_(pa.float32(), 3)),
        "action": pa.array(actions(episode).tolist(), pa.list_(pa.float32(), 2)),
        "timestamp": pa.array(np.arange(length) / FPS, pa.float32()),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, episode),
        "index": np.arange(length) + sum(LENGTHS[:episode]),
        "task_index": np.zeros(length, np.int64),
        "next.reward": pa.array(np.arange(length) / 4 + episode, pa.float32()),
        "next.done": last,
        "next.success": last & (episode != 1),
    }


def write(
    root: Path,
    version: str = "v3.0",
    image: bool = False,
    change: Callable[[int, dict[str, Any]], dict[str, Any]] = lambda episode, columns: columns,
    one_row_group: bool = False,
) -> Path:
    """Write the three episodes; `change` makes other columns of an episode's."""
    data_path, video_path = PATHS[version]
    data_files, video_files = FILES[version]
    listed: list[dict[str, Any]] = [
        {"episode_index": i, "tasks": ["reach"], "length": LENGTHS[i]} for i in range(3)
    ]
    for f, episodes in enumerate(data_files):
        place = {"chunk_index": 0, "file_index": f, "episode_chunk": 0, "episode_index": f}
        tables = []
        for i in episodes:
            columns = change(i, rows(i))
            if image:
                cells = [
                    {"bytes": png(each), "path": f"{t}.png"} for t, each in enumerate(frames(i))
                ]
                columns = {CAMERA: cells, **columns}
            tables.append(pa.table(columns))
            listed[i] |= {"data/chunk_index": 0, "data/file_index": f}
        path = root / data_path.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        if one_row_group:
            pq.write_table(pa.concat_tables(tables).combine_chunks(), path)
        else:
            with pq.ParquetWriter(path, tables[0].schema) as writer:
                for table in tables:
                    writer.write_table(table)
    for f, episodes in enumerate(() if image else video_files):
        place = {"chunk_index": 0, "file_index": f, "episode_chunk": 0, "episode_index": f}
        path = root / video_path.format(video_key=CAMERA, **place)
        encode(path, np.concatenate([frames(i) for i in episodes]))
        start = 0.0
        for i in episodes:
            times = {"from_timestamp": start, "to_timestamp": start + LENGTHS[i] / FPS}
            start = times["to_timestamp"]
            times |= {"chunk_index": 0, "file_index": f}
            listed[i] |= {f"videos/{CAMERA}/{key}": value for key, value in times.items()}
    features = {
        key: {"dtype": "float32", "shape": [1], "names": None} for key in change(0, rows(0))
    }
    features["action"] = {"dtype": "float32", "shape": [2], "names": ["x", "y"]}
    features[CAMERA] = {"dtype": "image" if image else "video", "shape": [32, 48, 3]}
    if not image:
        features[CAMERA]["info"] = {"video.codec": "h264", "video.fps": FPS}
    info = {
        "codebase_version": version,
        "robot_type": "arm",
        "total_episodes": 3,
        "chunks_size": 1000,
        "fps": FPS,
        "data_path": data_path,
        "video_path": None if image else video_path,
        "features": features,
    }
    meta = root / "meta"
    meta.mkdir()
    (meta / "info.json").write_text(json.dumps(info))
    stats = [{"action": {"min": [-1.0 - i, -1], "max": [1.0, 1 + i]}} for i in range(3)]
    if version == "v2.1":
        plain = [{key: e[key] for key in ("episode_index", "tasks", "length")} for e in listed]
        write_lines(meta / "episodes.jsonl", plain)
        each = [{"episode_index": i, "stats": stats[i]} for i in range(3)]
        write_lines(meta / "episodes_stats.jsonl", each)
    else:
        (meta / "stats.json").write_text(json.dumps({"action": {"min": [-3, -1], "max": [1, 3]}}))
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        for f, part in enumerate((listed[:2], listed[2:])):
            statistics = [{"stats/action/min": [-1.0, 0.0]} for _ in part]
            table = pa.Table.from_pylist([a | b for a, b in zip(part, statistics, strict=True)])
            pq.write_table(table, meta / "episodes" / "chunk-000" / f"file-{f:03d}.parquet")
    return root


def write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def describe(folder: Path, **changes: object) -> Path:
    """Change fields of info.json."""
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def feature(folder: Path, name: str, value: object) -> Path:
    """Change or, with None, remove a feature in info.json."""
    features = json.loads((folder / "meta" / "info.json").read_text())["features"]
    if value is None:
        del features[name]
        return describe(folder, features=features)
    return describe(folder, features={**features, name: value})


def relist(folder: Path, **changes: object) -> Path:
    """Change what is listed of the episode 1 of a 3.0 dataset."""
    path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    listed = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([listed[0], {**listed[1], **changes}]), path)
    return folder


def data_file(folder: Path, episode: int = 1) -> Path:
    """The parquet file of an episode."""
    return sorted((folder / "data" / "chunk-000").iterdir())[episode]


def video_file(folder: Path, episode: int) -> Path:
    """The video of an episode of a 2.1 dataset."""
    return folder / "videos" / "chunk-000" / CAMERA / f"episode_{episode:06d}.mp4"


@pytest.mark.parametrize("image", [False, True], ids=["video", "image"])
@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_written_is_read(tmp_path: Path, version: str, image: bool) -> None:
    data = LEROBOT.open(write(tmp_path, version, image))
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
    episode = LEROBOT.open(write(tmp_path, image=image, one_row_group=True)).open(2)
    np.testing.assert_array_equal(episode.actions, actions(2))
    np.testing.assert_array_equal([f.pixels for f in episode.read()], frames(2))


def test_av1_as_lerobot_encodes_it(tmp_path: Path) -> None:
    folder = feature(write(tmp_path, "v2.1"), CAMERA, {"dtype": "video"})
    greys = [40 * i + 7 * np.arange(length) for i, length in enumerate(LENGTHS)]
    for i, grey in enumerate(greys):
        images = np.broadcast_to(grey[:, None, None, None], (len(grey), 64, 64, 3)).astype("u1")
        encode(video_file(folder, i), images, "libsvtav1", crf="20", g="2", preset="12")
    data = LEROBOT.open(folder)
    assert data.lossy == "av1 video"  # the stream says so, as info.json does not
    for i, grey in enumerate(greys):
        found = np.stack([f.pixels for f in data.open(i).read()]).astype(int)
        np.testing.assert_allclose(found, found * 0 + grey[:, None, None, None], atol=3)


def test_part_of_a_video_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    images = np.concatenate([frames(0), frames(2)])
    encode(path, images)
    for start, stop in ((0, 23), (0, 1), (12, 15), (13, 13), (22, 99)):
        found = list(decode(path, (start - 0.5) / FPS, (stop - 0.5) / FPS))
        assert [round(f.seconds * FPS, 6) for f in found] == list(range(23))[start:stop]
        for t, frame in enumerate(found, start):
            np.testing.assert_array_equal(frame.pixels, images[t])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stats", ["missing", "other", "endless", "partial"])
def test_without_statistics_limits_are_those_of_the_data(
    tmp_path: Path, version: str, stats: str
) -> None:
    folder = write(tmp_path, version)
    path = folder / "meta" / ("episodes_stats.jsonl" if version == "v2.1" else "stats.json")
    limits = {"missing": {}, "other": {"state": {"min": [0]}}}.get(stats)
    limits = {"action": {"min": [0, -np.inf], "max": [1, 1]}} if limits is None else limits
    path.unlink()
    if stats == "partial":
        write_lines(path, [{"episode_index": 0, "stats": {"action": {"min": [0, 0]}}}])
    elif version == "v2.1":
        write_lines(path, [{"episode_index": i, "stats": limits} for i in range(3)])
    elif stats != "missing":
        path.write_text(json.dumps(limits))
    every = np.concatenate([actions(i) for i in range(3)]).astype(float)
    low, high = tuple(every.min(axis=0)), tuple(every.max(axis=0))
    assert LEROBOT.open(folder).action_spec == ActionSpec("box", low=low, high=high)


def test_a_constant_action_gets_limits_around_it(tmp_path: Path) -> None:
    folder = write(tmp_path)
    stats = {"action": {"min": [-1, 0.5], "max": [1, 0.5]}}
    (folder / "meta" / "stats.json").write_text(json.dumps(stats))
    expected = ActionSpec("box", low=(-1, -0.5), high=(1, 1.5))
    assert LEROBOT.open(folder).action_spec == expected


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ({"min": [-0.1, -1], "max": [0.1, 1]}, "outside the box.*meta/stats.json.*remove it"),
        ({"min": [-1], "max": [1]}, "actions of 2 numbers, not 1"),
    ],
)
def test_statistics_of_other_actions(tmp_path: Path, stats: dict, message: str) -> None:
    folder = write(tmp_path)
    (folder / "meta" / "stats.json").write_text(json.dumps({"action": stats}))
    with pytest.raises(DataError, match=f"file-000.parquet episode 0: .*{message}"):
        LEROBOT.open(folder).open(0)


def test_single_numbers_are_actions(tmp_path: Path) -> None:
    def change(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        return {**columns, "action": pa.array(np.arange(LENGTHS[episode]) % 4)}

    folder = feature(write(tmp_path, change=change), "action", {"dtype": "int64", "shape": [1]})
    data = LEROBOT.open(folder)
    assert data.action_spec == ActionSpec("discrete", n=4)
    np.testing.assert_array_equal(data.open(1).actions, np.arange(6) % 4)
    feature(folder, "action", {"dtype": "float32", "shape": [1]})
    (folder / "meta" / "stats.json").unlink()
    data = LEROBOT.open(folder)
    assert data.action_spec == ActionSpec("box", low=(0,), high=(3,))
    np.testing.assert_array_equal(data.open(1).actions, (np.arange(6) % 4)[:, None])


def test_what_is_not_recorded(tmp_path: Path) -> None:
    folder = write(tmp_path)
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


def test_the_first_camera_by_name_is_taken(tmp_path: Path) -> None:
    folder = feature(write(tmp_path), "observation.images.top", {"dtype": "video"})
    feature(folder, "observation.images.above", {"dtype": "video", "info": {"is_depth_map": True}})
    feature(folder, "depth", {"dtype": "image", "video_info": {"video.is_depth_map": True}})
    source = LEROBOT.open(folder).source
    assert (source["camera"], source["other_cameras"]) == (CAMERA, ["observation.images.top"])
    feature(folder, "a camera", {"dtype": "video", "info": {"video.codec": "hevc"}})
    with pytest.raises(DataError, match=r"KeyError.*videos/a camera/chunk_index"):
        LEROBOT.open(folder)
    for name in (CAMERA, "a camera", "observation.images.top"):
        feature(folder, name, None)
    with pytest.raises(DataError, match=r"info.json: no feature is a camera"):
        LEROBOT.open(folder)


def test_jpeg_images(tmp_path: Path) -> None:
    smooth = np.zeros((32, 48, 3), np.uint8) + np.uint8([200, 100, 30])

    def change(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        cells = [{"bytes": png(smooth, ".jpg"), "path": None}] * LENGTHS[episode]
        return {**columns, CAMERA: cells}

    data = LEROBOT.open(write(tmp_path, image=True, change=change))
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

    data = LEROBOT.open(write(tmp_path, image=True, change=change))
    with pytest.raises(DataError, match=f"file-000.parquet episode 0.*{message}"):
        list(data.open(0).read())


@pytest.mark.parametrize("version", ["v2.0", "v3.1", None, 3])
def test_other_versions_are_refused(tmp_path: Path, version: object) -> None:
    folder = describe(write(tmp_path), codebase_version=version)
    with pytest.raises(DataError, match=r"v2.1 and v3.0 are read.*convert_dataset_v20_to_v21.py"):
        LEROBOT.open(folder)


def test_version_1_lies_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "meta_data").mkdir()
    (tmp_path / "meta_data" / "info.json").write_text('{"codebase_version": "v1.6", "fps": 9}')
    assert LEROBOT.detect(tmp_path)
    with pytest.raises(DataError, match=r"meta_data/info.json: .*'v1.6'.*convert_dataset_v1_to_v2"):
        LEROBOT.open(tmp_path)


def test_detection(tmp_path: Path) -> None:
    assert not LEROBOT.detect(tmp_path)
    assert not LEROBOT.detect(tmp_path / "none")
    assert LEROBOT.detect(write(tmp_path / "set"))
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text('{"fps": 3}')
    assert not LEROBOT.detect(tmp_path)


def test_pyarrow_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'worldflow\[data\]'"):
        LEROBOT.open(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 0}, "info.json: fps is 0, not a number above 0"),
        ({"fps": "10"}, "info.json: fps is '10'"),
        ({"features": []}, "info.json: features must give the dtype"),
        ({"features": {"action": {}}}, "info.json: features must give the dtype"),
        ({"storage_format": "lance"}, "stored as Lance tables"),
        ({"total_episodes": 4}, "meta: 3 episodes are listed, must be total_episodes = 4"),
        ({"data_path": None}, "meta: where episode 0 lies is not said"),
        ({"video_path": None}, "meta: where episode 0 lies is not said"),
        ({"data_path": "data/{chunk_index:09999999d}"}, "the template .* is not understood"),
        ({"data_path": "data/{chunk_index.__class__}"}, "the template .* is not understood"),
        (
            {"data_path": "data/{episode_chunk:03d}"},
            "where episode 0 lies.*KeyError.*episode_chunk",
        ),
    ],
)
def test_damaged_metadata(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LEROBOT.open(describe(write(tmp_path), **changes))


def test_damaged_lists_of_episodes(tmp_path: Path) -> None:
    folder = write(tmp_path / "old", "v2.1")
    path = folder / "meta" / "episodes.jsonl"
    write_lines(path, [{"episode_index": i, "length": 3} for i in (0, 1, 1)])
    with pytest.raises(DataError, match=r"meta: 3 episodes are listed, .*numbered from 0"):
        LEROBOT.open(folder)
    write_lines(path, [{"episode_index": 0}])
    with pytest.raises(DataError, match=r"meta: where episode 0 lies is not said.*'length'"):
        LEROBOT.open(folder)
    path.write_text("[1]\n")
    with pytest.raises(DataError, match=r"episodes.jsonl: lines that are no JSON objects"):
        LEROBOT.open(folder)
    path.write_text('{"episode')
    with pytest.raises(DataError, match=r"episodes.jsonl: not readable lines.*download"):
        LEROBOT.open(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"episodes.jsonl: not readable lines"):
        LEROBOT.open(folder)
    folder = write(tmp_path / "new")
    path = folder / "meta" / "episodes" / "chunk-000" / "file-001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"file-001.parquet: no whole parquet file.*git lfs"):
        LEROBOT.open(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"meta: 2 episodes are listed"):
        LEROBOT.open(folder)


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
    data = LEROBOT.open(write(tmp_path, change=change))
    with pytest.raises(DataError, match=f"file-001.parquet episode 1: .*{message}"):
        data.open(1)


@pytest.mark.parametrize("name", ["frame_index", "episode_index", "action", "next.reward"])
def test_missing_columns(tmp_path: Path, name: str) -> None:
    data = LEROBOT.open(feature(write(tmp_path, change=without(name)), name, {"dtype": "float32"}))
    with pytest.raises(DataError, match=f"file-001.parquet episode 1: no columns {name}"):
        data.open(1)


@pytest.mark.parametrize("version", VERSIONS)
def test_damaged_files_spoil_no_other_episode(tmp_path: Path, version: str) -> None:
    folder = write(tmp_path, version)
    path = data_file(folder)
    path.write_bytes(path.read_bytes()[:-30])
    data = LEROBOT.open(folder)
    assert len(list(data.open(0).read())) == LENGTHS[0]
    with pytest.raises(
        DataError, match=f"{path.name}: no whole parquet file.*download the dataset"
    ):
        data.open(1)
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name} is missing; download"):
        data.open(1)


def test_fewer_rows_than_listed(tmp_path: Path) -> None:
    folder = relist(write(tmp_path), length=7)
    with pytest.raises(DataError, match="episode 1: 6 rows, must be 7"):
        LEROBOT.open(folder).open(1)


@pytest.mark.parametrize("keep", [0.0, 0.9])
def test_a_truncated_video(tmp_path: Path, keep: float) -> None:
    folder = write(tmp_path, "v2.1")
    data, path = LEROBOT.open(folder), video_file(folder, 1)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert data.open(1).frames == 6
    with pytest.raises(DataError, match=r"episode_000001.mp4: no whole video.*download"):
        list(data.open(1).read())
    path.unlink()
    with pytest.raises(DataError, match=r"episode_000001.mp4 is missing"):
        data.open(1)
    feature(folder, CAMERA, {"dtype": "video"})
    assert LEROBOT.open(folder).lossy == "h264 video"  # as the first that can be read


@pytest.mark.parametrize("codec", ["libx264rgb", "mpeg4"])  # of which the latter makes do
@pytest.mark.parametrize("missing", [50, 9000])
def test_a_video_truncated_after_its_index(tmp_path: Path, missing: int, codec: str) -> None:
    folder = write(tmp_path, "v2.1")
    path = video_file(folder, 1)
    encode(path, frames(1), codec, index_first=True)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DataError, match=r"episode_000001.mp4: (truncated|no whole video)"):
        list(LEROBOT.open(folder).open(1).read())


def test_fewer_frames_than_rows(tmp_path: Path) -> None:
    folder = write(tmp_path, "v2.1")
    encode(video_file(folder, 1), frames(1)[:5])
    with pytest.raises(DataError, match=r"episode 1: 6 rows, but 5 frames in .*episode_000001.mp4"):
        list(LEROBOT.open(folder).open(1).read())
    # More frames than rows: what lies after the last row was not recorded to be read.
    encode(video_file(folder, 1), np.concatenate([frames(1), frames(0)]))
    found = [f.pixels for f in LEROBOT.open(folder).open(1).read()]
    np.testing.assert_array_equal(found, frames(1))


@pytest.mark.parametrize(
    ("start", "stop", "message"),
    [
        (1.4, 1.9, "6 rows, but 5 frames"),
        (1.9, 2.5, "6 rows, but 1 frames"),
        (5.0, 5.6, "6 rows, but 0 frames"),
    ],
)
def test_a_wrong_part_of_a_video(tmp_path: Path, start: float, stop: float, message: str) -> None:
    folder = write(tmp_path)
    place = f"videos/{CAMERA}/"
    relist(folder, **{f"{place}from_timestamp": start, f"{place}to_timestamp": stop})
    with pytest.raises(DataError, match=f"episode 1: .*{message}"):
        list(LEROBOT.open(folder).open(1).read())


@pytest.mark.parametrize("start", [-0.5, 2.5, float("nan"), float("inf"), None])
def test_impossible_times_within_a_video(tmp_path: Path, start: float | None) -> None:
    place = f"videos/{CAMERA}/"
    folder = relist(write(tmp_path), **{f"{place}from_timestamp": start})
    with pytest.raises(DataError, match=r"meta: where episode 1 lies is not said.*download"):
        LEROBOT.open(folder)


def test_a_frame_missing_within_a_video(tmp_path: Path) -> None:
    folder = write(tmp_path, "v2.1")
    encode(video_file(folder, 1), np.delete(frames(1), 3, axis=0), times=[0, 1, 2, 4, 5])
    with pytest.raises(DataError, match=r"episode 1: .*000001.mp4: frame 3 comes 0.1000 s late"):
        list(LEROBOT.open(folder).open(1).read())


def test_rounded_times_within_a_video_are_understood(tmp_path: Path) -> None:
    folder = write(tmp_path)
    place = f"videos/{CAMERA}/"
    relist(folder, **{f"{place}from_timestamp": 1.4 + 0.02, f"{place}to_timestamp": 2.0 - 0.02})
    found = [f.pixels for f in LEROBOT.open(folder).open(1).read()]
    np.testing.assert_array_equal(found, frames(1))


def test_a_playlist_in_the_place_of_a_video_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "v2.1")
    video_file(folder, 1).write_text("ffconcat version 1.0\nfile episode_000000.mp4\n")
    with pytest.raises(DataError, match=r"episode_000001.mp4: no whole video"):
        list(LEROBOT.open(folder).open(1).read())


@pytest.mark.parametrize("field", ["data_path", "video_path"])
@pytest.mark.parametrize("way", ["..", "/etc", "link"])
def test_paths_out_of_the_folder_are_not_followed(tmp_path: Path, field: str, way: str) -> None:
    folder = write(tmp_path / "set", "v2.1")
    paths = dict(zip(("data_path", "video_path"), PATHS["v2.1"], strict=True))
    shutil.copytree(folder / "data", tmp_path / "data")  # as good, but elsewhere
    shutil.copytree(folder / "videos", tmp_path / "videos")
    if way == "link":
        top = paths[field].split("/")[0]
        shutil.rmtree(folder / top)
        (folder / top).symlink_to(tmp_path / top)
    else:
        start = ".." if way == ".." else str(tmp_path)
        describe(folder, **{field: f"{start}/{paths[field]}"})
    data = LEROBOT.open(folder)
    with pytest.raises(DataError, match="leads out of the data folder"):
        data.open(0)


def test_names_of_cameras_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "v2.1")
    feature(folder, CAMERA, None)
    feature(folder, "../../../x", {"dtype": "video"})
    with pytest.raises(DataError, match="leads out of the data folder"):
        LEROBOT.open(folder).open(0)
