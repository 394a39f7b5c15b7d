"""`worldflow data pair`: source clips, each followed by the clip that it shall become.

An episode is a source clip of L frames and then its target, L frames of the recording as they are.
The source is made of the target, so that the right translation is known:

    edges    its outlines, white on black (Canny)
    grey     its luma
    mirror   itself, seen in a mirror: left and right are exchanged

A world whose flow sees L frames back learns to translate from such episodes: given a source clip,
it goes on with the target.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from omegaconf import MISSING
from tqdm import tqdm

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata, without_place
from worldflow.errors import ConfigError, DataError

PAIRED = "paired"  # what a paired dataset's `source` calls the dataset that it was made of
ACTIONS = ("none", "kept")
WEAK, STRONG = 100, 200  # thresholds of Canny's gradient, in grey levels


def edges(frames: np.ndarray) -> np.ndarray:
    """Outlines of frames (T, H, W, 3) uint8, as frames: 255 on them, else 0."""
    return np.stack([_repeated(cv2.Canny(_luma(frame), WEAK, STRONG)) for frame in frames])


def grey(frames: np.ndarray) -> np.ndarray:
    """Luma (0.299 R + 0.587 G + 0.114 B) of frames (T, H, W, 3) uint8, as frames."""
    return np.stack([_repeated(_luma(frame)) for frame in frames])


def mirror(frames: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) with left and right exchanged."""
    return np.ascontiguousarray(frames[:, :, ::-1])


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "edges": edges,
    "grey": grey,
    "mirror": mirror,
}


@dataclass
class PairConfig:
    """Settings of `worldflow data pair`.

    Attributes:
        src: folder of a dataset of ours.
        dst: folder for the pairs.
        clip: L, frames of a source and of a target. Episodes are cut into as many as they have; a
            rest that is shorter is left out.
        transform: what makes a source of its target, a name in `TRANSFORMS`.
        actions: "none": no action is known, and the source alone says what happens. "kept": those
            between the frames of a target are known.
        progress: show a progress bar.
    """

    src: str = MISSING
    dst: str = MISSING
    clip: int = MISSING
    transform: str = MISSING
    actions: str = "none"
    progress: bool = True

    def __post_init__(self) -> None:
        if self.clip < 1:
            raise ConfigError(f"clip={self.clip} is the number of frames of a source, one or more")
        if self.transform not in TRANSFORMS:
            raise ConfigError(f"transform={self.transform!r}; use one of {', '.join(TRANSFORMS)}")
        if self.actions not in ACTIONS:
            raise ConfigError(f"actions={self.actions!r}; use one of {', '.join(ACTIONS)}")


def main(config: PairConfig) -> EpisodeDataset:
    """Write all pairs to a folder, whole or not at all; memory holds one pair.

    Raises:
        DataError: the source cannot be read, is itself of pairs, or no episode is long enough.
        ConfigError: the destination exists.
    """
    folder, dataset = Path(config.dst), EpisodeDataset(config.src)
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another dst=")
    metadata = _metadata(config, dataset)
    counts = dataset.lengths // config.clip
    if not counts.any():
        raise DataError(
            f"{dataset.folder}: the longest episode has {dataset.lengths.max()} frames, and a "
            f"source needs clip={config.clip}; lower clip, or collect longer episodes"
        )
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
    writer, index = EpisodeWriter(new, metadata), 0
    with tqdm(total=int(counts.sum()), desc="pair", disable=not config.progress) as bar:
        for k, count in enumerate(counts.tolist()):
            for begin in range(0, count * config.clip, config.clip):
                target = dataset.read(k, begin, begin + config.clip)
                recording = str(dataset.recordings[k])  # held out as a whole
                writer.add(index, pair(target, config.transform, metadata.action_spec, recording))
                index += 1
                bar.update()
    new.rename(folder)
    pairs = EpisodeDataset(folder)
    left_out = int(dataset.lengths.sum()) - config.clip * len(pairs)
    print(f"{folder}: {len(pairs)} pairs of {config.clip} frames; {left_out} frames left out")
    return pairs


def pair(target: Episode, transform: str, spec: ActionSpec, recording: str) -> Episode:
    """A source clip and its target, as one episode.

    Args:
        target: L frames.
        transform: a name in `TRANSFORMS`.
        spec: of the pair's actions. Kind "none": none is known. Else the target's: those between
            its frames are known if they were; what leads to its first one, a cut, is not.
        recording: that the pair is a part of.

    Returns:
        Episode: of 2L frames, without rewards and ends: they belong to one half only.
    """
    length = len(target)
    actions = np.zeros((2 * length, *spec.shape), spec.dtype)
    known = np.zeros(2 * length, np.bool_)
    if spec.kind != "none":
        known[length + 1 :] = target.known[1:]
        actions[length + 1 :] = target.actions[1:]
    return Episode(
        frames=np.concatenate([TRANSFORMS[transform](target.frames), target.frames]),
        actions=actions,
        rewards=np.zeros(2 * length, np.float32),
        terminated=np.zeros(2 * length, np.bool_),
        known=known,
        seed=target.seed,
        truncated=True,
        recording=recording,
        caption=target.caption,
    )


def source_length(dataset: EpisodeDataset) -> int:
    """L of a dataset of pairs.

    Raises:
        DataError: it is no such dataset.
    """
    if PAIRED not in dataset.metadata.source:
        raise DataError(
            f"{dataset.folder} holds no pairs; make them: worldflow data pair "
            f"{dataset.folder} DST clip=8 transform=mirror"
        )
    return int(dataset.metadata.collect["clip"])


def _metadata(config: PairConfig, dataset: EpisodeDataset) -> DatasetMetadata:
    earlier = dataset.metadata
    if PAIRED in earlier.source:
        raise DataError(f"{dataset.folder} holds pairs already; give the dataset they are made of")
    return DatasetMetadata(
        source={PAIRED: without_place(earlier.source)},
        action_spec=earlier.action_spec if config.actions == "kept" else ActionSpec("none"),
        frame_shape=earlier.frame_shape,
        fps=earlier.fps,
        seed=earlier.seed,
        collect={"clip": config.clip, "transform": config.transform, "actions": config.actions},
        has_rewards=False,
        has_terminations=False,
        lossy=earlier.lossy,
    )


def _luma(frame: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))


def _repeated(image: np.ndarray) -> np.ndarray:
    return image[:, :, None].repeat(3, axis=2)
