"""LeRobotDatasets 2.1 and 3.0 of known content, as lerobot lays them out."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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


def write_lerobot(
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
