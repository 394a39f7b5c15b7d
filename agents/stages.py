"""Commands in a row, each run once: finished ones are skipped, interrupted ones continue."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from worldflow.cli import COMMANDS
from worldflow.config import PATH_KEYS, load_config
from worldflow.data.metadata import write_atomically
from worldflow.errors import ConfigError

RECORD = "stages.json"
# Paths that Hydra's grammar reads as they are; it would take `null` or `1` for no string.
PLAIN = re.compile(r"[\w./-]*[/][\w./-]*", re.ASCII)


@dataclass(frozen=True)
class Stage:
    """One command of the row.

    Attributes:
        command: its name on the command line.
        overrides: its settings.
        finish: belongs to the stage and follows its command.
    """

    command: str
    overrides: tuple[str, ...]
    finish: Callable[[], None] | None = None

    def line(self) -> str:
        """The command as a user would type it."""
        return shlex.join(("worldflow", self.command, *self.overrides))


def path_setting(key: str, path: Path) -> str:
    """`key=path` as an override that is read back as this path, whatever characters it has."""
    text = str(path)
    if PLAIN.fullmatch(text):
        return f"{key}={text}"
    if key in PATH_KEYS:  # the short form takes its value as it is, quotes included
        key = f"{key}.{PATH_KEYS[key]}"
    return f"{key}={QuotedString(text, Quote.single).with_quotes()}"


def run_stages(stages: Sequence[Stage], folder: Path) -> dict[str, float]:
    """Run the stages in order, each as its command would.

    Args:
        stages: what to run.
        folder: its `stages.json` says what is done. The time of a stage that was killed, rather
            than interrupted, counts from its last start.

    Returns:
        Seconds of each stage, over all its pieces.

    Raises:
        ConfigError: settings are wrong, or a stage was run here with other ones.
        WorldflowError: whatever a command reports.
    """
    prepared = []
    for stage in stages:  # a wrong setting of the last stage must not wait for the first
        function, schema = COMMANDS[stage.command].load()
        config = load_config(COMMANDS[stage.command].config, schema, stage.overrides)
        prepared.append((stage, function, config))
    folder.mkdir(parents=True, exist_ok=True)
    record = _read_record(folder / RECORD)
    for stage in stages:
        entry = record.setdefault(
            stage.command, {"settings": list(stage.overrides), "seconds": 0.0, "done": False}
        )
        if entry["settings"] != list(stage.overrides):
            raise ConfigError(
                f"{folder} was made with other settings: {stage.command} had "
                f"{' '.join(entry['settings'])}, now {' '.join(stage.overrides)}; choose another "
                "out=, or delete the folder"
            )
    for number, (stage, function, config) in enumerate(prepared, start=1):
        entry = record[stage.command]
        heading = f"[{number}/{len(stages)}] {stage.line()}"
        if entry["done"]:
            print(f"{heading}\n      done before, in {entry['seconds']:.0f} s", flush=True)
            continue
        print(heading, flush=True)
        started = time.monotonic()
        try:
            function(config)
            if stage.finish is not None:
                stage.finish()
            entry["done"] = True
        finally:
            entry["seconds"] += time.monotonic() - started
            write_atomically(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    return {name: float(entry["seconds"]) for name, entry in record.items()}


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    assert isinstance(record, dict)
    return record
