"""Real clips of held-out episodes, against which dreams are measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.splitting import split
from worldflow.data.windows import ClipSampler, load_clips
from worldflow.errors import ConfigError, DataError
from worldflow.held_out import RealData, split_of
from worldflow.text.encoder import TextEncoder, embed
from worldflow.world_spec import HeldOut

STARTS = ("first", "random")


@dataclass(frozen=True)
class RealClips:
    """B clips of real episodes, zero after an episode's end.

    Attributes:
        frames: (B, T, H, W, 3) uint8.
        actions: (B, T, ...); `actions[:, t]` led to `frames[:, t]`.
        valid: (B, T) bool, true at real frames.
        text: what the world is told of each clip, (B, E) float32, zeros for nothing, see
            `worldflow.text.encoder.embed`; None: nothing of any.
    """

    frames: np.ndarray
    actions: np.ndarray
    valid: np.ndarray
    text: np.ndarray | None = field(default=None, kw_only=True)

    def first(self, count: int) -> RealClips:
        """The first `count` of them, without what else was recorded."""
        text = None if self.text is None else self.text[:count]
        return RealClips(self.frames[:count], self.actions[:count], self.valid[:count], text=text)

    def told(self, rows: slice | np.ndarray) -> torch.Tensor | None:
        """The text of b rows, (b, E); None where nothing is told."""
        return None if self.text is None else torch.from_numpy(self.text[rows])


@dataclass(frozen=True)
class RecordedClips(RealClips):
    """Clips with what else was recorded.

    Attributes:
        rewards: (B, T) float32, that arrived with the frames.
        terminated: (B, T) bool.
    """

    rewards: np.ndarray
    terminated: np.ndarray


def taught_and_measured(
    dataset: EpisodeDataset, data: RealData, held_out: HeldOut, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the episodes that baselines learn from, and of those that all are measured on.

    They are pretraining's own training and held-out episodes; of data that the world never saw two
    halves, drawn by `seed` (parts of one recording only go apart where there is no other).

    Raises:
        DataError: see `split_of`; or fewer than two episodes.
    """
    if data.unseen:
        return split(dataset.recordings, 0.5, seed, dataset.lengths)
    return split_of(dataset, held_out)


def real_clips(
    dataset: EpisodeDataset,
    episodes: np.ndarray,
    count: int,
    length: int,
    context: int,
    start: str,
    seed: int,
    encoder: TextEncoder | None = None,
) -> RecordedClips:
    """Up to `count` clips, each from an episode of its own where there are enough.

    Args:
        dataset: to read from.
        episodes: indices to choose from.
        count: number of clips.
        length: frames of a clip; a shorter episode gives a shorter clip, padded.
        context: episodes that are not longer than this are left out.
        start: "first": the clip begins with its episode; "random": anywhere it fits.
        seed: of the choice.
        encoder: of the captions that the world is told; None: it is told none.

    Raises:
        ConfigError: `start` is neither.
        DataError: no episode is longer than the context, or a caption longer than the encoder
            reads.
    """
    if start not in STARTS:
        raise ConfigError(f"start is {start!r}; use one of {', '.join(STARTS)}")
    none = dataset.action_spec.kind == "none"
    long = [
        int(index)
        for index in episodes
        if dataset.lengths[index] > context and (none or dataset.steps_of(index).known[1:].all())
    ]
    if not long:
        raise DataError(
            f"{dataset.folder}: no held-out episode is longer than the world's context of "
            f"{context} frames and has all its actions; collect longer episodes"
        )
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(long)[:count].tolist())
    lengths = dataset.lengths.tolist()
    picks = [
        (episode, 0)
        if start == "first"
        else ClipSampler(lengths, [episode], length).sample(1, rng)[0]
        for episode in chosen
    ]
    slices = [dataset.read(episode, begin, begin + length) for episode, begin in picks]
    rows = [(row, 0) for row in range(len(slices))]
    frames, valid = load_clips([s.frames for s in slices], rows, length)
    actions, _ = load_clips([s.actions for s in slices], rows, length)
    rewards, _ = load_clips([s.rewards for s in slices], rows, length)
    terminated, _ = load_clips([s.terminated for s in slices], rows, length)
    text = None
    if encoder is not None:
        text = embed(encoder, [dataset.captions[episode] for episode in chosen]).numpy()
    return RecordedClips(frames, actions, valid, rewards, terminated, text=text)
