"""A small dataset of our own whose every number is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeWriter
from worldflow.data.metadata import DatasetMetadata


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """Makes a dataset: in episode e, frame t is filled with 20 e + t; the action is (e + t) % 3."""

    def make(
        name: str = "store",
        lengths: tuple[int, ...] = (6, 4, 5),
        size: int = 16,
        spec: ActionSpec | None = None,
        rewards: bool = True,
        known: bool = True,
    ) -> Path:
        spec = spec or ActionSpec("discrete", n=3)
        metadata = DatasetMetadata(
            source={"env_id": "none"},
            action_spec=spec,
            frame_shape=(size, size, 3),
            fps=10.0,
            seed=0,
            collect={},
            has_rewards=rewards,
            has_terminations=rewards,
        )
        writer = EpisodeWriter(tmp_path / name, metadata)
        for e, length in enumerate(lengths):
            steps = np.arange(length)
            frames = np.broadcast_to((20 * e + steps)[:, None, None, None], (length, size, size, 3))
            actions = np.zeros((length, *spec.shape), spec.dtype)
            if spec.kind == "discrete":
                actions[1:] = (e + steps[1:]) % spec.n
            elif spec.kind == "box":
                actions[1:] = 0.25 * (steps[1:, None] % 4)
            writer.add(
                e,
                Episode(
                    frames=frames.astype(np.uint8),
                    actions=actions,
                    rewards=(0.5 * steps if rewards else 0.0 * steps).astype(np.float32),
                    terminated=(steps == length - 1) & rewards,
                    known=(steps > 0) & known,
                    seed=0,
                    truncated=False,
                ),
            )
        return tmp_path / name

    return make
