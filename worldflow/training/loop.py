"""The loop that every stage of pretraining runs in: resumable at any step, to the same bits."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from worldflow.errors import ConfigError, TrainingError
from worldflow.randomness import generator_of
from worldflow.training.checkpoint import (
    CHECKPOINT,
    Progress,
    load_checkpoint,
    save_checkpoint,
)
from worldflow.training.distributed import Ranks, whole
from worldflow.training.ema import Ema
from worldflow.training.engine import Engine
from worldflow.training.logger import RunLogger
from worldflow.world_model import WorldModel

LOG_EVERY = 20
# tqdm's own, with what its figures mean
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left"
# an update's random numbers depend on seed, stage and step alone, never on what ran before
STREAMS = {"codec": 1, "flow": 2, "joint": 3, "past": 4}


@dataclass
class StageConfig:
    """What every stage of pretraining has.

    Attributes:
        steps: number of updates.
        batch: samples of an update, of all ranks together.
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

    @property
    def frames(self) -> int:
        """Of an update."""
        return self.batch


class Stage(Protocol):
    """A part of pretraining."""

    name: str
    measured: WorldModel
    engine: Engine

    @property
    def config(self) -> StageConfig:
        """How it is trained."""

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""

    def update(self, step: int) -> dict[str, Tensor]:
        """Compute the gradients of one update; returns figures, a share of each on each rank."""

    def validate(self, step: int, logger: RunLogger) -> None:
        """Measure `measured` on held-out episodes; on the main rank."""


def step_generators(
    seed: int, stage: str, step: int
) -> tuple[np.random.Generator, torch.Generator]:
    """The random streams of one update, for picking data and for noise."""
    sequence = np.random.SeedSequence([seed, STREAMS[stage], step])
    return np.random.default_rng(sequence), generator_of(sequence)


def row_generators(
    seed: int, stage: str, step: int, rows: Sequence[int]
) -> list[torch.Generator | None]:
    """The random streams of rows of one update's batch."""
    key = [seed, STREAMS[stage], step]
    return [generator_of(np.random.SeedSequence([*key, row])) for row in rows]


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
    then: str | None = None,
) -> Progress:
    """Train a stage from `progress` to its end, on all ranks; the main one writes.

    Args:
        stage: what to train.
        world: the whole model, which the checkpoints hold.
        folder: of the run.
        progress: where to start; a step > 0 continues the run's checkpoint.
        checkpoint_every: updates between checkpoints.
        then: name of the stage that follows. The progress bar says so, as its time left is that of
            this stage: how long an update of the next one takes is not known before it runs.

    Returns:
        the progress at the end of the stage. `world` then has the averaged weights, if the engine
        averages them, and so has `stage.measured`.
    """
    config, engine = stage.config, stage.engine
    path, ranks = folder / CHECKPOINT, engine.ranks
    optimizer, names = _optimizer(stage, world)
    ema = Ema(names, engine.config.ema)
    if progress.step > 0:
        load_checkpoint(path, world, optimizer, names, ema.averages)
    logger = RunLogger(folder, stage.name, progress.step) if ranks.main else None
    started = time.monotonic() - progress.seconds
    busy, timed = 0.0, 0
    bar = tqdm(
        range(progress.step, config.steps),
        initial=progress.step,
        total=config.steps,
        desc=f"pretrain {stage.name}",
        unit="update",
        smoothing=0.05,
        mininterval=1.0,
        disable=not ranks.main,
        bar_format=BAR + (f", then {then}" if then else "") + ", {rate_fmt}{postfix}]",
    )
    for step in bar:
        begun = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.zero_grad(set_to_none=True)
        figures = stage.update(step)
        figures |= _clip(stage, world, ranks.size, step)
        optimizer.step()
        ema.update(step)
        done, busy, timed = step + 1, busy + time.monotonic() - begun, timed + 1
        if done % LOG_EVERY == 0 or done == config.steps:
            sums = ranks.sum(torch.stack([value.double() for value in figures.values()]))
            values = dict(zip(figures, sums.tolist(), strict=True))
            if logger is not None:
                logger.scalars(done, values)
                logger.speed(done, _speed(timed * config.frames / busy, ranks))
                shown = list(values.items())[:3]
                bar.set_postfix({name: f"{value:.3f}" for name, value in shown})
            busy, timed = 0.0, 0
        if done % config.validate_every == 0 or done == config.steps:
            if engine.copies:
                engine.publish(world, stage.measured, ema.averages)
            if logger is not None:
                stage.validate(done, logger)
        progress = replace(progress, step=done, seconds=time.monotonic() - started)
        if done % checkpoint_every == 0 or done == config.steps:
            if logger is not None:
                logger.flush()
            save_checkpoint(path, world, optimizer, names, ema.averages, progress, ranks.main)
    if logger is not None:
        logger.close()
    ema.apply()
    if engine.copies:
        engine.publish(world, stage.measured, ema.averages)
    return progress


def _clip(stage: Stage, world: nn.Module, ranks: int, step: int) -> dict[str, Tensor]:
    """Clip the gradient of each module; returns the norms, a share of each on each rank.

    Raises:
        TrainingError: a gradient is not finite.
    """
    names = {id(module): name for name, module in world.named_modules()}
    norms = {
        f"gradient_norm/{names[id(module)]}": whole(
            nn.utils.clip_grad_norm_(module.parameters(), stage.config.clip_norm)
        )
        for module in stage.modules()
    }
    if not torch.isfinite(torch.stack(list(norms.values()))).all():
        raise TrainingError(
            f"the gradient of update {step} of stage {stage.name} is not finite; "
            "lower training." + stage.name + ".learning_rate"
        )
    return {name: norm / ranks for name, norm in norms.items()}


def _speed(frames_per_second: float, ranks: Ranks) -> dict[str, float]:
    """Figures of the machine, of its main rank: MiB at most used so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    figures = {"frames_per_second": frames_per_second, "memory_mib": peak / 2**20}
    if ranks.device.type == "cuda":
        figures["cuda_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def _optimizer(
    stage: Stage, world: nn.Module
) -> tuple[torch.optim.Optimizer, Mapping[nn.Parameter, str]]:
    trained = {id(p) for module in stage.modules() for p in module.parameters()}
    names = {p: name for name, p in world.named_parameters() if id(p) in trained}
    groups = []
    for spread in (True, False):  # over ranks or not, which no group may mix
        own = [p for p in names if isinstance(p, DTensor) == spread]
        decayed, others = [p for p in own if p.ndim > 1], [p for p in own if p.ndim <= 1]
        groups.append({"params": decayed, "weight_decay": stage.config.weight_decay})
        groups.append({"params": others, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True), names
