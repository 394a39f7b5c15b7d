"""The benchmarks are scripts: their folder is on the path, as when they are run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture
def dataset(tmp_path: Path) -> EpisodeDataset:
    """Ten episodes of sixteen frames of noise with three actions, in the folder `data`."""
    rng = np.random.default_rng(0)
    metadata = DatasetMetadata({}, ActionSpec("discrete", n=3), (64, 64, 3), 8.0, 0, {})
    writer = EpisodeWriter(tmp_path / "data", metadata)
    for index in range(10):
        episode = Episode(
            frames=rng.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8),
            actions=rng.integers(0, 3, 16),
            rewards=np.zeros(16, np.float32),
            terminated=np.zeros(16, np.bool_),
            known=np.arange(16) > 0,
            seed=index,
            truncated=True,
        )
        writer.add(index, episode)
    return EpisodeDataset(tmp_path / "data")
