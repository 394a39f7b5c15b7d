"""What a user asks for in words: its vector, and whether any caption was like it."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch import Tensor

from worldflow.text.encoder import embed, encoder_of
from worldflow.text.spec import TextSpec

FAR = 0.5  # cosine, below which no caption that was learned from is like a prompt


class Nearest(NamedTuple):
    """Of the captions that a world names the one most like a prompt.

    Attributes:
        text: the caption.
        cosine: of its vector with the prompt's.
    """

    text: str
    cosine: float


class Prompt(NamedTuple):
    """A prompt as a world takes it.

    Attributes:
        vector: (1, E).
        nearest: None where the world names no captions.
    """

    vector: Tensor
    nearest: Nearest | None

    @property
    def remark(self) -> str | None:
        """What to tell a user whose prompt is unlike all captions (another language, say)."""
        if self.nearest is None or self.nearest.cosine >= FAR:
            return None
        return (
            "no caption that this world learned from is like this prompt; the nearest is "
            f"{self.nearest.text!r} (similarity {self.nearest.cosine:.2f})"
        )


def read_prompt(spec: TextSpec | None, prompt: str, elsewhere: str | None = None) -> Prompt:
    """Encode a prompt for a world with this `spec`.

    Args:
        spec: the world's.
        prompt: in words.
        elsewhere: name or folder of the encoder, if it was moved since the world learned with it.

    Raises:
        DataError: the world learned from no captions; an empty prompt, or a too long one.
        ConfigError: the encoder cannot be loaded.
        WorldFormatError: it is another one than the world learned with.
    """
    encoder = encoder_of(spec, elsewhere)
    assert spec is not None  # else `encoder_of` raises
    vector = embed(encoder, [prompt])
    nearest = None
    if spec.examples:
        cosines = encoder.encode(spec.examples) @ vector[0]
        best = int(cosines.argmax())
        nearest = Nearest(spec.examples[best], float(cosines[best]))
    return Prompt(vector, nearest)


def prompt_vector(spec: TextSpec | None, prompt: str) -> Tensor:
    """The vector (1, E) of an env's prompt, with a warning if it is unlike all captions.

    Raises:
        DataError, ConfigError, WorldFormatError: see `read_prompt`.
    """
    read = read_prompt(spec, prompt)
    if read.remark is not None:
        warnings.warn(read.remark, stacklevel=2)
    return read.vector
