"""How fast recordings of every format are loaded, beside what training consumes: Markdown tables.

    python benchmarks/data.py world=small training=default
    python benchmarks/data.py data=recordings/ out=data.json

The settings are those of `worldflow pretrain` and a few more (`DataBenchmark`). Recordings are
imported once, and training reads what was imported; so the import from each format is measured,
what training reads, and updates of both stages. Without `data` the recordings are synthetic, in
every format (see `recordings.py`). All of it is done in turn in each round, so that a machine whose
speed drifts slows everything alike; figures are medians over the rounds. Files are in the cache of
the operating system.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from recordings import write_recordings
from timing import check_out, machine, note, print_table, timed, write_figures
from updates import StageFigures, time_codec_updates, time_flow_updates

from worldflow.config import load_config
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.formats.registry import open_recordings
from worldflow.data.importing import import_dataset
from worldflow.data.splitting import split
from worldflow.errors import ConfigError, WorldflowError
from worldflow.training.codec_frames import FramePairs
from worldflow.training.codec_stage import CodecStage
from worldflow.training.flow_stage import FlowStage
from worldflow.training.initial import with_heads
from worldflow.training.latents import LatentEpisodes
from worldflow.training.pretrain import PretrainConfig
from worldflow.world_model import WorldModel
from worldflow.world_spec import HeldOut, WorldSpec

SIZE = 64  # height and width of synthetic recordings


@dataclass
class DataBenchmark(PretrainConfig):
    """Settings: those of pretraining, `out` apart; `data.` says how recordings are imported.

    Attributes:
        episodes: of the synthetic recordings.
        frames: of each.
        large: height and width of the large synthetic videos.
        rounds: of everything, after one that is not counted.
        reads: batches of each stage that are read in a round.
        updates: of each stage in a round.
        warmup: updates before them.
        out: JSON file for the same figures; none if empty.
    """

    episodes: int = 4
    frames: int = 500
    large: list[int] = field(default_factory=lambda: [240, 320])
    rounds: int = 5
    reads: int = 50
    updates: int = 5
    warmup: int = 2
    out: str = ""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 2), ("frames", 2), ("rounds", 1), ("reads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be {least} or more")
        if self.updates < 1 or self.warmup < 0:
            raise ConfigError(
                f"updates={self.updates} must be positive, warmup={self.warmup} not negative"
            )
        if len(self.large) != 2 or any(side < 64 or side % 2 for side in self.large):
            raise ConfigError(f"large={self.large} must be two even sides of 64 pixels or more")


class Training:
    """Both stages of pretraining on an imported dataset, and what they read.

    Args:
        config: how, and how often.
        dataset: that they read.
        folder: where the loop may write.
    """

    def __init__(self, config: DataBenchmark, dataset: EpisodeDataset, folder: Path) -> None:
        training, self._config = config.training, config
        self._numbers, self._folder = count(), folder
        seed, self._rng = training.seed, np.random.default_rng(training.seed)
        parts = split(dataset.recordings, config.data.held_out, seed, dataset.lengths)
        trained, frozen = self._world(dataset), self._world(dataset)
        frozen.codec.eval().requires_grad_(False)
        self._codec = CodecStage(trained, training.codec, dataset, *parts, seed)
        self._pairs = FramePairs(dataset, parts[0], seed)
        self._latents = LatentEpisodes(frozen.codec, dataset, folder / "latents")
        self._flow = FlowStage(frozen, training.flow, self._latents, dataset, *parts, seed)

    def consumed(self) -> list[StageFigures]:
        """What the updates of each stage cost."""
        updates, warmup = self._config.updates, self._config.warmup
        folder = self._folder / f"round{next(self._numbers)}"
        folder.mkdir()
        figures = [
            time_codec_updates(self._codec, folder / "codec", updates, warmup),
            time_flow_updates(self._flow, folder / "flow", updates, warmup),
        ]
        shutil.rmtree(folder)
        return figures

    def read(self) -> list[float]:
        """Frames a second of the batches that each stage reads, one thread; a pair is a frame."""
        pairs, clips = self._pairs.clips, self._flow.train
        batch, flow = self._codec.config.batch, self._flow.config

        def read_pairs() -> None:
            self._pairs.read(pairs.sample(batch, self._rng), self._rng.random(batch) < 0.5)

        def read_clips() -> None:
            self._latents.batch(clips.sample(flow.batch, self._rng), flow.clip)

        return [self._rate(read_pairs, batch), self._rate(read_clips, flow.batch * flow.clip)]

    def _rate(self, read: Callable[[], object], frames: int) -> float:
        reads = self._config.reads
        return 1e3 * frames * reads / timed(lambda: [read() for _ in range(reads)])[1]

    def _world(self, dataset: EpisodeDataset) -> WorldModel:
        data, seed = self._config.data, self._config.training.seed
        spec = WorldSpec(
            action_spec=dataset.action_spec,
            frame_shape=dataset.frame_shape,
            fps=dataset.metadata.fps,
            source={},
            reward_range=(0.0, 1.0),
            held_out=HeldOut(data.held_out, seed, len(dataset)),
        )
        torch.manual_seed(seed)
        return WorldModel(with_heads(self._config.world, dataset.metadata), spec)


def measure(config: DataBenchmark, recordings: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Measure and print everything; returns the figures.

    Args:
        recordings: where they lie, by what they are called.
        folder: that is written to.
    """
    first = next(iter(recordings.values()))
    _import(config, first, folder / "data")
    training = Training(config, EpisodeDataset(folder / "data"), folder)
    imported: list[list[float]] = []
    read: list[list[float]] = []
    stages: list[list[StageFigures]] = []
    for index in range(config.rounds + 1):
        note(f"round {index} of {config.rounds} ..." if index else "the round to warm up ...")
        imported.append([_import(config, path, folder / "import") for path in recordings.values()])
        read.append(training.read())
        stages.append(training.consumed())

    speeds, reads = np.array(imported[1:]), np.array(read[1:])
    consumed = np.array([[s.whole["frames_per_second"] for s in both] for both in stages[1:]])
    waiting = np.array([[s.parts[0]["percent"] for s in both] for both in stages[1:]])
    names = [stage.name for stage in stages[0]]
    figures: dict[str, Any] = {
        "consumed": [
            {"stage": name, "frames_per_second": rate, "waiting_percent": share}
            for name, rate, share in zip(names, _median(consumed), _median(waiting), strict=True)
        ],
        "read": [
            {"stage": name, "reads": what, "frames_per_second": rate, "times_consumed": times}
            for name, what, rate, times in zip(
                names,
                ("pairs of frames", f"clips of latents, {config.training.flow.clip} frames"),
                _median(reads),
                _median(reads / consumed),
                strict=True,
            )
        ],
        "imported": [
            {"recordings": name, "frames_per_second": rate, "times_codec": codec, "times_flow": f}
            for name, rate, codec, f in zip(
                recordings,
                _median(speeds),
                _median(speeds / consumed[:, :1]),
                _median(speeds / consumed[:, 1:]),
                strict=True,
            )
        ],
    }
    print_table("What training consumes, and its wait for batches.", figures["consumed"])
    print_table("What its batches are read at, by one thread.", figures["read"])
    print_table("What is imported, and over what training consumes.", figures["imported"])
    return figures


