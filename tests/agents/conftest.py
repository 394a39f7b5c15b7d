"""Worlds on disk, tiny real games, and the settings of a training that takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from worldflow.actions import ActionSpec
from worldflow.agents.algorithms import AgentConfig
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.evaluation_config import EvaluationConfig
from worldflow.agents.train import TrainAgentConfig
from worldflow.envs.sources import SourceConfig
from worldflow.storage import save_world
from worldflow.testing import tiny_world

# Of rollouts of 8 steps in 2 envs, or as many of each env between two rounds of updates.
REPLAY = {"buffer_size": 64, "learning_starts": 8, "batch_size": 8, "gradient_steps": 1}
TINY: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 8, "batch_size": 16, "n_epochs": 1},
    "a2c": {"n_steps": 8},
    "dqn": REPLAY | {"train_freq": 8},
    "sac": REPLAY | {"train_freq": 8},
}


class SideEnv(gym.Env[np.ndarray, Any]):
    """One half of the picture is bright, left or right by chance; the right answer is that side.

    Four steps an episode. Discrete: reward 1 for action 0 (left) or 1 (right) where it is right, so
    that the best return is 4 and that of any one action 2. Continuous: reward 1 - |a - t| with
    t = -0.5 or 0.5, so that the best return is 4 and that of the best constant, 2.
    """

    metadata = {"render_modes": [], "render_fps": 8}  # noqa: RUF012

    def __init__(self, continuous: bool = False) -> None:
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space: spaces.Space = spaces.Discrete(2)
        if continuous:
            self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.continuous = continuous

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 4
        return self._show(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.continuous:
            reward = 1.0 - abs(float(action[0]) - (self.side - 0.5))
        else:
            reward = float(int(action) == self.side)
        self.left -= 1
        return self._show(), reward, self.left == 0, False, {}

    def _show(self) -> np.ndarray:
        self.side = int(self.np_random.integers(2))
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[:, 32 * self.side : 32 * (self.side + 1)] = 255
        return frame


@pytest.fixture(scope="session", autouse=True)
def _register() -> None:
    gym.register("test/Side-v0", entry_point=SideEnv)


@pytest.fixture
def side() -> Callable[[bool], SourceConfig]:
    """`SideEnv` as a source."""
    return lambda continuous: SourceConfig("test/Side-v0", {"continuous": continuous})


@pytest.fixture(scope="session")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved `tiny_world`, which calls Catch its source."""
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    save_world(tiny_world(), folder, "a tiny world\n")
    return folder


@pytest.fixture(scope="session")
def box_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved `tiny_world` of one continuous action, which calls `SideEnv` its source."""
    folder = tmp_path_factory.mktemp("worlds") / "box"
    world = tiny_world(ActionSpec("box", low=(-1.0,), high=(1.0,)))
    world.spec.source.update({"env_id": "test/Side-v0", "kwargs": {"continuous": True}})
    save_world(world, folder, "a tiny world of continuous actions\n")
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
        world: str | Path | None = world_folder,
        observation: str = "frames",
        algorithm: str = "ppo",
        hyperparameters: dict[str, Any] | None = None,
        dream: dict[str, Any] | None = None,
        **changes: Any,
    ) -> TrainAgentConfig:
        agent = AgentConfig(
            algorithm=algorithm,
            observation=observation,
            num_envs=num_envs,
            frame_stack=frame_stack,
            hyperparameters=TINY[algorithm] | {"features_dim": 16} | (hyperparameters or {}),
        )
        settings: dict[str, Any] = {"evaluation": EvaluationConfig(every=0), "checkpoint_steps": 16}
        return TrainAgentConfig(
            world=DreamConfig(
                None if world is None else str(world), **({"horizon": 5} | (dream or {}))
            ),
            agent=agent,
            total_steps=total_steps,
            out=str(tmp_path / out),
            seed=seed,
            resume=resume,
            device="cpu",
            progress=False,
            **settings | changes,
        )

    return make
