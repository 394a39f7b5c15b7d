"""Frames of known colours, in .npz and HDF5 files."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldflow.data.formats.base import RawEpisode


def images(length: int, first: int = 0) -> np.ndarray:
    """Frame t is (t, t + 10, t + 20), counted from `first`."""
    colours = first + np.arange(length)[:, None] + np.array([0, 10, 20])
    return np.broadcast_to(colours[:, None, None], (length, 4, 6, 3)).astype(np.uint8).copy()


def pixels(episode: RawEpisode) -> np.ndarray:
    return np.stack([frame.pixels for frame in episode.read()])


def write_hdf5(path: Path, attributes: dict[str, Any] | None = None, **datasets: Any) -> Path:
    """A file of datasets, whose keys have "__" for "/"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file.create_dataset(key.replace("__", "/"), data=value)
        file.attrs.update(attributes or {})
    return path


def write_npz(path: Path, compress: bool = True, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if compress else np.savez)(path, **arrays)
    return path


def write_csgo(path: Path, length: int) -> None:
    """Frame i is blue by i, and its action has a one at place i."""
    with h5py.File(path, "w") as file:
        for i in range(length):
            file[f"frame_{i}_x"] = np.broadcast_to(np.uint8([100 + i, 1, 2]), (4, 6, 3))  # BGR
            file[f"frame_{i}_y"] = np.eye(51)[i]
            file[f"frame_{i}_xaux"] = np.zeros(54)
            file[f"frame_{i}_helperarr"] = np.array([0.0, 1.0])
