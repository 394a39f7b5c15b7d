"""What `data=` names, as a dataset: our own store as it is, all else imported first."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from omegaconf import MISSING

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.formats.base import RawDataset, readable
from worldflow.data.formats.registry import detect, open_recordings
from worldflow.data.formats.store import STORE
from worldflow.data.importing import ImportConfig, import_dataset, summary
from worldflow.data.journal import NAME as JOURNAL
from worldflow.data.metadata import read_metadata


@dataclass
class DataConfig(ImportConfig):
    """The data of a run.

    Attributes:
        path: file or folder of recordings in any format of `worldflow.data.formats`.
        held_out: share of the frames (of the episodes, where each is a recording of its own) that
            is measured on and not learned from.
        imported: folder for what is imported; null: `data` in the run's folder.
    """

    path: str = MISSING
    held_out: float = 0.1
    imported: str | None = None


PARTS = 10  # of the only recording of a set
SHORTEST = 24  # frames of such a part


def open_dataset(config: DataConfig, folder: Path, parts: bool = False) -> EpisodeDataset:
    """The dataset of a run, imported to `folder` (or `config.imported`) where that is needed.

    Our own store is read where it lies, unless its frames shall have another size or rate.

    Args:
        config: what is opened, and how it is imported.
        folder: where to, unless the config says.
        parts: whether a set of one readable recording is cut into parts, some of which can be
            held out.

    Raises:
        DataError: nothing that can be read lies there.
        ConfigError: settings that do not fit what lies there.
    """
    path = Path(config.path)
    chosen = {name: value for name, value in asdict(config).items() if name in _IMPORT_FIELDS}
    settings = ImportConfig(**chosen)
    kind = detect(path).name if config.format == "auto" else config.format
    if kind == STORE.name:
        dataset = EpisodeDataset(path)
        height, width, _ = dataset.frame_shape
        same_size = settings.size is None or (settings.size,) * 2 == (height, width)
        if same_size and settings == ImportConfig(size=settings.size, format=config.format):
            return dataset
    target = Path(config.imported) if config.imported is not None else folder
    raw = open_recordings(path, kind)
    if parts:
        settings = _in_parts(raw, target, settings)
    print(summary(import_dataset(raw, target, settings)))
    return EpisodeDataset(target)


def _in_parts(raw: RawDataset, target: Path, settings: ImportConfig) -> ImportConfig:
    """Settings that cut the only recording into `PARTS` parts, if `segment` does not cut it finer.

    Those that cannot be opened do not count. An import that was begun in `target` keeps its parts,
    since most videos tell how many frames they have only when all are decoded.

    Raises:
        DataError: the recording cannot be read.
    """
    found = list(islice(readable(raw.names, raw.open), 2))
    if len(found) != 1:
        return settings
    [(name, recording)] = found
    if (target / JOURNAL).exists() and (target / "dataset.json").exists():
        begun = read_metadata(target).collect.get("segment", settings.segment)
        return replace(settings, segment=min(settings.segment, int(begun)))
    if len(raw.names) > 1 and settings.on_error == "raise":
        return settings  # the import will name what cannot be opened, without decoding first
    frames = recording.frames or sum(1 for _ in recording.read())
    kept = frames * min((settings.fps or raw.fps) / raw.fps, 1.0) / settings.frame_skip
    segment = min(settings.segment, max(math.ceil(kept / PARTS), SHORTEST))
    print(f"{name} is all there is: it is cut into parts of {segment} frames")
    return replace(settings, segment=segment)


_IMPORT_FIELDS = ImportConfig.__dataclass_fields__.keys()
