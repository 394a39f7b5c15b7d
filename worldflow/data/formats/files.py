"""Files of a data folder: which lie there, whether they lie there at all, and JSON in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldflow.errors import DataError


def inside(root: Path, path: Path) -> Path:
    """`path`, if it lies in `root` once links are followed.

    Raises:
        DataError: it leads out of the data folder, or nowhere.
    """
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:  # of links that lead in a circle
        raise DataError(f"{path}: a link that leads nowhere ({error}); remove it") from error
    if not target.is_relative_to(root.resolve()):
        raise DataError(
            f"{path} leads out of the data folder {root}; copy the file into it, links and '..' "
            "are not followed"
        )
    return path


def visible(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden; links included, wherever they lead."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and (path.is_file() or path.is_symlink()):
            yield path


def find_files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file `path`, or those below it that are not hidden: of these suffixes, sorted."""
    if path.is_file():
        return [path] if path.suffix.lower() in suffixes else []
    found = (file for file in visible(path) if file.suffix.lower() in suffixes and file.is_file())
    return sorted(found, key=lambda file: natural(file.relative_to(path).as_posix()))


def natural(text: str) -> list[str | int]:
    """Sorts numbers in names by their value: demo_2 before demo_10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        DataError: the file is missing or holds none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not readable JSON ({error}); download or write the dataset again"
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds no JSON object; download or write the dataset again")
    return values
