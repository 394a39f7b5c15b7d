"""`worldflow data convert SRC DST`: recordings of any format in any that can be written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from worldflow.data.formats.registry import open_recordings
from worldflow.data.importing import ImportConfig, import_dataset, summary
from worldflow.data.journal import Imported
from worldflow.data.writing import WRITERS
from worldflow.errors import ConfigError


@dataclass
class ConvertConfig:
    """Settings of `worldflow data convert`.

    Attributes:
        src: file or folder of recordings.
        dst: folder for the episodes.
        format: in which they are written: "store" (our own, which alone keeps everything), "npz",
            "hdf5" or "video" (lossless).
        data: how they are read, resized, cut and aligned.
    """

    src: str = MISSING
    dst: str = MISSING
    format: str = "store"
    data: ImportConfig = field(default_factory=ImportConfig)


def main(config: ConvertConfig) -> list[Imported]:
    """Convert; a conversion that was killed continues.

    Raises:
        DataError: see `import_dataset`.
        ConfigError: no such format, or source and destination are the same.
    """
    if config.format not in WRITERS:
        raise ConfigError(f"format={config.format!r} cannot be written; use {', '.join(WRITERS)}")
    source, folder = Path(config.src), Path(config.dst)
    if folder.resolve() == source.resolve() or folder.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{folder} lies in {source}; choose a folder outside of it")
    raw = open_recordings(source, config.data.format)
    done = import_dataset(raw, folder, config.data, WRITERS[config.format])
    print(summary(done))
    print(f"episodes in {folder}")
    return done
