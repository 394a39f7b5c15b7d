"""The folder `meta` of a LeRobotDataset: versions, cameras, statistics, and what is damaged."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from lerobot_samples import (
    CAMERA,
    PATHS,
    VERSIONS,
    actions,
    describe,
    feature,
    write_lerobot,
    write_lines,
)

from worldflow.actions import ActionSpec
from worldflow.data.formats.lerobot import LEROBOT
from worldflow.errors import ConfigError, DataError


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stats", ["missing", "other", "endless", "partial"])
def test_without_statistics_limits_are_those_of_the_data(
    tmp_path: Path, version: str, stats: str
) -> None:
    folder = write_lerobot(tmp_path, version)
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
    folder = write_lerobot(tmp_path)
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
    folder = write_lerobot(tmp_path)
    (folder / "meta" / "stats.json").write_text(json.dumps({"action": stats}))
    with pytest.raises(DataError, match=f"file-000.parquet episode 0: .*{message}"):
        LEROBOT.open(folder).open(0)


def test_the_first_camera_by_name_is_taken(tmp_path: Path) -> None:
    folder = feature(write_lerobot(tmp_path), "observation.images.top", {"dtype": "video"})
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


@pytest.mark.parametrize("version", ["v2.0", "v3.1", None, 3])
def test_other_versions_are_refused(tmp_path: Path, version: object) -> None:
    folder = describe(write_lerobot(tmp_path), codebase_version=version)
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
    assert LEROBOT.detect(write_lerobot(tmp_path / "set"))
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text('{"fps": 3}')
    assert not LEROBOT.detect(tmp_path)


def test_pyarrow_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_lerobot(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'worldflow\[data\]'"):
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
        LEROBOT.open(describe(write_lerobot(tmp_path), **changes))


def test_damaged_lists_of_episodes(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "old", "v2.1")
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
    folder = write_lerobot(tmp_path / "new")
    path = folder / "meta" / "episodes" / "chunk-000" / "file-001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"file-001.parquet: no whole parquet file.*git lfs"):
        LEROBOT.open(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"meta: 2 episodes are listed"):
        LEROBOT.open(folder)


@pytest.mark.parametrize("field", ["data_path", "video_path"])
@pytest.mark.parametrize("way", ["..", "/etc", "link"])
def test_paths_out_of_the_folder_are_not_followed(tmp_path: Path, field: str, way: str) -> None:
    folder = write_lerobot(tmp_path / "set", "v2.1")
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
    folder = write_lerobot(tmp_path / "set", "v2.1")
    feature(folder, CAMERA, None)
    feature(folder, "../../../x", {"dtype": "video"})
    with pytest.raises(DataError, match="leads out of the data folder"):
        LEROBOT.open(folder).open(0)
