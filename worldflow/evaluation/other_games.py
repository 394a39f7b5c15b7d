"""Frames of other games than a world's own, and clips of variants of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.metadata import games_of
from worldflow.errors import DataError
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.simulate import dream
from worldflow.storage import load_world, shipped_worlds
from worldflow.world_model import WorldModel


def default_games(world: WorldModel) -> list[str]:
    """The shipped worlds of other environments than the world's."""
    own = set(games_of(world.spec.source))
    games = {name: games_of(load_world(name).spec.source) for name in shipped_worlds()}
    return [name for name, found in games.items() if own.isdisjoint(found)]


def other_game(
    name: str, count: int, length: int, frame_shape: tuple[int, int, int], seed: int
) -> np.ndarray:
    """Clips of another game (count, length, H, W, 3) uint8, at the size of this one's frames.

    Args:
        name: of a dataset's folder, whose episodes follow each other in a random order; or of a
            world, which dreams on from its beginnings under random actions.
        count: clips.
        length: frames of a clip.
        frame_shape: (H, W, 3); frames of other sizes are stretched.
        seed: of order, actions and noise.

    Raises:
        WorldflowError: there is neither a dataset nor a world of that name.
    """
    if (Path(name) / "dataset.json").is_file():
        frames = _recorded(EpisodeDataset(name), count * length, seed)
    else:
        frames = _dreamed(load_world(name), count, length, seed)
    size = frame_shape[1], frame_shape[0]  # as OpenCV counts
    if frames.shape[1:] != frame_shape:
        shrinking = frames.shape[1] >= size[1] and frames.shape[2] >= size[0]
        method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        frames = np.stack([cv2.resize(frame, size, interpolation=method) for frame in frames])
    return frames.reshape(count, length, *frame_shape)


def variant_clips(
    folder: str, world: WorldModel, count: int, length: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`count` clips of a variant of the world's game: frames (count, length, H, W, 3), actions.

    Raises:
        DataError: its frames or actions are of another kind, or no episode is long enough.
    """
    dataset = EpisodeDataset(folder)
    if (dataset.frame_shape, dataset.action_spec) != (world.frame_shape, world.action_spec):
        raise DataError(
            f"{folder}: a variant needs the world's frame_shape {world.frame_shape} and "
            f"{world.action_spec}; give another game by detection.others"
        )
    long = np.flatnonzero(dataset.lengths >= length)
    if not len(long):
        raise DataError(f"{folder}: no episode has {length} frames; collect longer ones")
    rng = np.random.default_rng(seed)
    frames, actions = [], []
    for episode in rng.choice(long, count).tolist():
        start = int(rng.integers(dataset.lengths[episode] - length + 1))
        piece = dataset.read(episode, start, start + length)
        frames.append(piece.frames)
        actions.append(piece.actions)
    return np.stack(frames), np.stack(actions)


def _recorded(dataset: EpisodeDataset, total: int, seed: int) -> np.ndarray:
    """`total` frames of whole episodes one after another; from the first again after the last."""
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    frames: list[np.ndarray] = []
    missing = total
    for episode in itertools.cycle(order):
        frames.append(dataset.read(episode, 0, missing).frames)
        missing -= len(frames[-1])
        if missing == 0:
            break
    return np.concatenate(frames)


def _dreamed(world: WorldModel, count: int, length: int, seed: int) -> np.ndarray:
    """`count` dreams of `length` frames, the given ones included, one after another."""
    contexts, rng = world.context, np.random.default_rng(seed)
    rows = np.arange(count) % len(contexts.frames)
    given = contexts.frames.shape[1]
    if given >= length:
        return contexts.frames[rows, :length].reshape(count * length, *world.frame_shape)
    frames = np.zeros((count, length, *world.frame_shape), np.uint8)
    frames[:, :given] = contexts.frames[rows]
    actions = _random_actions(world.action_spec, (count, length), rng)
    actions[:, :given] = contexts.actions[rows]
    clips = RealClips(frames, actions, np.ones((count, length), np.bool_))
    dreams = dream(world, clips, 1, batch=32, temperature=1.0, seed=seed, progress=False)
    frames[:, given:] = dreams.frames[0]
    return frames.reshape(count * length, *world.frame_shape)


def _random_actions(
    spec: ActionSpec, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    if spec.kind == "discrete":
        return rng.integers(0, spec.n, shape)
    if spec.kind == "box":
        drawn = rng.uniform(spec.low, spec.high, (*shape, len(spec.low)))
        return np.asarray(drawn, dtype=np.float32)
    return np.zeros(shape, spec.dtype)
