"""Parquet files, opened one safe way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldflow.data.formats.extras import load_extra
from worldflow.errors import DataError


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """An open `pyarrow.parquet.ParquetFile`.

    Raises:
        DataError: it is damaged, which may turn out while it is read.
        ConfigError: pyarrow is not installed.
    """
    pyarrow, parquet = load_extra("pyarrow", path), load_extra("pyarrow.parquet", path)
    try:
        # A stream, since pyarrow takes some names for addresses of other machines.
        with path.open("rb") as stream, parquet.ParquetFile(stream) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: no whole parquet file ({error}); get it again (git lfs pull, where it is a "
            "pointer) or remove it"
        ) from error
