"""The registry of formats: what offline data are read from, told by what lies on disk."""

from __future__ import annotations

from pathlib import Path

from worldflow.data.formats.base import Format, RawDataset
from worldflow.data.formats.hdf5 import HDF5
from worldflow.data.formats.lerobot import LEROBOT
from worldflow.data.formats.minari import MINARI
from worldflow.data.formats.npz import NPZ
from worldflow.data.formats.store import STORE
from worldflow.data.formats.video import VIDEO
from worldflow.errors import ConfigError, DataError

# In the order in which they are tried: those that a file of their own gives away come first.
FORMATS: dict[str, Format] = {
    entry.name: entry for entry in (STORE, LEROBOT, MINARI, HDF5, VIDEO, NPZ)
}


def detect(path: Path) -> Format:
    """The format of what lies at `path`.

    Raises:
        DataError: nothing lies there, or nothing that is known.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give a folder or a file of episodes")
    for entry in FORMATS.values():
        if entry.detect(path):
            return entry
    known = "; ".join(f"{name}: {entry.describes}" for name, entry in FORMATS.items())
    raise DataError(f"{path} holds no episodes of a known format ({known})")


def open_recordings(path: Path, kind: str = "auto") -> RawDataset:
    """Open the recordings at `path`.

    Args:
        path: a file or a folder.
        kind: name of the format, or "auto".

    Raises:
        DataError: nothing that can be read lies there.
        ConfigError: no such format.
    """
    if kind == "auto":
        return detect(path).open(path)
    if kind not in FORMATS:
        raise ConfigError(f"format {kind!r} is unknown; use auto, {', '.join(FORMATS)}")
    if not path.exists():
        raise DataError(f"{path} does not exist; give a folder or a file of episodes")
    return FORMATS[kind].open(path)
