"""A dataset and a training that take seconds; for tests and for the processes that they start."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.testing import tiny_config
from worldflow.training.codec_stage import CodecTraining
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.pretrain import DataConfig, PretrainConfig, TrainingConfig

SIZE = 32


def write_dataset(folder: Path, spec: ActionSpec, episodes: int = 6) -> None:
    """A square that the action moves left and right; reward is where it is; ends at frame 7."""
    metadata = DatasetMetadata({"env_id": "none"}, spec, (SIZE, SIZE, 3), 8.0, 0, {})
    writer = EpisodeWriter(folder, metadata)
    rng = np.random.default_rng(0)
    for index in range(episodes):
        length = 8
        frames = np.zeros((length, SIZE, SIZE, 3), np.uint8)
        moves = rng.integers(0, 3, length)
        position = 8
        for t in range(length):
            position = int(np.clip(position + 4 * (moves[t] - 1) * (t > 0), 0, 24))
            frames[t, 8:16, position : position + 8] = 255
        actions = moves.astype(np.int64)
        if spec.kind == "box":
            actions = (moves - 1.0).astype(np.float32)[:, None]
        elif spec.kind == "none":
            actions = np.zeros(length, np.int64)
        actions[0] = 0
        rewards = np.linspace(0, 1, length, dtype=np.float32)
        terminated = np.arange(length) == length - 1
        known = np.ones(length, np.bool_)
        writer.add(index, Episode(frames, actions, rewards, terminated, known, index, False))


def tiny_pretraining(data: Path, out: Path) -> PretrainConfig:
    return PretrainConfig(
        data=DataConfig(path=str(data), held_out=0.34),
        world=tiny_config(context=1),
        training=TrainingConfig(
            checkpoint_every=1,
            codec=CodecTraining(steps=5, batch=4, validate_every=5, warmup=2),
            flow=FlowTraining(steps=7, batch=4, clip=4, validate_every=4, warmup=2),
        ),
        out=str(out),
    )
