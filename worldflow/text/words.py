"""A text as the set of its words: no weights, no other package, no idea what words mean.

Enough for captions from a small vocabulary, as those made from a game's state. Of a word that no
caption had, a world has learned nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldflow.errors import DataError

WIDTH = 64
MAX_WORDS = 256
_WORD = re.compile(r"\w+")


class WordEncoder:
    """The sum of a fixed random direction for each word, of unit length (feature hashing).

    Case, order and repetition do not count.
    """

    name, width = "words", WIDTH
    digest = hashlib.sha256(b"worldflow words 1").hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, E) float32.

        Raises:
            DataError: a text has no word, or more than `MAX_WORDS`.
        """
        return torch.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Tensor:
        words = _WORD.findall(text.lower())
        if not words:
            raise DataError(f"the text {text[:40]!r} has no words; write some, or give no text")
        if len(words) > MAX_WORDS:
            raise DataError(
                f"the text {text[:40]!r}... has {len(words)} words, the encoder 'words' reads "
                f"{MAX_WORDS}; shorten it"
            )
        total = np.sum([_direction(word) for word in sorted(set(words))], axis=0)
        return torch.from_numpy((total / np.linalg.norm(total)).astype(np.float32))


def _direction(word: str) -> np.ndarray:
    """(E,) float64, the same for a word on every machine: signs from its hash."""
    digest = hashlib.sha256(word.encode()).digest()
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))[:WIDTH]
    return np.asarray(2.0 * bits - 1.0)
