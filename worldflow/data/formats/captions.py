"""Captions: text files beside recordings."""

from __future__ import annotations

from pathlib import Path

from worldflow.errors import DataError

CAPTION_SUFFIX = ".txt"
MAX_BYTES = 65_536  # a larger file is no caption


def read_caption(path: Path) -> str:
    """The text of a file, its white space as single spaces.

    Raises:
        DataError: it is empty, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = " ".join(content.decode("utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no caption in UTF-8 ({error}); repair or remove it") from error
    if not text or len(content) > MAX_BYTES:
        raise DataError(
            f"{path}: a caption has words, and no more than {MAX_BYTES} bytes; this one has "
            f"{len(content)}; shorten or remove it"
        )
    return text
