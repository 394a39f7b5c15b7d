"""What the benchmark commands share: settings, clocks, tables, figures on disk."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldflow.data.metadata import write_atomically
from worldflow.errors import ConfigError

Settings = TypeVar("Settings")
Result = TypeVar("Result")


def read_settings(schema: type[Settings]) -> Settings:
    """The command line (`key=value ...`) as an instance of a dataclass.

    Raises:
        ConfigError: an unknown key, a wrong type, or a missing value.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.from_cli())
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key, problem = error.full_key or "", str(error).splitlines()[0]
        raise ConfigError(problem if key in problem else f"{key}: {problem}") from error
    assert isinstance(settings, schema)
    return settings


def check_out(out: str) -> None:
    """Refuse a file that could not be written, before the hours of measuring.

    Raises:
        ConfigError: its folder does not exist, or it is a folder itself.
    """
    if out and (Path(out).is_dir() or not Path(out).parent.is_dir()):
        raise ConfigError(f"out={out} is not a file in an existing folder; make the folder first")


def write_figures(out: str, figures: Mapping[str, Any]) -> None:
    """Write all figures as JSON, atomically; nothing where no file was asked for."""
    if out:
        text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
        write_atomically(Path(out), text.encode())


def measure_into(
    folder: Path, report: str, settings: Any, measure: Callable[[], Mapping[str, Any]]
) -> None:
    """Say on what machine, measure, and write all figures to a file of a folder.

    Args:
        folder: made if there is none.
        report: name of the file.
        settings: a dataclass.
        measure: gives the figures; may write other files to the folder.

    Raises:
        ConfigError: the folder holds such a file.
    """
    if (folder / report).exists():
        raise ConfigError(f"{folder} holds such a report; choose another out=")
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    figures = {"machine": facts, "settings": asdict(settings), **measure()}
    write_figures(str(folder / report), figures)


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions."""
    cpu, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if cpuinfo.exists():  # on Linux `platform` knows the architecture only
        lines = cpuinfo.read_text().splitlines()
        cpu = next((line.split(": ")[-1] for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def milliseconds() -> float:
    """A clock for differences."""
    return 1e3 * time.perf_counter()


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """The call's result, and the milliseconds that it took."""
    started = milliseconds()
    result = call()
    return result, milliseconds() - started


def note(text: str) -> None:
    """Say on stderr what is being measured, so that stdout holds tables only."""
    print(text, file=sys.stderr, flush=True)


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of figures in Markdown; the first row's keys are the header."""
    header = list(rows[0])
    cells = [[key.replace("_", " ") for key in header], ["---"] * len(header)]
    cells += [[_cell(row[key]) for key in header] for row in rows]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    print(f"\n{title}\n", *lines, sep="\n", flush=True)  # a long run's tables are seen at once


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{item:.1f}" for item in value)
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return str(value)
