"""What `dataset.json` says of a dataset of episodes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from worldflow.actions import ActionSpec
from worldflow.errors import DataError

FORMAT_VERSION = 2
# Fields that version 1 did not have, and what was true of every dataset then.
ADDED_IN_2: dict[str, Any] = {"has_rewards": True, "has_terminations": True, "lossy": None}


@dataclass(frozen=True)
class DatasetMetadata:
    """What `dataset.json` says of a whole dataset.

    Args:
        source: the environment or videos the frames came from, JSON-able.
        action_spec: kind and limits of the actions.
        frame_shape: (H, W, 3).
        fps: frames per second of the source.
        seed: seed of the collection.
        collect: the other settings of the collection, JSON-able.
        has_rewards: whether rewards were recorded; those in the episodes are zeros otherwise.
        has_terminations: whether terminations were recorded; False otherwise.
        lossy: what lossy compression the frames went through before they came here, such as "h264
            video". Likelihoods describe it too.
    """

    source: dict[str, Any]
    action_spec: ActionSpec
    frame_shape: tuple[int, int, int]
    fps: float
    seed: int
    collect: dict[str, Any]
    has_rewards: bool = True
    has_terminations: bool = True
    lossy: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form (tuples as lists); `from_dict` is its inverse."""
        return json.loads(json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], path: Path) -> DatasetMetadata:
        """The metadata that `to_dict` wrote; `path` is named in errors.

        Raises:
            DataError: a field is missing or unknown, or the format version is another one.
        """
        version = values.get("format_version")
        if version == 1:
            values = {**ADDED_IN_2, **values}
        elif version != FORMAT_VERSION:
            raise DataError(
                f"{path}: format_version is {version!r}, this worldflow reads 1 and "
                f"{FORMAT_VERSION}; collect the data again or use the worldflow that wrote it"
            )
        expected = {field.name for field in fields(cls)} | {"format_version"}
        if set(values) != expected:
            raise DataError(
                f"{path}: missing fields {sorted(expected - set(values))}, unknown fields "
                f"{sorted(set(values) - expected)}; the file is not of this format"
            )
        try:
            height, width, channels = (int(size) for size in values["frame_shape"])
            return cls(
                source=dict(values["source"]),
                action_spec=ActionSpec.from_dict(values["action_spec"]),
                frame_shape=(height, width, channels),
                fps=float(values["fps"]),
                seed=int(values["seed"]),
                collect=dict(values["collect"]),
                has_rewards=bool(values["has_rewards"]),
                has_terminations=bool(values["has_terminations"]),
                lossy=None if values["lossy"] is None else str(values["lossy"]),
            )
        except (TypeError, ValueError, DataError) as error:
            raise DataError(
                f"{path}: action_spec, frame_shape or another field has a wrong value ({error}); "
                "restore the file or collect again"
            ) from error


def read_metadata(folder: Path) -> DatasetMetadata:
    """The metadata in `folder/dataset.json`.

    Raises:
        DataError: the file is missing or is not this format.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise DataError(f"{path} is missing: {folder} is no dataset; make one: worldflow collect")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); restore or collect again") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds no JSON object; restore or collect again")
    return DatasetMetadata.from_dict(values, path)


def check_same(folder: Path, metadata: DatasetMetadata) -> None:
    """Raises DataError if `folder` holds a dataset of other metadata."""
    path = folder / "dataset.json"
    if not path.exists():
        return
    old, new = read_metadata(folder).to_dict(), metadata.to_dict()
    for name in new:
        if old[name] != new[name]:
            raise DataError(
                f"{path}: its field {name!r} is {old[name]}, this run has {new[name]}; use the "
                "same settings to continue, or another output folder"
            )


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name, flush to disk and rename: `path` is complete or absent."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def without_place(source: Mapping[str, Any]) -> dict[str, Any]:
    """What a source is, without the path where it lies: it may be moved."""
    return {name: value for name, value in source.items() if name != "path"}


def games_of(source: Mapping[str, Any]) -> list[str]:
    """Ids of the environments that a source is, or was merged of; none of videos.

    >>> games_of({"merged": [{"source": {"env_id": "A-v0"}}, {"source": {"env_id": "A-v0"}}]})
    ['A-v0']
    """
    sources = [part["source"] for part in source.get("merged", [])] or [source]
    return list(dict.fromkeys(str(each["env_id"]) for each in sources if each.get("env_id")))
