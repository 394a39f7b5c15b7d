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

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parents[1] / "benchmarks"), str(HERE)]


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


@pytest.fixture
def captioned(tmp_path: Path) -> EpisodeDataset:
    """Ten episodes of what their captions say, one too short, one without a caption."""
    from squares import CAPTIONS, squares  # the path is set above

    rng = np.random.default_rng(0)
    metadata = DatasetMetadata({}, ActionSpec("discrete", n=3), (32, 32, 3), 8.0, 0, {})
    writer = EpisodeWriter(tmp_path / "data", metadata)
    for index in range(10):
        length, caption = (2 if index == 0 else 5), CAPTIONS[index % 4]
        episode = Episode(
            squares(caption, rng, length),
            np.zeros(length, np.int64),
            np.zeros(length, np.float32),
            np.zeros(length, np.bool_),
            np.ones(length, np.bool_),
            index,
            False,
            caption=None if index == 1 else caption,
        )
        writer.add(index, episode)
    return EpisodeDataset(tmp_path / "data")
