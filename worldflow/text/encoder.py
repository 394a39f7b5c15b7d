"""From sentences to vectors: the interface, and which encoders there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from worldflow.errors import ConfigError, DataError, WorldFormatError
from worldflow.text.spec import TextSpec
from worldflow.text.words import WordEncoder

MINILM, WORDS = "minilm", "words"
NAMES = (MINILM, WORDS)


class TextEncoder(Protocol):
    """Turns sentences into vectors, always the same ones.

    Attributes:
        name: how a user calls it.
        width: E.
        digest: that no other encoder shares.
    """

    name: str
    width: int
    digest: str

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, E) float32, on the CPU.

        Raises:
            DataError: a text is empty, or longer than the encoder reads.
        """


def load_encoder(name: str) -> TextEncoder:
    """The encoder of a name or a folder; nothing is downloaded.

    Args:
        name: "minilm" (all-MiniLM-L6-v2, 384 dimensions, English), "words" (each word a direction
            of its own; no other package is needed), or the folder of a transformers model.

    Raises:
        ConfigError: there is no such encoder, or what it needs is not installed.
    """
    if name == WORDS:
        return WordEncoder()
    from worldflow.text.pretrained import PretrainedEncoder, minilm_folder

    if name == MINILM:
        return PretrainedEncoder(minilm_folder(), MINILM)
    if not Path(name).is_dir():
        raise ConfigError(
            f"there is no text encoder {name!r}; use {', '.join(NAMES)}, or the folder of a "
            "transformers model"
        )
    return PretrainedEncoder(Path(name), name)


def encoder_of(spec: TextSpec | None, elsewhere: str | None = None) -> TextEncoder:
    """The encoder that a world learned with.

    Args:
        spec: the world's.
        elsewhere: name or folder, if the encoder's folder was moved.

    Raises:
        DataError: the world was trained without text.
        ConfigError: the encoder cannot be loaded, see `load_encoder`.
        WorldFormatError: it is another one than the world learned with.
    """
    if spec is None:
        raise DataError(
            "this world learned without captions, so no prompt can be given; pretrain one with "
            "text=minilm on data with captions"
        )
    encoder = load_encoder(elsewhere or spec.encoder)
    if (encoder.digest, encoder.width) != (spec.digest, spec.width):
        raise WorldFormatError(
            f"the text encoder {encoder.name} has digest {encoder.digest} and {encoder.width} "
            f"dimensions, this world learned with {spec.encoder}: {spec.digest}, {spec.width}; "
            "install the version that it learned with, or pretrain again"
        )
    return encoder


def embed(encoder: TextEncoder, texts: Sequence[str | None]) -> Tensor:
    """Texts as a world takes them, (B, E): unit vectors, and zeros where there is none.

    Equal texts are encoded once, and each text alone, so that its bits do not depend on the others.

    Raises:
        DataError: see `TextEncoder.encode`.
    """
    vectors: dict[str | None, Tensor] = {None: torch.zeros(encoder.width)}
    for text in texts:
        if text is not None and text not in vectors:
            vectors[text] = encoder.encode([text])[0]
    return torch.stack([vectors[text] for text in texts])
