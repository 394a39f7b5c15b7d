"""Action files: what was done at each frame of a video, in a file of the video's stem beside it.

`.npz`: arrays `actions` and, if known, `rewards` and `terminated`; read without pickle.
`.csv`, `.jsonl`, `.parquet`: a column (or key) `action`, or `action_0` .. `action_{D-1}`, and, if
known, `reward` and `terminated`. A csv has a header row; a jsonl has one object a line, all with
the same keys. `action` may hold lists of one length in jsonl and parquet.

All have one row a frame (F), or one between two frames (F - 1). `terminated` is 0, 1, true or
false. `timestamp` and `frame_index` are ignored, as the video has its own times; any other name is
an error. Blank lines are skipped.
"""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from worldflow.data.formats.parquet_file import open_parquet
from worldflow.data.formats.recorded_actions import check_actions
from worldflow.errors import DataError

IGNORED = {"timestamp", "frame_index"}
_NPZ_NAMES = {"actions": "action", "rewards": "reward", "terminated": "terminated"}
_COLUMN = re.compile(r"action(_(0|[1-9]\d{0,5}))?|reward|terminated")
# What decoding, numpy, csv and zip files (RuntimeError: encrypted) raise on what they cannot read.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, csv.Error, BadZipFile, zlib.error)
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True)
class Steps:
    """The rows of an action file, N of each; None: not recorded.

    Attributes:
        actions: (N,) or (N, D), int64 if all are whole numbers by type, else float32.
        rewards: (N,) float32.
        terminated: (N,) bool.
    """

    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    terminated: np.ndarray | None = None


def read_steps(path: Path) -> Steps:
    """The rows of an action file, whose suffix is one of `ACTION_SUFFIXES`.

    Raises:
        DataError: the file is damaged, or holds unknown names, nothing known, or what are no
            finite numbers.
        ConfigError: a parquet file, and pyarrow is not installed.
    """
    try:
        columns = _READERS[path.suffix.lower()](path)
        arrays = {name: np.asarray(values) for name, values in columns.items()}
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: not a readable {path.suffix} file ({error}); write it again or remove it"
        ) from error
    if not arrays:
        raise DataError(f"{path}: no action, reward or terminated in it; add them or remove it")
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise DataError(f"{path}: rows {lengths}; all need the same number, one or more")
    return Steps(
        _actions(path, arrays),
        _rewards(path, arrays["reward"]) if "reward" in arrays else None,
        _terminated(path, arrays["terminated"]) if "terminated" in arrays else None,
    )


def _actions(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    parts = [name for name in arrays if name.startswith("action_")]
    if not parts:
        return _numbers(path, arrays["action"]) if "action" in arrays else None
    ordered = [f"action_{i}" for i in range(len(parts))]
    if "action" in arrays or set(parts) != set(ordered):
        raise DataError(
            f"{path}: action columns {sorted(arrays.keys() - {'reward', 'terminated'})}; give one "
            "`action`, or action_0, action_1 and so on without a gap"
        )
    columns = [_numbers(path, arrays[name]) for name in ordered]
    if any(column.ndim != 1 for column in columns):
        raise DataError(f"{path}: a column action_0 and so on holds lists; name the column action")
    return np.stack(columns, axis=1)


def _numbers(path: Path, values: np.ndarray) -> np.ndarray:
    actions = check_actions(str(path), values)
    if actions.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, an error
            return check_actions(str(path), actions.astype(np.float32))
    if actions.dtype == np.uint64 and actions.max() > np.iinfo(np.int64).max:
        raise DataError(f"{path}: action {actions.max()} does not fit int64; use smaller numbers")
    return actions.astype(np.int64)


def _rewards(path: Path, values: np.ndarray) -> np.ndarray:
    if values.ndim == 1 and values.dtype.kind in "biuf":
        with np.errstate(over="ignore"):
            rewards = values.astype(np.float32)
        if np.isfinite(rewards).all():
            return rewards
    raise DataError(
        f"{path}: rewards of shape {values.shape} and type {values.dtype} must be one finite "
        "number a row; repair them, or remove them for a dataset without rewards"
    )


def _terminated(path: Path, values: np.ndarray) -> np.ndarray:
    if values.ndim == 1 and values.dtype.kind in "biuf" and np.isin(values, (0, 1)).all():
        return values.astype(np.bool_)
    raise DataError(
        f"{path}: terminated of shape {values.shape} and type {values.dtype} must be one 0, 1, "
        "true or false a row"
    )


def _known(path: Path, names: list[str]) -> list[str]:
    """The columns to read of those in the file."""
    for name in names:
        if not _COLUMN.fullmatch(name) and name not in IGNORED:
            raise DataError(
                f"{path}: unknown column {name!r}; known are action or action_0, action_1 and so "
                f"on, reward, terminated, and {' and '.join(sorted(IGNORED))}, which are ignored"
            )
    if len(set(names)) != len(names):
        raise DataError(f"{path}: two columns of one name in {names}; rename or remove one")
    return [name for name in names if name not in IGNORED]


def _read_npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: a single array, no .npz; write it with np.savez")
        unknown = set(file.files) - _NPZ_NAMES.keys() - IGNORED
        if unknown:
            raise DataError(
                f"{path}: unknown arrays {sorted(unknown)}; known are {', '.join(_NPZ_NAMES)}, "
                f"and {' and '.join(sorted(IGNORED))}, which are ignored"
            )
        return {_NPZ_NAMES[name]: file[name] for name in file.files if name in _NPZ_NAMES}


def _read_csv(path: Path) -> dict[str, Any]:
    # utf-8-sig: spreadsheets write a byte order mark, which would else be part of the first name.
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, strict=True)
        header = [name.strip() for name in next(rows, [])]
        columns: dict[str, list[Any]] = {name: [] for name in _known(path, header)}
        for row in rows:
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}: line {rows.line_num} has {len(row)} fields, the header {len(header)}"
                )
            for name, cell in zip(header, row, strict=False):
                if name in columns:
                    columns[name].append(_cell(f"{path}: line {rows.line_num}", name, cell.strip()))
    return columns


def _cell(place: str, column: str, text: str) -> int | float | bool:
    if column == "terminated" and text.lower() in _FLAGS:
        return _FLAGS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise DataError(f"{place}, column {column}: {text!r} is no number; repair it")


def _read_jsonl(path: Path) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {}
    keys: list[str] | None = None
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is no JSON ({error}); repair it") from error
        if not isinstance(row, dict) or (keys is not None and row.keys() != set(keys)):
            raise DataError(
                f"{path}: line {number} must be an object"
                + (f" with the keys {keys}, as the first is" if keys else "")
            )
        if keys is None:
            keys = list(row)
            columns = {name: [] for name in _known(path, keys)}
        for name, values in columns.items():
            values.append(row[name])
    return columns


def _read_parquet(path: Path) -> dict[str, Any]:
    with open_parquet(path) as file:
        return dict(file.read(columns=_known(path, file.schema_arrow.names)).to_pydict())


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
ACTION_SUFFIXES = tuple(_READERS)
