"""The evaluations of a training so far: `evaluations.jsonl`, and what follows from them.

Which weights are kept and whether the training ends depend on this file and the settings alone, so
that a training that was killed decides as one that was not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from worldflow.agents.evaluation_config import StopConfig
from worldflow.data.metadata import write_atomically

EVALUATIONS = "evaluations.jsonl"

Row = dict[str, Any]


class EvaluationHistory:
    """Rows of `evaluations.jsonl`, one a place and evaluation, in the order of steps.

    A row has `steps`, `place`, `mean`, `std`, `low`, `high` (95% bootstrap interval of the mean),
    `episodes`, `mean_length`, `env_steps` (of all its episodes), and what
    `worldflow.agents.behaviour` says.

    Args:
        folder: the agent's.
        steps: rows after so many steps are forgotten: a run that was killed wrote them, and the one
            that goes on from the checkpoint will do so again.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self._path = folder / EVALUATIONS
        self.rows: list[Row] = []
        if not self._path.exists():
            return
        for line in self._path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # else a kill cut the last line
                self.rows.append(json.loads(line))
        self.rows = [row for row in self.rows if row["steps"] <= steps]
        write_atomically(self._path, "".join(map(_line, self.rows)).encode())

    def add(self, row: Row) -> None:
        """Append a row, also to the file."""
        self.rows.append(row)
        with self._path.open("a") as stream:
            stream.write(_line(row))

    def evaluated(self, steps: int) -> bool:
        """Whether there was an evaluation after so many steps."""
        return any(row["steps"] == steps for row in self.rows)

    def best(self, place: str) -> Row | None:
        """The first of the rows of a place with the highest mean return."""
        return max(self._of(place), key=lambda row: row["mean"], default=None)

    def stop_reason(self, config: StopConfig) -> str | None:
        """Why the training ends now; None where it goes on."""
        if config.by is None:
            return None
        best, waited = float("-inf"), 0
        for row in self._of(config.by):
            mean, steps = row["mean"], row["steps"]
            if config.threshold is not None and mean >= config.threshold:
                return (
                    f"the {config.by} return reached {mean:.2f} after {steps} steps "
                    f"(evaluation.stop.threshold={config.threshold})"
                )
            waited = 0 if mean > best + config.min_delta else waited + 1
            best = mean if waited == 0 else best
            if config.patience is not None and waited >= config.patience:
                return (
                    f"the {config.by} return was no better than {best:.2f} in {waited} "
                    f"evaluations up to {steps} steps (evaluation.stop.patience={config.patience})"
                )
        return None

    def _of(self, place: str) -> list[Row]:
        return [row for row in self.rows if row["place"] == place]


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"
