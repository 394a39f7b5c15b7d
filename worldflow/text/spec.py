"""Which encoder a world's captions went through."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextSpec:
    """What a world must know of the text that it learned from; the encoder is no part of it.

    Attributes:
        encoder: a name of `worldflow.text.encoder.NAMES`, or the folder of a transformers model.
        digest: of the encoder's files; another encoder of the same width would mean other text.
        width: E, of an embedding.
        examples: the most frequent captions, so that a prompt can be compared with them.
    """

    encoder: str
    digest: str
    width: int
    examples: tuple[str, ...] = ()
