"""What an update of pretraining costs on this machine: tables in Markdown.

    python benchmarks/train.py world=small training=default
    python benchmarks/train.py data=runs/data world=small updates=20 out=train.json

The settings are those of `worldflow pretrain` and a few more (`TrainBenchmark`). Without `data` the
episodes are random pixels and actions of a 64 x 64 game, since the time does not depend on what is
seen. Updates run in the loop of pretraining itself; nothing of them is kept.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from score_cost import score_cost
from timing import check_out, machine, note, print_table, write_figures
from updates import time_codec_updates, time_flow_updates

from worldflow.actions import ActionSpec
from worldflow.config import load_config
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.data.splitting import split
from worldflow.errors import ConfigError, WorldflowError
from worldflow.training.codec_stage import CodecStage
from worldflow.training.flow_stage import FlowStage
from worldflow.training.initial import with_heads
from worldflow.training.latents import LatentEpisodes
from worldflow.training.pretrain import PretrainConfig
from worldflow.world_model import WorldModel
from worldflow.world_spec import HeldOut, WorldSpec

EPISODES, FRAMES = 4, 200


@dataclass
class TrainBenchmark(PretrainConfig):
    """Settings: those of pretraining, `out` apart.

    Attributes:
        updates: timed updates of each stage, and rounds of the comparison of score targets.
        warmup: updates and rounds before them.
        out: JSON file for the same figures; none if empty.
    """

    updates: int = 10
    warmup: int = 2
    out: str = ""

    def __post_init__(self) -> None:
        if self.updates < 1 or self.warmup < 0:
            raise ConfigError(
                f"updates={self.updates} must be positive, warmup={self.warmup} not negative"
            )


def random_episodes(folder: Path, seed: int) -> None:
    """Write a dataset of noise: 64 x 64 frames, two actions, rewards, no ends."""
    spec, rng = ActionSpec("discrete", n=2), np.random.default_rng(seed)
    writer = EpisodeWriter(folder, DatasetMetadata({}, spec, (64, 64, 3), 8.0, seed, {}))
    for index in range(EPISODES):
        episode = Episode(
            frames=rng.integers(0, 256, (FRAMES, 64, 64, 3), dtype=np.uint8),
            actions=rng.integers(0, spec.n, FRAMES),
            rewards=rng.random(FRAMES, dtype=np.float32),
            terminated=np.zeros(FRAMES, dtype=np.bool_),
            known=np.ones(FRAMES, dtype=np.bool_),
            seed=index,
            truncated=True,
        )
        writer.add(index, episode)


def measure(config: TrainBenchmark, data: Path, folder: Path) -> dict[str, Any]:
    """Measure and print everything; returns the figures.

    Args:
        data: folder of a dataset.
        folder: where the loop may write.
    """
    dataset, training = EpisodeDataset(data), config.training
    seed, updates, warmup = training.seed, config.updates, config.warmup
    train, held_out = split(dataset.recordings, config.data.held_out, seed, dataset.lengths)
    spec = WorldSpec(
        action_spec=dataset.action_spec,
        frame_shape=dataset.frame_shape,
        fps=dataset.metadata.fps,
        source={},
        reward_range=(0.0, 1.0),
        held_out=HeldOut(config.data.held_out, seed, len(dataset)),
    )
    torch.manual_seed(seed)
    world = WorldModel(with_heads(config.world, dataset.metadata), spec)

    note("timing the codec's updates ...")
    codec = CodecStage(world, training.codec, dataset, train, held_out, seed)
    stages = [time_codec_updates(codec, folder / "codec", updates, warmup)]
    world.codec.eval().requires_grad_(False)
    note("timing the flow's updates ...")
    episodes = LatentEpisodes(world.codec, dataset, folder / "latents")
    flow = FlowStage(world, training.flow, episodes, dataset, train, held_out, seed)
    stages.append(time_flow_updates(flow, folder / "flow", updates, warmup))
    note("timing the score target ...")
    score = score_cost(flow, updates, warmup)

    print_table("One update; parts are medians.", [stage.whole for stage in stages])
    for stage in stages:
        print_table(f"Where the time of an update of the {stage.name} stage goes.", stage.parts)
    print_table("The flow's forward and backward pass, without and with the score.", score)
    return {
        "updates": [stage.whole for stage in stages],
        "parts": {stage.name: stage.parts for stage in stages},
        "score_target": score,
    }


def main() -> None:
    """Read the settings, measure, print, write."""
    try:
        # what configs/pretrain.yaml says of both is not meant here
        config = load_config("pretrain", TrainBenchmark, ["data=", "out=", *sys.argv[1:]])
        check_out(config.out)
        facts = {"machine": machine(), "settings": asdict(config)}
        about = ", ".join(f"{key} {value}" for key, value in facts["machine"].items())
        print(f"{config.data.path or 'random data'}: {about}")
        with TemporaryDirectory() as temporary:
            data, folder = Path(config.data.path), Path(temporary)
            if not config.data.path:
                data = folder / "data"
                random_episodes(data, config.training.seed)
            figures = measure(config, data, folder)
        write_figures(config.out, {**facts, **figures})
    except WorldflowError as error:
        sys.exit(f"benchmarks/train.py: {error}")


if __name__ == "__main__":
    main()
