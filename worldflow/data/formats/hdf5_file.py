"""HDF5 files, opened and searched one safe way: nothing is read that lies in another file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflow.data.formats.array_files import check_bytes
from worldflow.data.formats.extras import load_extra
from worldflow.errors import DataError

if TYPE_CHECKING:
    import h5py

# What h5py makes of HDF5's errors on damaged files.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)
_CHUNK_CACHE = 2**26  # bytes; else a chunk longer than a slice is decompressed for each slice


@contextmanager
def open_hdf5(name: str, path: Path) -> Iterator[h5py.File]:
    """An open file.

    Raises:
        DataError: it is damaged, which may turn out while it is read.
        ConfigError: h5py is not installed.
    """
    h5py = load_extra("h5py", path)
    try:
        with h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE) as file:
            yield file
    except DAMAGE as error:
        raise DataError(
            f"{name}: cannot be read as HDF5 ({error}); get the file again or remove it"
        ) from error


def is_group(node: Any) -> bool:
    """Whether this is a group of an open file."""
    import h5py

    return isinstance(node, h5py.Group)


def is_array(node: Any) -> bool:
    """Whether this is a dataset of an open file, and not one without a shape."""
    import h5py

    return isinstance(node, h5py.Dataset) and node.shape is not None


def address(node: Any) -> int:
    """Where a group or dataset lies in its file: one number, however many links lead to it."""
    import h5py

    return int(h5py.h5o.get_info(node.id).addr)


def find(name: str, node: Any, path: str) -> Any:
    """The group or dataset at a path below `node`, None if there is none.

    Raises:
        DataError: a link is on the way that is not a hard one, or the data lie in another file.
    """
    import h5py

    for part in filter(None, path.split("/")):
        # Not `part in node`, which follows external links.
        if not is_group(node) or not node.id.links.exists(part.encode()):
            return None
        if node.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise DataError(f"{name}: {part} is a soft or external link; put the data in its place")
        node = node[part]
    if is_array(node) and (node.is_virtual or node.external):
        raise DataError(f"{name}: the data of {path} lie in other files; store them in this one")
    return node


def read_array(name: str, node: Any) -> np.ndarray:
    """A whole dataset; raises DataError if it is none, or not of numbers, or too large."""
    if not is_array(node):
        raise DataError(f"{name} is missing or no array; get the file again or remove it")
    check_bytes(name, node.shape, node.dtype)
    return np.asarray(node[()])
