"""What `data=` names, as a dataset: our own store as it is, all else imported first."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from omegaconf import MISSING

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.formats.base import RawDataset
from worldflow.data.formats.registry import detect, open_recordings
from worldflow.data.formats.store import STORE
from worldflow.data.importing import ImportConfig, import_dataset, summary


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
        parts: whether a set of one recording is cut into parts, some of which can be held out.

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
    if parts and len(raw.names) == 1:
        settings = _in_parts(raw, settings)
    print(summary(import_dataset(raw, target, settings)))
    return EpisodeDataset(target)


def _in_parts(raw: RawDataset, settings: ImportConfig) -> ImportConfig:
    """Settings that cut the only recording into `PARTS` parts, if `segment` does not cut it finer.

    Raises:
        DataError: it cannot be read.
    """
    recording = raw.open(0)
    frames = recording.frames or sum(1 for _ in recording.read())
    kept = frames * min((settings.fps or raw.fps) / raw.fps, 1.0) / settings.frame_skip
    segment = min(settings.segment, max(math.ceil(kept / PARTS), SHORTEST))
    print(f"{recording.name} is all there is: it is cut into parts of {segment} frames")
    return replace(settings, segment=segment)


_IMPORT_FIELDS = ImportConfig.__dataclass_fields__.keys()
