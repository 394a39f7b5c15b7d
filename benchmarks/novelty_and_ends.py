"""Whether novelty could warn an agent of ends that its dream underrates.

    python benchmarks/novelty_and_ends.py world=takecover agents=[runs/a] steps=30000

A caution (pessimism, truncation) sees nothing but the novelty of dreamed frames. It can keep an
agent from flattering dreams if these are more novel than play in the game, or if more ends come
than are foreseen where novelty is high. Each agent on latents plays both, its most probable action;
in the game the head reads along, and from each real past one dreamed frame says how novel the next
is. The steps in the game are parted by that novelty. All is of temperature 1. Ratios have 95%
bootstrap intervals over episodes. Settings: `NoveltyAndEnds`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ends.agents import played
from ends.head import ends, head_of, probabilities
from ends.novelty import dreamed_steps, novelty_of_steps
from ends.play import Play
from omegaconf import MISSING
from timing import machine, print_table, read_settings
from torch import Tensor

from worldflow.compiled import open_world
from worldflow.errors import ConfigError, WorldflowError
from worldflow.evaluation.association import ratio

PARTS = ("the lower half", "up to nine tenths", "the highest tenth")  # of the steps


@dataclass
class NoveltyAndEnds:
    """Settings.

    Attributes:
        world: a world learned from a real game, calibrated, whose head of the end reads the
            episode.
        agents: folders of agents on its latents.
        steps: of each, in the game and in the dream.
        rows: games or dreams side by side.
        horizon: steps after which a dream is cut.
        seed: of the episodes and of the dreamed frames.
    """

    world: str = MISSING
    agents: list[str] = field(default_factory=list)
    steps: int = 30_000
    rows: int = 32
    horizon: int = 522
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.agents:
            raise ConfigError("whose novelty? give agents=[FOLDER,...]")
        for name, least in (("rows", 1), ("horizon", 1), ("steps", self.rows), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")


def measure(config: NoveltyAndEnds) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of each agent in game and dream, and of the game's steps in parts.

    Raises:
        ConfigError: the world has no such head, or an agent sees something else than its latents.
    """
    world, whole, parts = open_world(config.world, "cpu"), [], []
    head = head_of(world, config.world)
    settings = config.agents, config.rows, config.steps, config.seed
    for name, model, card, play in played(world, config.world, *settings):
        p, came = probabilities(head, play).double(), ends(play)
        novelty = novelty_of_steps(world, play, torch.Generator().manual_seed(config.seed))
        dreamed = dreamed_steps(
            world, model, card.agent.frame_stack, config.horizon, config.rows, config.steps,
            config.seed,
        )  # fmt: skip
        game_row = {"where": "game", "ends a step": round(float(came.double().mean()), 5)}
        game_row |= {"foreseen a step": round(float(p.mean()), 5)} | _spread(novelty.numpy())
        dream_row = {"where": "dream", "ends a step": "", **_spread(dreamed.novelty)}
        dream_row["foreseen a step"] = round(float(dreamed.ends.mean()), 5)
        whole += [{"agent": name, **row} for row in (game_row, dream_row)]
        parts += [{"agent": name, **row} for row in by_novelty(novelty, p, came, play)]
    return whole, parts


def by_novelty(novelty: Tensor, p: Tensor, came: Tensor, play: Play) -> list[dict[str, Any]]:
    """Ends that come over those foreseen, in parts of the steps by their novelty.

    Args:
        novelty: (steps,).
        p: foreseen probabilities of the end, (steps,).
        came: whether it came, (steps,) bool.
        play: the episodes, over which intervals are.
    """
    rows = []
    levels = torch.quantile(novelty.double(), torch.tensor([0.5, 0.9], dtype=torch.float64))
    part = torch.bucketize(novelty.double(), levels)
    lengths = (play.lengths - 1).tolist()
    for number, name in enumerate(PARTS):
        inside = (part == number).double()
        sums = [
            torch.stack([piece.sum() for piece in (values * inside).split(lengths)]).numpy()
            for values in (came.double(), p)
        ]
        found = ratio(*sums)
        rows.append(
            {
                "novelty": name,
                "steps": int(inside.sum()),
                "ends": int(sums[0].sum()),
                "foreseen": round(float(sums[1].sum()), 1),
                "ends_over_foreseen": None if found is None else round(found["mean"], 2),
                # of no end at all the bootstrap knows nothing
                "low": round(found["low"], 2) if found and sums[0].any() else None,
                "high": round(found["high"], 2) if found and sums[0].any() else None,
            }
        )
    return rows


def _spread(novelty: np.ndarray) -> dict[str, float]:
    return {
        "mean novelty": round(float(novelty.mean()), 3),
        "above 3": round(float((novelty > 3.0).mean()), 4),
    }


def main() -> None:
    """Read the settings, measure, report."""
    torch.set_num_threads(1)
    try:
        config = read_settings(NoveltyAndEnds)
        whole, parts = measure(config)
    except WorldflowError as error:
        sys.exit(f"benchmarks/novelty_and_ends.py: {error}")
    print_table(f"novelty of what {config.world} would show, {machine()['cpu']}", whole)
    print_table("ends in the game, by the novelty of the step", parts)


if __name__ == "__main__":
    main()
