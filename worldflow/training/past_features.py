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
from worldflow.data.windows import load_clips
from worldflow.training.batches import Episodes
from worldflow.training.flow_gradients import clip_noise, some_text
from worldflow.training.latent_file import check_room
from worldflow.training.loop import row_generators
from worldflow.world_model import WorldModel

CLIPS = 16  # read at once
VERSION = 2  # of what the file holds


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
        dropout: shares of the episodes whose actions, and whose captions, are hidden. Like the
            noise on the latents of an episode, that is drawn once for all of training.
        seed: of noise and dropout.
        folder: where the file lies, or is written.

    Attributes:
        key: a digest of all of that.
        past: (F, N, width) float16, mapped, of the frames of `indices` one episode after another;
            and so are the others.
        latents: (F, N, C).
        noisy: (F, N, C), as in the pasts of later frames.
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
        self._world, self._episodes, self._seed, self._dropout = world, episodes, seed, dropout
        self._lengths, self._clip = lengths, clip
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

    def numbers(self, picks: list[tuple[int, int]], clip: int) -> np.ndarray:
        """Numbers (B, T) of the frames of clips; beyond an episode's end that of its last frame.

        Args:
            picks: (episode, first frame) of each clip.
            clip: T.
        """
        episodes, starts = (np.array(values) for values in zip(*picks, strict=True))
        order = np.argsort(self._indices)
        place = order[np.searchsorted(self._indices, episodes, sorter=order)]
        numbers = (self._begins[place] + starts)[:, None] + np.arange(clip)
        return np.minimum(numbers, self._ends[place, None] - 1)

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episodes (B,) and frames in them (B,) of the frames numbered `numbers` (B,)."""
        place = np.searchsorted(self._ends, numbers, side="right")
        return self._indices[place], numbers - self._begins[place]

    def text(self, episodes: list[int]) -> Tensor:
        """The captions of episodes as they are shown, (B, W): zeros where they are hidden."""
        texts = []
        for episode in episodes:
            own = torch.from_numpy(self._episodes.text[[episode]])
            texts.append(some_text(self._streams(episode)[1:], own, self._dropout[1]))
        return torch.cat(texts)

    @torch.no_grad()
    def _write(self, file: np.memmap) -> None:
        world, device, row = self._world, next(self._world.parameters()).device, 0
        for start in tqdm(range(0, len(self._cuts), CLIPS), desc="read pasts", unit="batch"):
            cuts = self._cuts[start : start + CLIPS]
            clips = [(index, begin) for index, begin, _, _ in cuts]
            batch = self._episodes.batch(clips, self._clip)
            drawn = {index: self._drawn(index) for index, _ in clips}
            noise, _ = load_clips({i: each[0] for i, each in drawn.items()}, clips, self._clip)
            hidden = torch.tensor([drawn[index][1] for index, _ in clips])
            noisy = (batch.latents + world.config.sigma * torch.from_numpy(noise)).to(device)
            known = batch.known & ~hidden[:, None]
            text = self.text([index for index, _ in clips])
            condition = world.conditioning(
                batch.actions.to(device), known.to(device), text.to(device)
            )
            past = world.flow.global_block.past_of(world.flow.hidden(noisy), condition)
            parts = (past, batch.latents, noisy, condition)
            found = torch.cat([part.cpu().flatten(2) for part in parts], dim=-1).half().numpy()
            for clip, (_, begin, first, stop) in zip(found, cuts, strict=True):
                file[row : row + stop - first] = clip[first - begin : stop - begin]
                row += stop - first
        file.flush()

    def _streams(self, episode: int) -> list[torch.Generator | None]:
        """The random streams of an episode: of noise and actions, and of its caption."""
        return row_generators(self._seed, "past", episode, range(2))

    def _drawn(self, episode: int) -> tuple[np.ndarray, bool]:
        """The noise on an episode's latents, (T, N, C), and whether its actions are hidden."""
        shape = (int(self._lengths[episode]), self._world.tokens, self._world.channels)
        shown = torch.ones(1, 1, dtype=torch.bool)
        stream = self._streams(episode)[:1]
        noise, known = clip_noise(stream, shape, shown, self._dropout[0])
        return noise[0].numpy(), not bool(known)

    def _key(self, latents_key: str, indices: np.ndarray) -> str:
        world = self._world
        window, sigma = world.config.flow.window, world.config.sigma
        cut = (VERSION, self._clip, window, self._dropout, self._seed, sigma)
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
