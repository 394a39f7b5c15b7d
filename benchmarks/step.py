"""Env steps per second of a world, whole steps as an agent sees them, on this machine.

    python benchmarks/step.py world=runs/takecover/world
    python benchmarks/step.py world=catch rows=[1,16] steps=300

Resets are not timed, nor are the first steps of the process, which are several times slower. Run it
with nothing else on the machine; the frames per second are those of the median step.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldflow.errors import WorldflowError
from worldflow.storage import load_world
from worldflow.world_model import WorldModel


@dataclass
class StepBenchmark:
    """Settings.

    Attributes:
        world: a world's name or folder.
        rows: sizes of the batches to time.
        steps: timed steps of each.
        warmup: steps before them.
        seed: of the episodes and of the actions.
    """

    world: str = MISSING
    rows: list[int] = field(default_factory=lambda: [1, 16])
    steps: int = 200
    warmup: int = 20
    seed: int = 0


def time_steps(
    world: WorldModel, rows: int, settings: StepBenchmark
) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of each env step (steps,), and mean passes of each block (blocks,)."""
    env = gym.make_vec(
        "StarFlowWorld-v0",
        num_envs=rows,
        world=world,
        horizon=10**9,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    env.reset(seed=settings.seed)
    env.action_space.seed(settings.seed)
    milliseconds, passes = [], []
    for _ in range(settings.warmup + settings.steps):
        actions = env.action_space.sample()
        started = time.perf_counter()
        _, _, terminated, _, info = env.step(actions)
        milliseconds.append(1e3 * (time.perf_counter() - started))
        passes.append(info["jacobi_iterations"].mean(axis=0))
        if terminated.any():
            env.reset(options={"reset_mask": terminated})
    env.close()
    return np.array(milliseconds[settings.warmup :]), np.mean(passes[settings.warmup :], axis=0)


def main() -> None:
    """Read the settings, time, print a table in Markdown."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(StepBenchmark), OmegaConf.from_cli())
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        sys.exit(f"benchmarks/step.py: {str(error).splitlines()[0]}")
    assert isinstance(settings, StepBenchmark)
    try:
        world = load_world(settings.world)
    except WorldflowError as error:
        sys.exit(f"benchmarks/step.py: {error}")
    print(f"{settings.world}: {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| rows | frames/s | p50 ms | p95 ms | p99 ms | passes: global, local blocks |")
    print("| --- | --- | --- | --- | --- | --- |")
    for rows in settings.rows:
        times, passes = time_steps(world, rows, settings)
        p50, p95, p99 = np.percentile(times, [50, 95, 99])
        blocks = ", ".join(f"{count:.1f}" for count in passes)
        speed = rows * 1e3 / p50
        print(f"| {rows} | {speed:.1f} | {p50:.1f} | {p95:.1f} | {p99:.1f} | {blocks} |")


if __name__ == "__main__":
    main()
