"""The curve of a loop: real steps against return, as a file, in TensorBoard and on a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from worldflow.agents.evaluation_history import EVALUATIONS
from worldflow.agents.loop_state import Round
from worldflow.data.metadata import write_atomically
from worldflow.pictures.plots import line_chart
from worldflow.pictures.report import Report

PAGE, TENSORBOARD = "report.html", "tensorboard"
RANDOM = -1  # the round of the random policy's rows

Row = dict[str, Any]


class Curve:
    """The rows of `evaluations.jsonl`, in order of rounds.

    Beside the fields that `train-agent` writes, a row has `round` (-1: the random policy),
    `real_steps` (recorded until then), `imagined_steps` (learned from until then) and
    `judging_steps` (real steps of all evaluations until then, this one included).

    Args:
        folder: the loop's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / EVALUATIONS
        self.rows: list[Row] = []
        if self._path.exists():
            self.rows = [json.loads(line) for line in self._path.read_text().splitlines()]

    def replace(self, number: int, rows: Sequence[Row]) -> None:
        """Set the rows of a round, which is the last; what a killed loop wrote of it is replaced.

        In TensorBoard the later of two values at the same step counts.
        """
        self.rows = [row for row in self.rows if row["round"] < number] + list(rows)
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(self._path, text.encode())
        writer = SummaryWriter(str(self._folder / TENSORBOARD))
        for row in rows:
            name = "random" if row["round"] == RANDOM else row["place"]
            figures = {"return": "mean", "low": "low", "high": "high", "length": "mean_length"}
            for tag, figure in figures.items():
                writer.add_scalar(f"loop/{name}_{tag}", row[figure], row["real_steps"])
        writer.close()

    def of(self, place: str) -> list[Row]:
        """The agent's rows in a place."""
        return [row for row in self.rows if row["place"] == place and row["round"] != RANDOM]

    @property
    def random(self) -> Row:
        """The random policy's row, in the real environment."""
        return next(row for row in self.rows if row["round"] == RANDOM)


def curve_chart(curve: Curve, best: float | None) -> str:
    """Real steps against return, as SVG text.

    Args:
        curve: with at least one round.
        best: return that no policy exceeds, where it is known.
    """
    real, dream, chance = curve.of("real"), curve.of("dream"), curve.random
    steps = [row["real_steps"] for row in real]
    series = {
        "in the real environment": (steps, [row["mean"] for row in real]),
        "95% interval, low": (steps, [row["low"] for row in real]),
        "95% interval, high": (steps, [row["high"] for row in real]),
        "random": ([0, steps[-1]], [chance["mean"]] * 2),
    }
    if dream:
        series["in the dream"] = ([row["real_steps"] for row in dream], [r["mean"] for r in dream])
    if best is not None:
        series["optimum"] = ([0, steps[-1]], [best] * 2)
    return line_chart("The agent at the end of each round", "real steps", "return", series)


def write_page(
    folder: Path, curve: Curve, rounds: Sequence[Round], best: float | None, budget: int
) -> None:
    """Write `report.html`, one file with its chart inside.

    Args:
        folder: the loop's.
        curve: with at least one round.
        rounds: those that `curve` has.
        best: return that no policy exceeds, where it is known.
        budget: of real steps.
    """
    report = Report("An agent and its world, round by round")
    report.text(
        "Each round takes real steps, trains the world on all of them, trains the agent inside the "
        "world only, and plays it in the real environment."
    )
    report.svg(curve_chart(curve, best))
    chance, last = curve.random, curve.rows[-1]
    report.text(
        f"Means over {chance['episodes']} episodes, the same in every round, with 95% bootstrap "
        f"intervals. {last['real_steps']} real steps were learned from, of a budget of {budget} "
        f"(the last episode is played to its end). Judging took {last['judging_steps']} real "
        "steps more, from which nothing was learned."
    )
    dreams = {row["round"]: row for row in curve.of("dream")}
    table = [_line("random", chance, None, None)]
    for row in curve.of("real"):
        number = row["round"]
        table.append(_line(str(number), row, dreams.get(number), rounds[number].mean_return))
    report.table(table)
    write_atomically(folder / PAGE, report.html().encode())


def _line(name: str, row: Row, dream: Row | None, collected: float | None) -> dict[str, str]:
    return {
        "round": name,
        "real steps": str(row["real_steps"]),
        "real return": f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
        "dreamed return": "" if dream is None else f"{dream['mean']:.3f}",
        "return while collecting": "" if collected is None else f"{collected:.3f}",
        "imagined steps": str(row["imagined_steps"]),
        "real steps of judging": str(row["judging_steps"]),
    }
