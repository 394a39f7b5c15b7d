"""How many frames a second many dreams side by side make, on the CPU or on a GPU: a table.

    python benchmarks/many_rows.py world=takecover rows=[64,256,1024]
    python benchmarks/many_rows.py world=takecover rows=[1024] observation=latents device=cuda

As in training an agent: each row has random actions and random numbers of its own, what it
observes is copied to the host, and it begins anew where its episode ends (timed with the steps).
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from omegaconf import MISSING
from timing import check_out, machine, note, print_table, read_settings, timed, write_figures

from worldflow.compiled import open_world
from worldflow.envs.imagination import Imagination
from worldflow.envs.spaces import action_space
from worldflow.errors import ConfigError, WorldflowError
from worldflow.world_model import WorldModel


@dataclass
class ManyRows:
    """Settings.

    Attributes:
        world: a world's name or folder.
        rows: sizes of the batches to time.
        observation: "frames", or "latents", for which nothing is decoded.
        device: "cpu", "cuda", or "auto": a GPU if there is one.
        steps: timed steps of each batch, of which the median counts.
        warmup: steps before them.
        seed: of the episodes and of the actions.
        out: JSON file for the same figures; none if empty.
    """

    world: str = MISSING
    rows: list[int] = field(default_factory=lambda: [64, 256, 1024])
    observation: str = "frames"
    device: str = "auto"
    steps: int = 12
    warmup: int = 4
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if not self.rows or min(*self.rows, self.steps) < 1 or min(self.warmup, self.seed) < 0:
            raise ConfigError(
                f"rows={self.rows} and steps={self.steps} must be positive, warmup={self.warmup} "
                f"and seed={self.seed} not negative"
            )


def measure(world: WorldModel, rows: int, settings: ManyRows) -> dict[str, Any]:
    """The median step of so many dreams. What is observed is on the host, so a step is over."""
    dream = Imagination(world, rows, observation=settings.observation)
    actions = batch_space(action_space(world.action_spec), rows)
    actions.seed(settings.seed)
    dream.reset(np.ones(rows, dtype=bool), [settings.seed + row for row in range(rows)])

    def step() -> None:
        dream.step(actions.sample())
        if dream.needs_reset.any():
            dream.reset(dream.needs_reset)

    costs = [timed(step)[1] for _ in range(settings.warmup + settings.steps)][settings.warmup :]
    median = float(np.median(costs))
    return {"rows": rows, "step_ms": median, "frames_per_second": 1e3 * rows / median}


def main() -> None:
    """Print the table."""
    settings = read_settings(ManyRows)
    check_out(settings.out)
    world = open_world(settings.world, settings.device)
    device = next(world.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    figures: dict[str, Any] = {"settings": asdict(settings), "machine": machine(), "device": name}
    note(f"{settings.world} on {name}")
    figures["batches"] = [measure(world, rows, settings) for rows in settings.rows]
    print_table(f"Dreams of {settings.world}, {settings.observation}, {name}", figures["batches"])
    write_figures(settings.out, figures)


if __name__ == "__main__":
    try:
        main()
    except WorldflowError as error:
        sys.exit(f"many_rows: {error}")
