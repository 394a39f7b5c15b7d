"""What memory holds depends on the longest episode, not on how much there is.

A set ten times the memory cannot be written here, so memory is given a tenth of the set.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from worldflow.actions import ActionSpec
from worldflow.codec import Codec, CodecConfig
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.formats.base import RawEpisode, RawFrame
from worldflow.data.formats.registry import open_recordings
from worldflow.data.importing import ImportConfig, import_dataset
from worldflow.data.windows import ClipSampler
from worldflow.data.writing import WRITERS
from worldflow.training.latents import LatentEpisodes

SIZE = 64
FRAME = SIZE * SIZE * 3  # bytes
RECORDING = 3000  # frames
LATENT = 16 * 32 * 4  # bytes of a frame: 16 tokens of 32 channels in float32
BATCHES = 100


class Generated:
    """Recordings that are made when they are read, so that they need no disk."""

    format, alignment, fps, lossy = "generated", "led_to", 10.0, None
    action_spec = ActionSpec("discrete", n=3)
    source = {"path": "generated"}  # noqa: RUF012

    def __init__(self, recordings: int, frames: int = RECORDING) -> None:
        self.names = [f"recording {index}" for index in range(recordings)]
        self._frames = frames

    def open(self, index: int) -> RawEpisode:
        steps = np.arange(self._frames)
        return RawEpisode(
            name=self.names[index],
            read=partial(self._read, index),
            frames=self._frames,
            actions=steps % 3,
            rewards=np.zeros(self._frames, np.float32),
            terminated=np.zeros(self._frames, np.bool_),
        )

    def _read(self, index: int) -> Iterator[RawFrame]:
        first = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        for t in range(self._frames):
            yield RawFrame(t / self.fps, first + np.uint8(t % 256))


class WatchedCodec(Codec):
    """A codec that notes how much memory there is after each call."""

    def __init__(self) -> None:
        super().__init__(CodecConfig(channels=32, widths=[8, 8, 8, 8]), (SIZE, SIZE))
        self.eval().requires_grad_(False)
        self.seen: list[int] = []

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        latents = super().encode_frames(frames)
        self.seen.append(memory("RssAnon"))
        return latents


def memory(field: str) -> int:
    """Bytes of this process: VmHWM, the most there ever were; RssAnon, without mapped files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(rf"{field}:\s+(\d+) kB", status)[0])


def import_and_draw(folder: Path, recordings: int, segment: int) -> dict[str, int]:
    """How much memory grows, in bytes, while recordings are imported, then encoded and drawn.

    "later" is by how much the second half of the latter takes more than the first.
    """
    torch.set_num_threads(1)
    config = ImportConfig(segment=segment)
    import_dataset(Generated(1, 8), folder / "small", config, progress=False)  # loads all code
    before = memory("VmHWM")
    import_dataset(Generated(recordings), folder / "large", config, progress=False)
    imported = memory("VmHWM") - before

    dataset, codec = EpisodeDataset(folder / "large"), WatchedCodec()
    episodes = LatentEpisodes(codec, dataset, folder / "latents")
    sampler = ClipSampler(dataset.lengths, range(len(dataset)), clip=20, over_end=True)
    rng = np.random.default_rng(0)
    for _ in range(BATCHES):
        episodes.batch(sampler.sample(8, rng), 20)
        codec.seen.append(memory("RssAnon"))
    half = len(codec.seen) // 2
    return {
        "frames": int(dataset.lengths.sum()),
        "episodes": len(dataset),
        "latents": (folder / "latents" / "latents.bin").stat().st_size,
        "imported": imported,
        "encoded_and_drawn": max(codec.seen) - codec.seen[0],
        "later": max(codec.seen[half:]) - max(codec.seen[:half]),
    }


def measured(folder: Path, recordings: int, segment: int) -> dict[str, int]:
    """`import_and_draw` in a process of its own."""
    command = [sys.executable, __file__, str(folder), str(recordings), str(segment)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from /proc"
)


@needs_proc
def test_a_tenth_of_a_set_is_never_held(tmp_path: Path) -> None:
    segment, recordings = 500, 16
    grown = measured(tmp_path, recordings, segment)
    whole = FRAME * RECORDING * recordings
    assert grown["frames"] >= RECORDING * recordings
    assert grown["latents"] == LATENT * grown["frames"]
    assert grown["imported"] < whole / 10
    assert grown["encoded_and_drawn"] < whole / 10
    assert grown["later"] < grown["latents"] / 10


@needs_proc
def test_an_episode_is_what_is_held(tmp_path: Path) -> None:
    """The rule of docs/data.md; and what is held is seen by the measurement."""
    grown = measured(tmp_path, recordings=2, segment=RECORDING)
    assert grown["episodes"] == 2
    assert 2 * FRAME * RECORDING < grown["imported"] < 5 * FRAME * RECORDING


class Still(Generated):
    """Recordings of frames of one colour, which every format writes fast."""

    def _read(self, index: int) -> Iterator[RawFrame]:
        frame = np.full((SIZE, SIZE, 3), index, np.uint8)
        for t in range(self._frames):
            yield RawFrame(t / self.fps, frame)


def read_all(large: Path, small: Path) -> dict[str, int]:
    """How much memory grows, in bytes, while all frames of recordings of any format are read."""
    seen, count = [], 0
    for folder in (small, large):  # the first one loads all code
        raw, seen, count = open_recordings(folder), [memory("RssAnon")], 0
        for index in range(len(raw.names)):
            for _ in raw.open(index).read():
                count += 1
                if count % 50 == 0:
                    seen.append(memory("RssAnon"))
    return {"frames": count, "read": max(seen) - seen[0]}


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("kind", ["store", "npz", "hdf5", "video"])
def test_every_format_is_read_frame_by_frame(tmp_path: Path, kind: str) -> None:
    """A set ten times the memory that reading it may take, of two recordings."""
    frames = 12_000
    config = ImportConfig(segment=frames)
    for name, raw in (("small", Still(1, 200)), ("large", Still(2, frames))):
        import_dataset(raw, tmp_path / name, config, WRITERS[kind], progress=False)
    command = [sys.executable, __file__, "read", str(tmp_path / "large"), str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    assert grown["frames"] == 2 * frames
    cache = 2**26 if kind == "hdf5" else 0  # of chunks, whatever the size of the set
    assert grown["read"] - cache < 2 * frames * FRAME / 10


if __name__ == "__main__" and sys.argv[1] == "read":
    print(json.dumps(read_all(Path(sys.argv[2]), Path(sys.argv[3]))))
elif __name__ == "__main__":
    print(json.dumps(import_and_draw(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
