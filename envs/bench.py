"""`worldflow bench`: steps per second of a world as a Gymnasium environment."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np

from worldflow.config import load_config
from worldflow.errors import ConfigError
from worldflow.storage import load_world
from worldflow.testing import tiny_world
from worldflow.training.pretrain import PretrainConfig
from worldflow.world_model import WorldModel


@dataclass
class BenchWorld:
    """Which world.

    Attributes:
        path: a world's name or folder.
        config: without a path, a file of `configs/world/`, with random weights. A trained world
            needs other numbers of Jacobi passes than a random one.
    """

    path: str | None = None
    config: str = "small"


@dataclass
class BenchConfig:
    """Settings of `worldflow bench`.

    Attributes:
        world: the world.
        rows: sizes of the batches to time.
        steps: timed steps of each.
        warmup: steps before the clock starts: the first of a process are several times slower.
        seed: of the episodes and of the actions.
    """

    world: BenchWorld = field(default_factory=BenchWorld)
    rows: list[int] = field(default_factory=lambda: [1, 16])
    steps: int = 100
    warmup: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rows or min(self.rows) < 1:
            raise ConfigError(f"steps={self.steps} and rows={self.rows} must be at least 1")


def frames_per_second(
    world: WorldModel, rows: int, steps: int, warmup: int, seed: int
) -> tuple[float, list[float]]:
    """Time whole env steps under random actions, resets left out.

    Returns:
        frames a second over all rows, and the mean Jacobi passes of each block.
    """
    env = gym.make_vec("StarFlowWorld-v0", num_envs=rows, world=world, horizon=steps + warmup + 1)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    passes, started = [], 0.0
    for step in range(warmup + steps):
        if step == warmup:
            started = time.perf_counter()
        info = env.step(env.action_space.sample())[4]
        if step >= warmup:
            passes.append(info["jacobi_iterations"].mean(axis=0))
    speed = rows * steps / (time.perf_counter() - started)
    env.close()
    return speed, np.mean(passes, axis=0).tolist()


def main(config: BenchConfig) -> None:
    """The command `worldflow bench`."""
    if config.world.path is None:
        overrides = [f"world={config.world.config}", "data=none", "out=none"]
        settings = load_config("pretrain", PretrainConfig, overrides)
        world = tiny_world(config=settings.world)
        print(f"world: configs/world/{config.world.config}.yaml, random weights")
    else:
        world = load_world(config.world.path)
        print(f"world: {config.world.path}")
    print(f"{'rows':>6}{'frames/s':>12}   Jacobi passes of {world.tokens}: global, then local")
    for rows in config.rows:
        speed, passes = frames_per_second(world, rows, config.steps, config.warmup, config.seed)
        print(f"{rows:>6}{speed:>12.1f}   {', '.join(f'{value:.1f}' for value in passes)}")
