"""Recordings of moving things in every format that is read, written as their own tools write them.

A smooth ground scrolls and squares move over it: neither noise, which codecs are not made for, nor
a still picture, which costs them nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from worldflow.actions import ActionSpec
from worldflow.data.episodes import Episode
from worldflow.data.metadata import DatasetMetadata
from worldflow.data.writing import WRITERS
from worldflow.errors import ConfigError

FPS = 10
ACTIONS = ActionSpec("discrete", n=4)
THINGS = 6
CAMERA = "observation.images.front"


def write_recordings(
    folder: Path, episodes: int, frames: int, size: tuple[int, int], large: tuple[int, int]
) -> dict[str, Path]:
    """Write the same episodes in every format, and as videos of a large size, too.

    Args:
        folder: that is written to.
        episodes: how many.
        frames: of each.
        size: height and width.
        large: those of the large videos; even, as their colours are stored at half the size.

    Returns:
        for each kind of recordings the path that is opened.

    Raises:
        ConfigError: h5py, pyarrow or Minari is not installed.
    """
    written = {}
    for (height, width), kinds in ((size, (*ARRAYS, *VIDEOS)), (large, VIDEOS)):
        made = [moving_episode(frames, height, width, seed) for seed in range(episodes)]
        for kind in kinds:
            name = f"{kind}, {height} x {width}"
            target = folder / name.replace(" ", "_")
            target.mkdir(parents=True)
            written[name] = {**ARRAYS, **VIDEOS}[kind](target, made)
    return written


def moving_episode(frames: int, height: int, width: int, seed: int) -> Episode:
    """An episode of random actions and rewards, cut by a time limit; the seed decides it all."""
    rng = np.random.default_rng(seed)
    known = np.arange(frames) > 0
    return Episode(
        frames=_moving_frames(frames, height, width, rng),
        actions=rng.integers(0, ACTIONS.n, frames) * known,
        rewards=rng.random(frames, dtype=np.float32) * known,
        terminated=np.zeros(frames, dtype=np.bool_),
        known=known,
        seed=seed,
        truncated=True,
    )


def _moving_frames(count: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(count, height, width, 3) uint8."""
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    ground = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    frames = np.stack([np.roll(ground, t // 2, axis=1) for t in range(count)])
    side = height // 8
    for _ in range(THINGS):
        colour = rng.integers(0, 256, 3, dtype=np.uint8)
        place, speed = rng.uniform(0.0, 1.0, 2), rng.uniform(-0.03, 0.03, 2)
        for t in range(count):
            there = np.abs((place + t * speed + 1.0) % 2.0 - 1.0)  # to an edge, and back
            top, left = (there * (height - side, width - side)).astype(int)
            frames[t, top : top + side, left : left + side] = colour
    return frames


def _with(kind: str) -> Callable[[Path, Sequence[Episode]], Path]:
    """Writes what `worldflow data convert` writes."""

    def write(folder: Path, episodes: Sequence[Episode]) -> Path:
        shape = episodes[0].frames.shape[1:]
        writer = WRITERS[kind](folder, DatasetMetadata({}, ACTIONS, shape, FPS, 0, {}))
        for index, episode in enumerate(episodes):
            writer.add(index, episode)
        return folder

    return write


def _minari(folder: Path, episodes: Sequence[Episode]) -> Path:
    try:
        import minari
        from gymnasium import spaces
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise ConfigError(
            "Minari's recordings are written by Minari: pip install 'worldflow[test]', or measure "
            "recordings of your own: data=PATH"
        ) from error
    os.environ["MINARI_DATASETS_PATH"] = str(folder)  # it writes nowhere else
    buffers = [
        EpisodeBuffer(
            observations=episode.frames,
            actions=episode.actions[1:],
            rewards=list(episode.rewards[1:]),
            terminations=list(episode.terminated[1:]),
            truncations=[*episode.terminated[2:], True],
        )
        for episode in episodes
    ]
    minari.create_dataset_from_buffers(
        "moving/things-v0",
        buffers,
        observation_space=spaces.Box(0, 255, episodes[0].frames.shape[1:], np.uint8),
        action_space=spaces.Discrete(ACTIONS.n),
    )
    return folder / "moving" / "things-v0"


def _h264(folder: Path, episodes: Sequence[Episode]) -> Path:
    for index, episode in enumerate(episodes):
        path = folder / f"{index:06d}.mp4"
        _encode(path, [episode], "libx264")
        np.savez(path.with_suffix(".npz"), actions=episode.actions[1:])
    return folder


def _lerobot(folder: Path, episodes: Sequence[Episode]) -> Path:
    """A LeRobotDataset 3.0: one file of data, one video, a row group an episode."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError("LeRobot's recordings need pip install 'worldflow[data]'") from error
    place, listed, tables, first = "chunk-000/file-000", [], [], 0
    for index, episode in enumerate(episodes):
        steps = np.arange(len(episode))
        columns = {
            "action": episode.actions[:, None].astype(np.float32).tolist(),
            "timestamp": (steps / FPS).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(episode), index),
            "index": first + steps,
            "task_index": 0 * steps,
        }
        tables.append(pa.table(columns))
        where = {"chunk_index": 0, "file_index": 0}
        span = {
            "from_timestamp": first / FPS,
            "to_timestamp": (first + len(episode)) / FPS,
        }
        entry: dict[str, Any] = {"episode_index": index, "length": len(episode)}
        entry |= {f"data/{key}": value for key, value in where.items()}
        entry |= {f"videos/{CAMERA}/{key}": value for key, value in {**where, **span}.items()}
        listed.append(entry)
        first += len(episode)
    for path, parts in (("data", tables), ("meta/episodes", [pa.Table.from_pylist(listed)])):
        file = folder / path / f"{place}.parquet"
        file.parent.mkdir(parents=True)
        with pq.ParquetWriter(file, parts[0].schema) as writer:
            for part in parts:
                writer.write_table(part)
    features = {name: {"dtype": str(tables[0][name].type)} for name in tables[0].column_names}
    template = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    about = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": len(episodes),
        "data_path": f"data/{template}.parquet",
        "video_path": f"videos/{{video_key}}/{template}.mp4",
        "features": {**features, CAMERA: {"dtype": "video"}},
    }
    (folder / "meta" / "info.json").write_text(json.dumps(about))
    # as lerobot encodes by default
    video = folder / "videos" / CAMERA / f"{place}.mp4"
    video.parent.mkdir(parents=True)
    _encode(video, episodes, "libsvtav1", g="2", crf="30", preset="12")
    return folder


def _encode(path: Path, episodes: Iterable[Episode], codec: str, **options: str) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = None
        for episode in episodes:
            if stream is None:
                stream = container.add_stream(codec, rate=FPS, options=options)
                stream.height, stream.width = episode.frames.shape[1:3]
                stream.pix_fmt = "yuv420p"
            for pixels in episode.frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


Recorder = Callable[[Path, Sequence[Episode]], Path]
ARRAYS: dict[str, Recorder] = {
    "store": _with("store"),
    "npz": _with("npz"),
    "hdf5": _with("hdf5"),
    "minari, JPEG": _minari,
}
VIDEOS: dict[str, Recorder] = {
    "video, FFV1": _with("video"),
    "video, H.264": _h264,
    "lerobot, AV1": _lerobot,
}
