"""The loop that every stage of pretraining runs in: resumable at any step, to the same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from worldflow.errors import ConfigError, TrainingError
from worldflow.randomness import generator_of
from worldflow.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from worldflow.training.logger import RunLogger

LOG_EVERY = 20
# an update's random numbers depend on seed, stage and step alone, never on what ran before
STREAMS = {"codec": 1, "flow": 2}


@dataclass
class StageConfig:
    """What every stage of pretraining has.

    Attributes:
        steps: number of updates.
        batch: samples of an update.
        learning_rate: peak, reached after the warm-up, then a cosine down to a twentieth.
        warmup: updates of linear warm-up.
        weight_decay: of AdamW, on matrices only.
        clip_norm: largest norm of each module's gradient. They are clipped apart, since one whose
            target is noisy would otherwise slow down the others.
        validate_every: updates between measurements on held-out episodes.
    """

    steps: int = 1000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    validate_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every"):
            if getattr(self, name) < 1:
                kind = type(self).__name__
                raise ConfigError(f"{kind}: {name} is {getattr(self, name)}; it must be positive")


class Stage(Protocol):
    """A part of pretraining."""

    name: str

    @property
    def config(self) -> StageConfig:
        """How it is trained."""

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""

    def update(self, step: int) -> dict[str, torch.Tensor]:
        """Compute the gradients of one update; returns figures."""

    def validate(self, step: int, logger: RunLogger) -> None:
        """Measure on held-out episodes."""


def step_generators(
    seed: int, stage: str, step: int
) -> tuple[np.random.Generator, torch.Generator]:
    """The random streams of one update, for picking data and for noise."""
    sequence = np.random.SeedSequence([seed, STREAMS[stage], step])
    return np.random.default_rng(sequence), generator_of(sequence)


def learning_rate(config: StageConfig, step: int) -> float:
    """Linear warm-up, then a cosine from the peak to a twentieth of it."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * done)))


def run_stage(
    stage: Stage,
    world: nn.Module,
    folder: Path,
    progress: Progress,
    checkpoint_every: int,
) -> Progress:
    """Train a stage from `progress` to its end.

    Args:
        stage: what to train.
        world: the whole model, which the checkpoints hold.
        folder: of the run.
        progress: where to start; a step > 0 continues the run's checkpoint.
        checkpoint_every: updates between checkpoints.

    Returns:
        the progress at the end of the stage.
    """
    config, path = stage.config, folder / "checkpoint.safetensors"
    optimizer, names = _optimizer(stage, world)
    if progress.step > 0:
        load_checkpoint(path, world, optimizer, names)
    logger = RunLogger(folder, stage.name, progress.step)
    started = time.monotonic() - progress.seconds
    bar = tqdm(
        range(progress.step, config.steps),
        initial=progress.step,
        total=config.steps,
        desc=f"pretrain {stage.name}",
        unit="update",
        smoothing=0.05,
        mininterval=1.0,
    )
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.zero_grad(set_to_none=True)
        figures = stage.update(step)
        norms = [
            nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
            for module in stage.modules()
        ]
        norm = torch.stack(norms).max()  # NaN if any is
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient of update {step} of stage {stage.name} is not finite; "
                "lower training." + stage.name + ".learning_rate"
            )
        optimizer.step()
        done = step + 1
        if done % LOG_EVERY == 0 or done == config.steps:
            values = {name: float(value) for name, value in figures.items()}
            values["gradient_norm"] = float(norm)
            logger.scalars(done, values)
            bar.set_postfix({name: f"{value:.3f}" for name, value in list(values.items())[:3]})
        if done % config.validate_every == 0 or done == config.steps:
            stage.validate(done, logger)
        progress = replace(progress, step=done, seconds=time.monotonic() - started)
        if done % checkpoint_every == 0 or done == config.steps:
            logger.flush()
            save_checkpoint(path, world, optimizer, names, progress)
    logger.close()
    return progress


def _optimizer(
    stage: Stage, world: nn.Module
) -> tuple[torch.optim.Optimizer, Mapping[nn.Parameter, str]]:
    trained = {id(p) for module in stage.modules() for p in module.parameters()}
    names = {p: name for name, p in world.named_parameters() if id(p) in trained}
    groups = [
        {"params": [p for p in names if p.ndim > 1], "weight_decay": stage.config.weight_decay},
        {"params": [p for p in names if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True), names
