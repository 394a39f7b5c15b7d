"""What the frozen global block knows of every frame before it is made, computed once.

A file holds, for each frame of the training episodes, the features of its past, (N, width), and its
latents, (N, C), in half precision: what a stage needs that trains the maps within a frame alone.
"""

from __future__ import annotations

import hashlib
import json
import math
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
        past: (F, N, width) float16, mapped.
        latents: (F, N, C) float16, mapped.
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
        frames = sum(stop - first for _, _, first, stop in self._cuts)
        width = world.config.flow.global_block.past.width
        shape = (frames, world.tokens, width + world.channels)
        path, note = folder / "past.bin", folder / "past.json"
        key = self.key = self._key(latents_key, indices)
        size = 2 * math.prod(shape)
        there = note.exists() and path.exists() and path.stat().st_size == size
        if not (there and json.loads(note.read_text())["key"] == key):
            note.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            check_room(path, size, "the pasts of all frames")
            self._write(np.memmap(path, np.float16, "w+", shape=shape))
            write_atomically(note, json.dumps({"key": key}).encode())
        found = np.memmap(path, np.float16, "r", shape=shape)
        self.past, self.latents = found[..., :width], found[..., width:]

    def __len__(self) -> int:
        """F."""
        return len(self.past)

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features of the past and latents of the frames `index` (B,), float32."""
        parts = (np.asarray(x[index], np.float32) for x in (self.past, self.latents))
        past, latents = (torch.from_numpy(x) for x in parts)
        return past, latents

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
            past = block.past_of(world.flow.hidden(noisy), condition).cpu()
            found = torch.cat((past, batch.latents), dim=-1).half().numpy()
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
