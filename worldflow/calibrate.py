"""`worldflow calibrate`: what a world finds typical, measured anew on held-out episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from omegaconf import MISSING
from torch import Tensor

from worldflow.calibration import LEAST_FITTED, Calibration
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import load_clips
from worldflow.errors import ConfigError, DataError
from worldflow.held_out import RealData, held_out_episodes
from worldflow.randomness import generator_of
from worldflow.scoring import FULL_FORWARD_FRAMES, score_video
from worldflow.storage import find_world, load_world, write_calibration
from worldflow.world_model import WorldModel

FRAMES = 10_000
ROWS = 8  # clips scored at once


@dataclass
class CalibratedWorld:
    """Which world.

    Attributes:
        path: its name or folder.
    """

    path: str = MISSING


@dataclass
class CalibrateConfig:
    """Settings of `worldflow calibrate`.

    Attributes:
        world: the world, whose `calibration.json` is replaced.
        data: real episodes.
        frames: about as many are measured, if there are so many.
        seed: of the choice of clips and of the noise on their latents.
    """

    world: CalibratedWorld = field(default_factory=CalibratedWorld)
    data: RealData = field(default_factory=RealData)
    frames: int = FRAMES
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")


def main(config: CalibrateConfig) -> Path:
    """Replace a world's calibration; returns the file.

    Raises:
        WorldFormatError: no such world.
        DataError: no such dataset, another one than the world's, or one that does not fit it.
    """
    folder = find_world(config.world.path, calibrated=False)
    world = load_world(folder, calibrated=False)
    dataset = EpisodeDataset(config.data.path)
    if dataset.frame_shape != tuple(world.frame_shape) or dataset.action_spec != world.action_spec:
        raise DataError(
            f"{dataset.folder} has frames {dataset.frame_shape} and actions {dataset.action_spec}, "
            f"the world {tuple(world.frame_shape)} and {world.action_spec}; give data of its source"
        )
    known = None if config.data.unseen else world.spec.held_out
    episodes = held_out_episodes(dataset, known)
    calibration = calibrate(world, dataset, episodes, config.seed, config.frames)
    path = write_calibration(folder, calibration)
    print(f"{path}: calibrated on {calibration.frames} held-out frames")
    return path


def check_measurable(dataset: EpisodeDataset, episodes: np.ndarray, context: int) -> None:
    """Refuse held-out episodes too short to calibrate a world on, before it is trained.

    Raises:
        DataError: fewer than `LEAST_FITTED` frames have `context` frames before them.
    """
    lengths = dataset.lengths[episodes]
    frames = int(np.maximum(lengths - context, 0).sum())
    if frames < LEAST_FITTED:
        raise DataError(
            f"{dataset.folder}: the held-out episodes, the longest of {lengths.max(initial=0)} "
            f"frames, have {frames} after world.context={context}, and {LEAST_FITTED} are needed; "
            "raise data.held_out, choose another training.seed, collect longer episodes or lower "
            "world.context"
        )


@torch.no_grad()
def calibrate(
    world: WorldModel,
    dataset: EpisodeDataset,
    episodes: np.ndarray,
    seed: int,
    frames: int = FRAMES,
) -> Calibration:
    """From held-out frames that have at least as much past as a dream starts with.

    Args:
        world: in eval mode.
        dataset: to read from.
        episodes: indices of the episodes to use.
        seed: of the choice of clips and of the noise.
        frames: about as many are measured, in clips of up to `FULL_FORWARD_FRAMES` frames.

    Raises:
        DataError: no episode is longer than the world's context; or see `Calibration.fit`.
    """
    lengths, context = dataset.lengths, world.config.context
    long = [int(index) for index in episodes if lengths[index] > context]
    if not long:
        raise DataError(
            f"{dataset.folder}: no held-out episode is longer than world.context={context} frames; "
            "collect longer episodes or lower world.context"
        )
    length = min(FULL_FORWARD_FRAMES, max(int(lengths[index]) for index in long))
    cuts = [(e, s) for e in long for s in range(0, int(lengths[e]) - context, length)]
    order = np.random.default_rng(seed).permutation(len(cuts)).tolist()
    log_prob: list[Tensor] = []
    seen: list[Tensor] = []
    dreamed: list[Tensor] = []
    device = next(world.parameters()).device
    for begin in range(0, len(order), ROWS):
        if sum(map(len, log_prob)) >= frames:
            break
        numbers = order[begin : begin + ROWS]
        slices = [dataset.read(e, s, s + length) for e, s in (cuts[k] for k in numbers)]
        rows = [(row, 0) for row in range(len(slices))]
        shown, valid = load_clips([s.frames for s in slices], rows, length)
        actions, _ = load_clips([s.actions for s in slices], rows, length)
        known, _ = load_clips([s.known for s in slices], rows, length)
        generators = [generator_of(np.random.SeedSequence([seed, k])) for k in numbers]
        video, taken, recorded = (
            torch.from_numpy(array).to(device) for array in (shown, actions, known)
        )
        scores = score_video(world, video, taken, generators, recorded)
        for row, count in enumerate(valid.sum(axis=1).tolist()):
            kept = slice(context, count)
            log_prob.append(scores.log_likelihood[row, kept].cpu())
            seen.append(scores.token_statistics[row, kept].cpu())
            dreamed.append(scores.token_uncertainty[row, kept, :, None].cpu())
    return Calibration.fit(torch.cat(log_prob), seen, dreamed)