def _recordings(config: DataBenchmark, folder: Path) -> dict[str, Path]:
    """Where recordings lie, the user's or synthetic ones, by what they are called."""
    if config.data.path:
        path = Path(config.data.path)
        return {open_recordings(path, config.data.format).format: path}
    note("writing recordings ...")
    height, width = config.large
    return write_recordings(folder, config.episodes, config.frames, (SIZE, SIZE), (height, width))


def _import(config: DataBenchmark, path: Path, target: Path) -> float:
    """Import recordings to `target`, in place of what lies there; frames a second."""
    shutil.rmtree(target, ignore_errors=True)

    def run() -> int:
        raw = open_recordings(path, config.data.format)
        return sum(each.frames for each in import_dataset(raw, target, config.data, progress=False))

    frames, spent = timed(run)
    return 1e3 * frames / spent


def _median(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.median(values, axis=0)]


def main() -> None:
    """Read the settings, measure, print, write."""
    try:
        # what configs/pretrain.yaml says of both is not meant here
        config = load_config("pretrain", DataBenchmark, ["data=", "out=", *sys.argv[1:]])
        check_out(config.out)
        facts = {"machine": machine(), "settings": asdict(config)}
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            recordings = _recordings(config, folder / "recordings")
            about = ", ".join(f"{key} {value}" for key, value in facts["machine"].items())
            print(f"{config.data.path or 'synthetic recordings'}: {about}")
            figures = measure(config, recordings, folder)
        write_figures(config.out, {**facts, **figures})
    except WorldflowError as error:
        sys.exit(f"benchmarks/data.py: {error}")


if __name__ == "__main__":
    main()
