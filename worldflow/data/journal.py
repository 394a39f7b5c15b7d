"""How far an import has come: `import.jsonl` beside the episodes, a line for each recording.

A labelling has one too, for its beginning and its end; how far it has come is what it has written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worldflow.data.metadata import write_atomically
from worldflow.errors import DataError

NAME = "import.jsonl"


@dataclass(frozen=True)
class Imported:
    """What became of one recording.

    Attributes:
        name: of the recording.
        episodes: how many episodes it was cut into; they follow those of the recordings before.
        frames: in all of them.
        error: why it was left out; None if it was not.
    """

    name: str
    episodes: int
    frames: int
    error: str | None


class Journal:
    """First a digest of what is imported, then each recording, at last that all are done.

    Attributes:
        done: what became of each recording so far.
        next_episode: index of the next episode of the dataset.
        finished: whether the import came to its end.

    Args:
        folder: of the dataset.
        names: of all recordings.
        settings: all that decides what is written, JSON-able.

    Raises:
        DataError: other recordings were imported into this folder, or with other settings; or it
            holds files that no import wrote.
    """

    def __init__(self, folder: Path, names: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.path, self._count = folder / NAME, len(names)
        self.done: list[Imported] = []
        head = {"recordings": len(names), "digest": _digest([list(names), settings])}
        lines = _lines(self.path)
        if not self.path.exists() and folder.is_dir() and any(folder.iterdir()):
            raise DataError(f"{folder} holds files already; choose an empty folder")
        if not lines:
            lines = [head]
        if lines[0] != head:
            raise DataError(
                f"{self.path}: other recordings were imported into this folder, or the same with "
                "other settings; choose another folder, or delete this one to begin anew"
            )
        self.done = [Imported(**line) for line in lines[1:] if "name" in line]
        self.finished = "finished" in lines[-1]
        self._lines = lines
        self.next_episode = sum(entry.episodes for entry in self.done)

    def remaining(self) -> range:
        """Indices of the recordings that are still to be imported."""
        return range(len(self.done), self._count)

    def begin(self) -> None:
        """Write the first line, or drop a last one that was being written or tells of the end."""
        self._lines = [line for line in self._lines if "finished" not in line]
        self.finished = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in self._lines)
        write_atomically(self.path, text.encode())

    def add(self, entry: Imported) -> None:
        """Say what became of the next recording."""
        self.done.append(entry)
        self.next_episode += entry.episodes
        self._append(asdict(entry))

    def finish(self) -> None:
        """Say that the import came to its end."""
        self.finished = True
        self._append({"finished": True})

    def _append(self, values: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def is_unfinished(folder: Path) -> bool:
    """Whether an import or a labelling was begun in `folder` and has not come to its end."""
    lines = _lines(folder / NAME)
    return bool(lines) and "finished" not in lines[-1]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of the journal; none if there is no journal."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1].splitlines()
    try:
        return [json.loads(line) for line in whole]
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is damaged ({error}); delete {path.parent} and import anew"
        ) from error


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
