"""The captions of a dataset as vectors, encoded once and kept in the run's folder."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.metadata import write_atomically
from worldflow.errors import ConfigError
from worldflow.text.encoder import embed, load_encoder
from worldflow.text.spec import TextSpec

FILE = "captions.safetensors"
EXAMPLES = 64  # captions that a world names


@dataclass(frozen=True)
class EncodedCaptions:
    """What a run learns from beside frames and actions.

    Attributes:
        spec: how they were encoded.
        vectors: (E, W) float32, of each episode; zeros where it has no caption.
    """

    spec: TextSpec
    vectors: np.ndarray


def encode_captions(name: str, dataset: EpisodeDataset, folder: Path) -> EncodedCaptions:
    """The captions of a dataset under an encoder, from `folder` where they lie there already.

    Args:
        name: see `worldflow.text.encoder.load_encoder`.
        dataset: with captions.
        folder: of the run.

    Raises:
        ConfigError: the encoder cannot be loaded, or no episode has a caption.
        DataError: a caption is longer than the encoder reads.
    """
    counts = Counter(caption for caption in dataset.captions if caption is not None)
    if not counts:
        raise ConfigError(
            f"text={name}, but no episode in {dataset.folder} has a caption; see docs/text.md on "
            "how to give some, or use text=null"
        )
    encoder = load_encoder(name)
    unique = sorted(counts)
    key = hashlib.sha256(json.dumps([encoder.digest, unique]).encode()).hexdigest()
    vectors = _read(folder / FILE, key)
    if vectors is None:
        vectors = embed(encoder, unique).numpy()
        write_atomically(folder / FILE, save({"vectors": vectors}, {"key": key}))
    examples = tuple(caption for caption, _ in counts.most_common(EXAMPLES))
    spec = TextSpec(name, encoder.digest, encoder.width, examples)
    return EncodedCaptions(spec, _rows(dataset.captions, unique, vectors))


def check_text_dropout(where: str, share: float, captions: Sequence[str | None]) -> None:
    """Refuse a share of hidden captions with which text, or its absence, would not be learned.

    Args:
        where: the setting's name, for the message.
        share: of the clips whose caption is hidden.
        captions: of the episodes.

    Raises:
        ConfigError: it hides all, or none where each episode has one.
    """
    if share == 1.0:
        raise ConfigError(f"{where}=1 hides every caption; lower it, or use text=null")
    if share == 0.0 and None not in captions:
        raise ConfigError(
            f"{where}=0, and every episode has a caption: the world would not learn to go without "
            "one, which guidance and every use without a prompt need; use 0.1"
        )


def _rows(captions: Sequence[str | None], unique: list[str], vectors: np.ndarray) -> np.ndarray:
    numbers = {caption: number for number, caption in enumerate(unique)}
    rows = np.zeros((len(captions), vectors.shape[1]), np.float32)
    for row, caption in enumerate(captions):
        if caption is not None:
            rows[row] = vectors[numbers[caption]]
    return rows


def _read(path: Path, key: str) -> np.ndarray | None:
    """The vectors of a file, None if there is none or it is of other captions or damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("key") == key:
                return np.asarray(file.get_tensor("vectors"))
    except SafetensorError:
        print(f"{path} is damaged: captions are encoded again")
    return None
