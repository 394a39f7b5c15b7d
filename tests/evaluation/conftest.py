"""Datasets whose frames tell where they are from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata

SIZE = 32
DISCRETE = ActionSpec("discrete", n=3)


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., EpisodeDataset]:
    """Makes a dataset whose frames tell where they are from: (episode, frame, 0) in every pixel."""

    def make(
        lengths: list[int],
        spec: ActionSpec = DISCRETE,
        size: int = SIZE,
        captions: Sequence[str | None] = (),
    ) -> EpisodeDataset:
        folder = tmp_path / "data"
        metadata = DatasetMetadata({}, spec, (size, size, 3), 8.0, 0, {})
        writer = EpisodeWriter(folder, metadata)
        for index, length in enumerate(lengths):
            frames = np.zeros((length, size, size, 3), np.uint8)
            frames[..., 0] = index
            frames[..., 1] = np.arange(length)[:, None, None]
            actions = np.zeros((length, *spec.shape), spec.dtype)
            if spec.kind == "discrete":
                actions[1:] = np.arange(length - 1) % 3
            ended = np.arange(length) == length - 1
            rewards = np.zeros(length, np.float32)
            known = np.ones(length, np.bool_)
            said = captions[index] if captions else None
            episode = Episode(frames, actions, rewards, ended, known, 0, False, caption=said)
            writer.add(index, episode)
        return EpisodeDataset(folder)

    return make
