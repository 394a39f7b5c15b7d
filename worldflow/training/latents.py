"""What the flow learns from: every frame as latents, encoded once by the frozen codec.

Latents lie in one file on disk that is mapped, not read, so memory does not grow with the data.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from worldflow.codec import Codec
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.metadata import write_atomically
from worldflow.errors import DataError
from worldflow.training.batches import Episodes

CHUNK = 64  # frames encoded at once
SAVE_EVERY = 100  # episodes


class LatentEpisodes(Episodes):
    """The latents of a dataset under a codec, in `folder`.

    The file belongs to the codec's weights and to the data: under others it is written anew. If it
    was being written when the run was killed, it is continued after the last whole episode. One
    that is found is checked against the sums that were taken when it was written.

    Args:
        codec: frozen.
        dataset: whose frames are encoded.
        folder: where the file lies, or is written.

    Attributes:
        key: a digest of the codec's weights and of the data.

    Raises:
        DataError: the disk has no room for it.
    """

    def __init__(self, codec: Codec, dataset: EpisodeDataset, folder: Path) -> None:
        self._codec, self._dataset = codec, dataset
        self._data, self._state = folder / "latents.bin", folder / "latents.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._starts = np.concatenate(([0], np.cumsum(dataset.lengths)))
        shape = (int(self._starts[-1]), codec.tokens, codec.config.channels)
        self.key = _key(codec, dataset)
        sums = self._found(self.key)
        self._check_room(shape)
        self._frames = np.memmap(self._data, np.float32, "r+" if sums else "w+", shape=shape)
        sums = self._whole(sums)
        self._encode(self.key, sums)
        self.latents = _Slices(self._frames, self._starts)
        self.read_steps(dataset)

    def _found(self, key: str) -> list[int]:
        """Check sums of the episodes that are there already; none if they are of other data."""
        if not self._state.exists() or not self._data.exists():
            return []
        state = json.loads(self._state.read_text(encoding="utf-8"))
        size = self._data.stat().st_size
        expected = int(self._starts[-1]) * self._codec.tokens * self._codec.config.channels * 4
        return list(state["sums"]) if state["key"] == key and size == expected else []

    def _check_room(self, shape: tuple[int, int, int]) -> None:
        needed = 4 * math.prod(shape)
        there = self._data.stat().st_size if self._data.exists() else 0
        free = shutil.disk_usage(self._data.parent).free + there
        if needed > free:
            raise DataError(
                f"{self._data} needs {needed / 1e9:.1f} GB for the latents of {shape[0]} frames, "
                f"{free / 1e9:.1f} GB are free; put the run on a larger disk with out="
            )

    def _whole(self, sums: list[int]) -> list[int]:
        """The sums up to the first episode that does not agree with its own."""
        for index, expected in enumerate(sums):
            if self._sum(index) != expected:
                return sums[:index]
        return sums

    @torch.no_grad()
    def _encode(self, key: str, sums: list[int]) -> None:
        done, device = len(sums), next(self._codec.parameters()).device
        for index in tqdm(
            range(done, len(self._dataset)),
            initial=done,
            total=len(self._dataset),
            desc="encode frames",
            unit="episode",
            disable=done == len(self._dataset),
        ):
            start, length = int(self._starts[index]), int(self._dataset.lengths[index])
            for first in range(0, length, CHUNK):
                frames = torch.from_numpy(self._dataset.read(index, first, first + CHUNK).frames)
                encoded = self._codec.encode_frames(frames.to(device)).float().cpu().numpy()
                self._frames[start + first : start + first + len(encoded)] = encoded
            sums.append(self._sum(index))
            if len(sums) % SAVE_EVERY == 0 or len(sums) == len(self._dataset):
                self._frames.flush()
                state = {"key": key, "sums": sums}
                write_atomically(self._state, json.dumps(state).encode())

    def _sum(self, index: int) -> int:
        return zlib.crc32(self._frames[self._starts[index] : self._starts[index + 1]].data)


class _Slices:
    """One array (T, N, C) an episode, cut from the array of all frames when it is asked for."""

    def __init__(self, frames: np.ndarray, starts: np.ndarray) -> None:
        self._frames, self._starts = frames, starts

    def __getitem__(self, index: int) -> np.ndarray:
        return self._frames[self._starts[index] : self._starts[index + 1]]


def _key(codec: Codec, dataset: EpisodeDataset) -> str:
    """A digest of the codec's weights and of the data."""
    digest = hashlib.sha256(dataset.fingerprint().encode())
    for name, value in sorted(codec.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
