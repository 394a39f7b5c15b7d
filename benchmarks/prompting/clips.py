"""Clips of a dataset with the answers of their captions, and a probe that learns from them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from prompting.probe import Probe, ProbeTraining, train_probe
from prompting.questions import Questions, answers_of, numbered
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler
from worldflow.errors import DataError
from worldflow.world_model import WorldModel


def real_clips_of(
    dataset: EpisodeDataset,
    episodes: np.ndarray,
    count: int | None,
    length: int,
    questions: Questions,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Clips (B, T, H, W, 3) from anywhere in episodes, and the answers of their captions (B, Q).

    Args:
        dataset: with captions.
        episodes: to cut from.
        count: B, alike many of each answer to the first question (and of none), whatever its
            episodes number, and of each of these alike, however long; None: one of each episode.
        length: T; shorter episodes are left out.
        questions: what is answered.
        seed: of the choice.

    Raises:
        DataError: no episode is long enough and has a caption that answers something.
    """
    told = [answers_of(caption or "", questions) for caption in dataset.captions]
    usable = [i for i in episodes.tolist() if told[i] and dataset.lengths[i] >= length]
    if not usable:
        raise DataError(
            f"{dataset.folder}: no episode has {length} frames and a caption that answers one of "
            f"the questions {list(questions)}"
        )
    rng = np.random.default_rng(seed)
    chosen = usable
    if count is not None:
        first = [told[i].get(next(iter(questions))) for i in usable]
        episodes_of = Counter(first)
        shares = np.array([1.0 / episodes_of[answer] for answer in first])
        chosen = rng.choice(usable, size=count, p=shares / shares.sum()).tolist()
    picks = [ClipSampler(dataset.lengths, [i], length).sample(1, rng)[0] for i in chosen]
    frames = np.stack([dataset.read(i, start, start + length).frames for i, start in picks])
    return frames, numbered([told[i] for i, _ in picks], questions)


def through_codec(world: WorldModel, clips: np.ndarray) -> np.ndarray:
    """Clips as the world's codec renders them."""
    return np.stack([world.reconstruct(torch.from_numpy(clip)).numpy() for clip in clips])


def learned_probe(
    world: WorldModel,
    dataset: EpisodeDataset,
    episodes: np.ndarray,
    length: int,
    questions: Questions,
    training: ProbeTraining,
    seed: int,
) -> Probe:
    """A probe of clips of `length` frames of these episodes, real and through the world's codec.

    Raises:
        DataError: no episode is long enough and has a caption that answers something.
    """
    clips, labels = real_clips_of(dataset, episodes, training.clips, length, questions, seed)
    return train_probe([clips, through_codec(world, clips)], labels, questions, training, seed)
