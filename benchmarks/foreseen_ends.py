"""How many ends a world's head foresees in real play, beside those that come.

    python benchmarks/foreseen_ends.py world=takecover agents=[runs/a,runs/b] steps=60000

Each agent on latents plays the real game, its most probable action, and the head reads along: the
episode so far and the action. A head that knows good play from bad expects few ends of a good
agent's, as many as come. Ratios have 95% bootstrap intervals over episodes. Settings:
`ForeseenEnds`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from ends.agents import played
from ends.head import head_of, probabilities, step_losses
from omegaconf import MISSING
from timing import machine, print_table, read_settings

from worldflow.compiled import open_world
from worldflow.errors import ConfigError, WorldflowError
from worldflow.evaluation.association import ratio


@dataclass
class ForeseenEnds:
    """Settings.

    Attributes:
        world: a world learned from a real game, whose head of the end reads the episode.
        agents: folders of agents on its latents.
        steps: real steps of each.
        rows: games side by side.
        seed: of the episodes.
    """

    world: str = MISSING
    agents: list[str] = field(default_factory=list)
    steps: int = 60_000
    rows: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.agents or self.rows < 1 or self.steps < self.rows:
            raise ConfigError("give agents=[...], rows of 1 or more, and a step for each row")


def measure(config: ForeseenEnds) -> list[dict[str, Any]]:
    """A row of figures for each agent.

    Raises:
        ConfigError: the world has no such head, or an agent sees something else than its latents.
    """
    world, rows = open_world(config.world, "cpu"), []
    head = head_of(world, config.world)
    settings = config.agents, config.rows, config.steps, config.seed
    for name, _, _, play in played(world, config.world, *settings):
        p = probabilities(head, play).double()
        loss = step_losses(p, play).mean()
        each = torch.stack([piece.sum() for piece in p.split((play.lengths - 1).tolist())])
        found = ratio(play.ended.numpy(), each.numpy())
        assert found is not None
        rows.append(
            {
                "agent": name,
                "steps": play.steps,
                "ends": int(play.ended.sum()),
                "foreseen": round(float(p.sum()), 1),
                "ends_over_foreseen": round(found["mean"], 3),
                "low": round(found["low"], 3),
                "high": round(found["high"], 3),
                "log_loss": round(float(loss), 5),
            }
        )
    return rows


def main() -> None:
    """Read the settings, measure, report."""
    torch.set_num_threads(1)
    try:
        config = read_settings(ForeseenEnds)
        rows = measure(config)
    except WorldflowError as error:
        sys.exit(f"benchmarks/foreseen_ends.py: {error}")
    print_table(f"ends of real play, foreseen by {config.world}, {machine()['cpu']}", rows)


if __name__ == "__main__":
    main()
