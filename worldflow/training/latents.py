"""What the flow learns from: every frame as latents, encoded once by the frozen codec.

Latents lie in one file on disk that is mapped, not read, so memory does not grow with the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from worldflow.codec import Codec
from worldflow.data.episodes import EpisodeDataset
from worldflow.training.batches import Episodes
from worldflow.training.distributed import Ranks
from worldflow.training.latent_file import LatentFile

CHUNK = 64  # frames encoded at once
SAVE_EVERY = 100  # episodes


class LatentEpisodes(Episodes):
    """The latents of a dataset under a codec, in `folder`.

    The file belongs to the codec's weights and to the data: under others it is written anew. If it
    was being written when the run was killed, it is continued, by however many ranks. One that is
    found is checked against the sums that were taken when it was written. Each rank checks and
    encodes a part.

    Args:
        codec: frozen, the same on all ranks.
        dataset: whose frames are encoded.
        folder: where the file lies, or is written; all ranks must see it.
        ranks: that do it together; all must call this.
        text: of its episodes, (E, W); None: none.

    Attributes:
        key: a digest of the codec's weights and of the data.

    Raises:
        DataError: the disk has no room for it.
    """

    def __init__(
        self,
        codec: Codec,
        dataset: EpisodeDataset,
        folder: Path,
        ranks: Ranks | None = None,
        text: np.ndarray | None = None,
    ) -> None:
        ranks = ranks or Ranks()
        file = LatentFile(folder, dataset.lengths, (codec.tokens, codec.config.channels))
        # the main rank's key: machines that compute a little differently must not differ in it
        self.key = ranks.share(_key(codec, dataset) if ranks.main else "")
        sums = ranks.share(file.prepare(self.key) if ranks.main else [])
        _complete(file, self.key, sums, codec, dataset, ranks)
        starts = np.concatenate(([0], np.cumsum(dataset.lengths)))
        self.latents = _Slices(file.read(), starts)
        self.read_steps(dataset, text)


def _complete(
    file: LatentFile,
    key: str,
    sums: list[int | None],
    codec: Codec,
    dataset: EpisodeDataset,
    ranks: Ranks,
) -> None:
    """Write the episodes that have no sum in `sums`, or another one."""
    frames = file.read()
    present = [index for index, expected in enumerate(sums) if expected is not None]
    checked = {index: file.sum(frames, index) for index in present[ranks.rank :: ranks.size]}
    del frames  # what was written by another machine must not be seen in an old map
    found = {index: value for part in ranks.gather(checked) for index, value in part.items()}
    missing = [
        index for index, expected in enumerate(sums) if expected is None or found[index] != expected
    ]
    mine, written = missing[ranks.rank :: ranks.size], dict[int, int]()
    if mine:
        with file.open() as stream:
            for index in tqdm(mine, desc="encode frames", unit="episode", disable=not ranks.main):
                written[index] = file.write(stream, index, _encoded(codec, dataset, index))
                if len(written) % SAVE_EVERY == 0 or len(written) == len(mine):
                    file.note(stream, key, ranks.rank, written)
    for part in ranks.gather(written):
        for index, value in part.items():
            sums[index] = value
    if ranks.main and missing:
        file.finish(key, sums)
    ranks.share(None)  # all wait until it is finished


@torch.no_grad()
def _encoded(codec: Codec, dataset: EpisodeDataset, index: int) -> Iterator[np.ndarray]:
    """The latents of an episode, (T, N, C) in parts."""
    device = next(codec.parameters()).device
    for first in range(0, int(dataset.lengths[index]), CHUNK):
        frames = torch.from_numpy(dataset.read(index, first, first + CHUNK).frames)
        yield codec.encode_frames(frames.to(device)).float().cpu().numpy()


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
