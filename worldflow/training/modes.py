"""The two ways of training a world: codec first, or all at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldflow.data.episodes import EpisodeDataset
from worldflow.training.checkpoint import CHECKPOINT, Progress, load_checkpoint
from worldflow.training.codec_frames import FramePairs, fit_likelihood
from worldflow.training.codec_stage import CodecStage
from worldflow.training.completion import thumbnails, warn_of_shifts
from worldflow.training.denoiser_stage import DenoiserStage
from worldflow.training.end_stage import EndStage
from worldflow.training.engine import Engine
from worldflow.training.flow_stage import FlowStage
from worldflow.training.frozen_past import FrozenPastStage
from worldflow.training.heads_stage import HeadsStage
from worldflow.training.joint_stage import JointStage
from worldflow.training.latents import LatentEpisodes
from worldflow.training.loop import run_stage
from worldflow.training.settings import TrainingConfig
from worldflow.training.within_stage import WithinStage
from worldflow.world_model import WorldModel

PARTS_ALONE: dict[str, type[WithinStage] | type[DenoiserStage]] = {
    "within": WithinStage,
    "denoiser": DenoiserStage,
    "heads": HeadsStage,
}


@dataclass(frozen=True)
class Run:
    """What the stages of a run share.

    Attributes:
        world: is trained.
        training: how.
        dataset: to learn from.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        folder: of the run.
        engine: computes the updates.
        codec_is_given: whether the world has the codec of an earlier one, which stays as it is.
        text: of the dataset's episodes, (E, W); None in a world without text.
    """

    world: WorldModel
    training: TrainingConfig
    dataset: EpisodeDataset
    train: np.ndarray
    held_out: np.ndarray
    folder: Path
    engine: Engine
    codec_is_given: bool
    text: np.ndarray | None = None


@dataclass(frozen=True)
class Trained:
    """What comes of it.

    Attributes:
        world: to complete and save; on the main rank.
        progress: at the end.
    """

    world: WorldModel
    progress: Progress


def train_in_two_stages(run: Run, progress: Progress) -> Trained:
    """The codec, then flow, denoiser and heads on the latents of the frozen codec."""
    world, training, folder, engine = run.world, run.training, run.folder, run.engine
    dataset, seed, every = run.dataset, training.seed, training.checkpoint_every
    split = run.train, run.held_out
    if progress.stage == "flow":
        load_checkpoint(folder / CHECKPOINT, world)
    else:
        if not run.codec_is_given:  # else its latents must stay what the earlier flow knows
            codec_stage = CodecStage(world, training.codec, dataset, *split, seed, engine)
            progress = run_stage(codec_stage, world, folder, progress, every, then="flow")
            codec_stage.freeze()
        progress = replace(progress, stage="flow", step=0)
    world.codec.eval().requires_grad_(False)
    if not world.codec.likelihood.fitted:
        fit_likelihood(world, FramePairs(dataset, run.train, seed), seed)

    engine.ranks.align(world.codec)
    episodes = LatentEpisodes(world.codec, dataset, folder, engine.ranks, run.text)
    if engine.ranks.main:
        warn_of_shifts(dataset, episodes.latents)
    flow_stage: FlowStage | EndStage | FrozenPastStage
    if training.flow.part == "all":
        flow_stage = FlowStage(world, training.flow, episodes, dataset, *split, seed, engine)
    elif training.flow.part == "end":
        flow_stage = EndStage(world, training.flow, episodes, dataset, *split, seed, engine)
    else:
        flow_stage = PARTS_ALONE[training.flow.part](
            world, training.flow, episodes, dataset, *split, seed, engine, folder
        )
    progress = run_stage(flow_stage, world, folder, progress, every)
    return Trained(flow_stage.measured, progress)


def train_jointly(run: Run, progress: Progress) -> Trained:
    """Codec, flow, denoiser and heads together."""
    training, engine, dataset = run.training, run.engine, run.dataset
    split = run.train, run.held_out
    stage = JointStage(run.world, training.joint, dataset, *split, training.seed, engine, run.text)
    if engine.ranks.main:
        warn_of_shifts(dataset, thumbnails(dataset))
    every = training.checkpoint_every
    progress = run_stage(stage, run.world, run.folder, progress, every)
    if engine.ranks.main:
        stage.freeze()
    return Trained(stage.measured, progress)
