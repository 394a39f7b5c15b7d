"""The table of World Models (2018): dream and real scores by temperature, with and without caution.

    python benchmarks/dream_table.py world=takecover out=runs/table seeds=5 \
        train='[agent=ppo,agent.frame_stack=4,world.horizon=522,total_steps=1000000]'

Agents of the same settings learn in dreams of several temperatures, each as they are, with
pessimistic rewards and truncated where novelty is large; in the real game for as many steps; and
not at all. All are scored in the dream and in the real game. Settings: `DreamGridConfig` of
`agents/dream_grid.py`, which says what each cell of the grid is.

Started again, it goes on where it was interrupted. Started several times on one `out=`, the
processes share the cells. `report_only=true` makes `table.json` and `table.md` of what there is.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from timing import machine, note, read_settings, write_figures

from worldflow.agents.dream_cells import read_scores, run_cell
from worldflow.agents.dream_grid import DreamGridConfig, chosen, grid
from worldflow.agents.dream_table import BEST, LAST, comparisons, markdown, table_rows
from worldflow.agents.locks import LOCK, held
from worldflow.data.metadata import write_atomically
from worldflow.errors import ConfigError, WorldflowError


def work(config: DreamGridConfig) -> None:
    """Run the cells that no other process runs."""
    cells = chosen(config)
    for number, cell in enumerate(cells, start=1):
        note(f"[{number}/{len(cells)}] {cell.name}")
        if not run_cell(config, cell):
            note("      another process is at it")


def report(config: DreamGridConfig) -> None:
    """Write and print the table of all finished cells.

    Raises:
        ConfigError: there is none.
    """
    scored = {cell.name: read_scores(config, cell) for cell in grid(config)}
    results = [result for result in scored.values() if result is not None]
    missing = [name for name, result in scored.items() if result is None]
    if not results:
        raise nothing(config)
    rows = table_rows(results)
    compared = [row for weights in (LAST, BEST) for row in comparisons(results, weights)]
    figures = {
        "machine": machine(),
        "settings": asdict(config),
        "rows": rows,
        "comparisons": compared,
        "cells": results,
        "missing": missing,
    }
    write_figures(str(Path(config.out) / "table.json"), figures)
    text = markdown(rows, compared)
    write_atomically(Path(config.out) / "table.md", text.encode())
    print(text, end="")
    if missing:
        note(f"not finished: {', '.join(missing)}")


def nothing(config: DreamGridConfig) -> ConfigError:
    """What to say where there is nothing to report."""
    return ConfigError(f"{config.out} has no finished cell: run without report_only=true first")


def main() -> None:
    """Read the settings, run, report."""
    try:
        config = read_settings(DreamGridConfig)
        if not config.report_only:
            work(config)
        elif not Path(config.out).is_dir():
            raise nothing(config)
        with held(Path(config.out) / LOCK, wait=True):  # other processes may share the grid
            report(config)
    except WorldflowError as error:
        sys.exit(f"benchmarks/dream_table.py: {error}")


if __name__ == "__main__":
    main()
