"""The grid of agents behind a table: which ones there are, and how each is trained."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from omegaconf import MISSING

from worldflow.agents.train import TrainAgentConfig
from worldflow.config import load_config
from worldflow.errors import ConfigError

CELLS = "cells"
NEITHER, PESSIMISM, TRUNCATION = "neither", "pessimism", "truncation"
VARIANTS = (NEITHER, PESSIMISM, TRUNCATION)
# What the grid sets itself, as `train-agent` calls it.
OWN = {"world", "world.path", "world.temperature", "world.pessimism", "world.bonus"}
OWN |= {"world.novelty_window", "world.max_novelty", "seed", "out", "real", "source", "resume"}


@dataclass
class DreamGridConfig:
    """Settings of the grid.

    Attributes:
        world: name or folder of the world.
        out: folder of everything that is made.
        temperatures: of the dreams that agents learn in.
        variants: at each temperature: "neither", with "pessimism", with "truncation".
        pessimism: reward that the variant of this name loses for each standard deviation of
            novelty, see `worldflow.agents.dreams.DreamConfig`.
        max_novelty: where the variant "truncation" cuts an imagined episode.
        novelty_window: frames whose novelty is measured together, in both of them.
        seeds: S; the trainings have the seeds 0 .. S-1.
        train: settings of `worldflow train-agent` for all agents, those of the real game too.
        train_real: more of them, for these alone, such as fewer environments at once.
        real: also train agents in the real game, for as many steps.
        real_agents: folders of agents that were trained there already, in place of these.
        episodes: of each score, in the dream and in reality.
        num_envs: episodes that run side by side.
        episode_seed: of these episodes, the same for all.
        deterministic: agents take their most probable action; otherwise they draw one.
        dream_temperature: of the dreams in which agents of the real game and random play are
            scored. The others are scored in dreams of the temperature that they learned in.
        cells: patterns of the names of cells to run, as in `t1.15_*`; empty: all.
        report_only: make the table of what there is, and run nothing.
    """

    world: str = MISSING
    out: str = MISSING
    temperatures: list[float] = field(default_factory=lambda: [0.5, 1.0, 1.15, 1.3])
    variants: list[str] = field(default_factory=lambda: list(VARIANTS))
    pessimism: float = 0.5
    max_novelty: float = 3.0
    novelty_window: int = 1
    seeds: int = 5
    train: list[str] = field(default_factory=list)
    train_real: list[str] = field(default_factory=list)
    real: bool = True
    real_agents: list[str] = field(default_factory=list)
    episodes: int = 100
    num_envs: int = 20
    episode_seed: int = 10_000
    deterministic: bool = True
    dream_temperature: float = 1.0
    cells: list[str] = field(default_factory=list)
    report_only: bool = False

    def __post_init__(self) -> None:
        least = {"seeds": 1, "episodes": 1, "num_envs": 1, "episode_seed": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {minimum}")
        for name, allowed in (("pessimism", self.pessimism), ("max_novelty", self.max_novelty)):
            if not allowed > 0.0:
                raise ConfigError(f"{name}={allowed} must be positive")
        if unknown := [name for name in self.variants if name not in VARIANTS]:
            raise ConfigError(f"variants: no {unknown[0]}; there are {', '.join(VARIANTS)}")
        for word in (*self.train, *self.train_real):
            if (name := word.partition("=")[0]) in OWN:
                raise ConfigError(f"train: {name} is the grid's own; leave {word} out")


@dataclass(frozen=True)
class Cell:
    """One agent of the grid.

    Attributes:
        name: of its folder.
        kind: "dream" or "real", where it learns, or "random", which learns nothing.
        seed: of its training.
        temperature: of the dream that it is scored in, and in which it learns if it does.
        variant: what its dream is like; None where it learns in none.
        agent: folder of an agent that is trained already.
    """

    name: str
    kind: str
    seed: int
    temperature: float
    variant: str | None = None
    agent: str | None = None


def grid(config: DreamGridConfig) -> list[Cell]:
    """All cells, those of the first seed first."""
    cells = [Cell("random", "random", 0, config.dream_temperature)]
    for seed in range(config.seeds):
        cells += [
            Cell(f"t{heat:g}_{variant}_s{seed}", "dream", seed, heat, variant)
            for heat in config.temperatures
            for variant in config.variants
        ]
        if config.real and not config.real_agents:
            cells.append(Cell(f"real_s{seed}", "real", seed, config.dream_temperature))
    cells += [
        Cell(f"given_s{number}", "real", number, config.dream_temperature, agent=folder)
        for number, folder in enumerate(config.real_agents)
    ]
    return cells


def chosen(config: DreamGridConfig) -> list[Cell]:
    """The cells that the patterns name.

    Raises:
        ConfigError: a pattern names none.
    """
    cells = grid(config)
    for pattern in config.cells:
        if not any(fnmatchcase(cell.name, pattern) for cell in cells):
            names = ", ".join(cell.name for cell in cells)
            raise ConfigError(f"cells: {pattern} names none of {names}")
    if not config.cells:
        return cells
    return [c for c in cells if any(fnmatchcase(c.name, pattern) for pattern in config.cells)]


def training_of(config: DreamGridConfig, cell: Cell) -> TrainAgentConfig:
    """The settings of a cell's training; of random play and given agents those they would have.

    Raises:
        ConfigError: the settings are wrong.
    """
    out = cell_folder(config, cell) / "agent"
    real = cell.kind == "real"
    words = [*config.train, *(config.train_real if real else ())]
    base = _base(tuple(words))
    dream = replace(base.world, path=config.world, temperature=cell.temperature)
    if cell.variant == PESSIMISM:
        dream = replace(dream, pessimism=config.pessimism, novelty_window=config.novelty_window)
    if cell.variant == TRUNCATION:
        dream = replace(dream, max_novelty=config.max_novelty, novelty_window=config.novelty_window)
    if real:  # which says no probabilities of ends
        dream = replace(dream, expected_ends=0.0)
    return replace(base, world=dream, real=real, seed=cell.seed, out=str(out))


@functools.cache
def _base(words: tuple[str, ...]) -> TrainAgentConfig:
    return load_config("train_agent", TrainAgentConfig, [*words, "out=agent"])


def cell_folder(config: DreamGridConfig, cell: Cell) -> Path:
    """Where a cell lies."""
    return Path(config.out) / CELLS / cell.name
