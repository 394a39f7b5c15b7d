"""Dreams stepped by the world itself: without an env nothing ends them, however long they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from timing import timed

from worldflow.envs.spaces import action_space
from worldflow.errors import ConfigError
from worldflow.world_model import WorldModel

EARLY = 10  # the step that a late one is compared with
WINDOW = 100  # steps that a median is over
SHORTEST = EARLY + 2  # of a long dream: an early and a late step that differ
STATM = Path("/proc/self/statm")


class Dream:
    """`rows` dreams under random actions, whose predicted ends are ignored."""

    def __init__(self, world: WorldModel, rows: int, seed: int) -> None:
        self.world = world
        contexts, rng = world.context, np.random.default_rng(seed)
        picks = rng.integers(len(contexts.frames), size=rows)
        self._generator = torch.Generator().manual_seed(seed)
        self._actions = batch_space(action_space(world.action_spec), rows)
        self._actions.seed(seed)
        self.state = world.initial_state(
            torch.from_numpy(contexts.frames[picks]),
            torch.from_numpy(contexts.actions[picks]),
            self._generator,
        )

    def action(self) -> torch.Tensor:
        """Random actions (rows, ...)."""
        return torch.from_numpy(self._actions.sample())

    def step(self) -> np.ndarray:
        """Dream and decode a frame of each row: mean passes of each block, (blocks,)."""
        self.state, prediction = self.world.step(self.state, self.action(), self._generator)
        assert prediction.frame.dtype == torch.uint8  # decoding is lazy: ask for it
        return prediction.jacobi_iterations.double().mean(dim=0).numpy()


def long_dream(world: WorldModel, steps: int, seed: int) -> dict[str, Any]:
    """The first steps of one dream, its last ones, and those of a fresh one in turn with the last.

    Args:
        steps: length of the dream.

    Returns:
        rows of a table, and the median ratio of a late step to the fresh dream's beside it.
    """
    window = min(WINDOW, (steps - EARLY) // 2)
    dream, fresh = Dream(world, 1, seed), Dream(world, 1, seed)
    early: list[tuple[float, np.ndarray]] = []
    late: list[tuple[float, np.ndarray]] = []
    beside: list[tuple[float, np.ndarray]] = []
    for step in range(steps - window):
        passes, cost = timed(dream.step)
        if EARLY <= step < EARLY + window:
            early.append((cost, passes))
    for _ in range(EARLY):
        fresh.step()
    for _ in range(window):
        for stepped, costs in ((dream, late), (fresh, beside)):
            passes, cost = timed(stepped.step)
            costs.append((cost, passes))
    ratios = [a / b for (a, _), (b, _) in zip(late, beside, strict=True)]
    return {
        "rows": [
            _window("the dream, early", EARLY, early),
            _window("the dream, late", steps - window, late),
            _window("a fresh dream, in turn with the late steps", EARLY, beside),
        ],
        "late_to_fresh": float(np.median(ratios)),
    }


def _window(name: str, first: int, costs: list[tuple[float, np.ndarray]]) -> dict[str, Any]:
    return {
        "dream": name,
        "steps": f"{first} to {first + len(costs) - 1}",
        "p50_ms": float(np.median([cost for cost, _ in costs])),
        "passes": np.mean([passes for _, passes in costs], axis=0).tolist(),
    }


def memory(world: WorldModel, steps: int, seed: int) -> list[dict[str, Any]]:
    """Resident memory of the process after 1,000 steps (half of a short dream) and at the end."""
    dream, early = Dream(world, 1, seed), min(1000, max(steps // 2, 1))
    rows = []
    for step in range(1, steps + 1):
        dream.step()
        if step in (early, steps):
            rows.append({"after_steps": step, "resident_mib": resident_mib()})
    return rows


def require_memory() -> None:
    """Raises ConfigError where the system does not say how much memory a process uses."""
    if not STATM.exists():
        raise ConfigError(f"memory_steps needs {STATM}, which only Linux has; leave it at 0")


def resident_mib() -> float:
    """Resident set size of this process now, in MiB."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
