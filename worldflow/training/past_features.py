"""What the frozen global block knows of every frame before it is made, computed once.

A file holds, of each frame of the training episodes, in half precision: the features of its past,
its latents, the noisy latents that it is in the pasts of later frames, and its condition. That is
what stages need that leave the past as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldflow.data.metadata import write_atomically
from worldflow.training.batches import Episodes
from worldflow.training.flow_gradients import clip_noise, some_text
from worldflow.training.latent_file import check_room
from worldflow.training.loop import row_generators
from worldflow.world_model import WorldModel

CLIPS = 16  # read at once


class PastFeatures:
    """The features of the pasts of all frames of some episodes, in `folder`.

    The file belongs to the weights that read the past, to the latents and to how clips are cut;
    under others it is written anew.

    Args:
        world: its codec, conditioning and past are frozen.
        episodes: encoded by its codec.
        latents_key: a digest of the latents.
        indices: of the episodes.
        lengths: frames of each episode of the dataset.
        clip: frames that are read at once; the first W of a clip, but for an episode's beginning,
            are a past only.
        dropout: shares of the clips whose actions, and whose captions, are hidden. Like the noise
            on the latents of the past, it is drawn once for all of training.
        seed: of the noise on the latents of the past.
        folder: where the file lies, or is written.

    Attributes:
        key: a digest of all of that.
        past: (F, N, width) float16, mapped, of the frames of `indices` one episode after another;
            and so are the others.
        latents: (F, N, C).
        noisy: (F, N, C); the past of a clip's first W frames had other noise.
        condition: (F, D).
    """

    def __init__(
        self,
        world: WorldModel,
        episodes: Episodes,
        latents_key: str,
        indices: np.ndarray,
        lengths: np.ndarray,
        clip: int,
        dropout: tuple[float, float],
        seed: int,
        folder: Path,
    ) -> None:
        self._world, self._episodes, self._seed = world, episodes, seed
        self._clip, self._dropout = clip, dropout
        self._cuts = list(_cuts(indices, lengths, clip, world.config.flow.window))
        self._indices = np.asarray(indices)
        self._ends = np.cumsum(lengths[indices])
        self._begins = self._ends - lengths[indices]
        width = world.config.flow.global_block.past.width
        tokens, channels = world.tokens, world.channels
        sizes = [tokens * width, tokens * channels, tokens * channels, world.config.condition]
        shape = (int(self._ends[-1]), sum(sizes))
        path, note = folder / "past.bin", folder / "past.json"
        key = self.key = self._key(latents_key, indices)
        size = 2 * shape[0] * shape[1]
        there = note.exists() and path.exists() and path.stat().st_size == size
        if not (there and json.loads(note.read_text())["key"] == key):
            note.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            check_room(path, size, "the pasts of all frames")
            self._write(np.memmap(path, np.float16, "w+", shape=shape))
            write_atomically(note, json.dumps({"key": key}).encode())
        found = np.memmap(path, np.float16, "r", shape=shape)
        past, latents, noisy, self.condition = np.split(found, np.cumsum(sizes)[:-1], axis=1)
        self.past = past.reshape(-1, tokens, width)
        self.latents, self.noisy = (x.reshape(-1, tokens, channels) for x in (latents, noisy))

    def __len__(self) -> int:
        """F."""
        return len(self.past)

    def rows(self, picks: list[tuple[int, int]], clip: int) -> np.ndarray:
        """Numbers (B, T) of the frames of clips; beyond an episode's end that of its last frame.

        Args:
            picks: (episode, first frame) of each clip.
            clip: T.
        """
        episodes, starts = (np.array(values) for values in zip(*picks, strict=True))
        order = np.argsort(self._indices)
        place = order[np.searchsorted(self._indices, episodes, sorter=order)]
        rows = (self._begins[place] + starts)[:, None] + np.arange(clip)
        return np.minimum(rows, self._ends[place, None] - 1)

    def picks(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episodes (B,) and frames (B,) of the frames numbered `rows` (B,)."""
        place = np.searchsorted(self._ends, rows, side="right")
        return self._indices[place], rows - self._begins[place]

    @torch.no_grad()
    def _write(self, file: np.memmap) -> None:
        world, device = self._world, next(self._world.parameters()).device
        block, shape, row = world.flow.global_block, (world.tokens, world.channels), 0
        bar = tqdm(range(0, len(self._cuts), CLIPS), desc="read pasts", unit="batch")
        for start in bar:
            cuts = self._cuts[start : start + CLIPS]
            batch = self._episodes.batch(
                [(index, begin) for index, begin, _, _ in cuts], self._clip
            )
            generators = row_generators(self._seed, "past", start, range(len(cuts)))
            actions, captions = self._dropout
            noise, known = clip_noise(generators, (self._clip, *shape), batch.known, actions)
            text = some_text(generators, batch.text, captions)
            noisy = (batch.latents + world.config.sigma * noise).to(device)
            condition = world.conditioning(
                batch.actions.to(device), known.to(device), text.to(device)
            )
            past = block.past_of(world.flow.hidden(noisy), condition)
            parts = (past, batch.latents, noisy, condition)
            found = torch.cat([part.cpu().flatten(2) for part in parts], dim=-1).half().numpy()
            for clip, (_, begin, first, stop) in zip(found, cuts, strict=True):
                file[row : row + stop - first] = clip[first - begin : stop - begin]
                row += stop - first
        file.flush()

    def _key(self, latents_key: str, indices: np.ndarray) -> str:
        world = self._world
        window, sigma = world.config.flow.window, world.config.sigma
        cut = (self._clip, window, self._dropout, self._seed, sigma)
        digest = hashlib.sha256(f"{latents_key} {cut} {indices.tolist()}".encode())
        digest.update(np.ascontiguousarray(self._episodes.text).tobytes())
        block = world.flow.global_block
        for module in (world.conditioning, world.flow.local_blocks, block.embed, block.past):
            for value in module.state_dict().values():
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def tensors(*arrays: np.ndarray) -> Iterator[Tensor]:
    """Rows of the file in float32."""
    return (torch.from_numpy(np.asarray(array, np.float32)) for array in arrays)


def _cuts(
    indices: np.ndarray, lengths: np.ndarray, clip: int, window: int
) -> Iterator[tuple[int, int, int, int]]:
    """Episode, first frame of the clip, and the frames from and up to which it is for; clip > W.

    Each frame is in one; those after an episode's first clip have W frames before them in theirs.
    """
    for index in indices.tolist():
        done, length = 0, int(lengths[index])
        while done < length:
            begin = max(done - window, 0)
            stop = min(begin + clip, length)
            yield index, begin, done, stop
            done = stop
