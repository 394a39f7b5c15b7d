"""A world on disk and the settings of a training that takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from worldflow.agents.algorithms import AgentConfig, PPOConfig
from worldflow.agents.evaluation_config import EvaluationConfig
from worldflow.agents.saved import DreamConfig
from worldflow.agents.train import TrainAgentConfig
from worldflow.storage import save_world
from worldflow.testing import tiny_world


@pytest.fixture(scope="session")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved `tiny_world`, which calls Catch its source."""
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    save_world(tiny_world(), folder, "a tiny world\n")
    return folder


@pytest.fixture
def quick(world_folder: Path, tmp_path: Path) -> Callable[..., TrainAgentConfig]:
    """Settings of a training of two rollouts of 16 steps, with changes."""

    def make(
        total_steps: int = 32,
        resume: bool = True,
        seed: int = 0,
        frame_stack: int = 1,
        out: str = "agent",
        num_envs: int = 2,
        world: str | Path = world_folder,
        observation: str = "frames",
    ) -> TrainAgentConfig:
        ppo = PPOConfig(n_steps=8, batch_size=16, n_epochs=1, features_dim=16)
        agent = AgentConfig(
            observation=observation,
            num_envs=num_envs,
            frame_stack=frame_stack,
            hyperparameters=ppo,
        )
        return TrainAgentConfig(
            world=DreamConfig(str(world), horizon=5),
            agent=agent,
            total_steps=total_steps,
            out=str(tmp_path / out),
            seed=seed,
            evaluation=EvaluationConfig(every=0),
            checkpoint_steps=16,
            resume=resume,
            device="cpu",
            progress=False,
        )

    return make
