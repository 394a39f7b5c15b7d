"""Training of a diffusion world for a given time; resumed runs have the same bits."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.targets import TargetFrames, Targets
from diffusion.world import DiffusionWorld
from worldflow.errors import ConfigError, TrainingError
from worldflow.randomness import generator_of
from worldflow.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from worldflow.training.engine import PRECISIONS
from worldflow.training.logger import RunLogger
from worldflow.training.order import EpochOrder
from worldflow.training.prefetch import Prefetch
from worldflow.training.resume import CHECKPOINT

STAGE, LOG_EVERY = "diffusion", 20
ORDER, NOISE, VALIDATION = 11, 12, 13  # random streams: each depends on the seed and the update


@dataclass
class DiffusionTraining:
    """How a diffusion world is trained. Learning rate, decay and batch are those of DIAMOND.

    Attributes:
        batch: frames to predict of an update.
        learning_rate: after the warm-up; constant, so that a run can go on beyond its first end.
        warmup: updates of linear warm-up.
        weight_decay: of AdamW, on matrices only.
        clip_norm: largest norm of the gradient.
        precision: "fp32", or "bf16": forward passes under autocast.
        seed: of weights, order and noise.
        checkpoint_every: updates between checkpoints; the held-out loss is measured there too.
        validation: held-out frames of that measurement.
    """

    batch: int = 32
    learning_rate: float = 1e-4
    warmup: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    precision: str = "fp32"
    seed: int = 0
    checkpoint_every: int = 500
    validation: int = 64

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ConfigError(f"training.precision is {self.precision!r}; use one of {known}")
        if min(self.batch, self.checkpoint_every, self.validation) < 1 or self.seed < 0:
            raise ConfigError(
                f"training: batch={self.batch}, checkpoint_every={self.checkpoint_every} and "
                f"validation={self.validation} must be positive, seed={self.seed} not negative"
            )


def train(
    world: DiffusionWorld,
    learned: TargetFrames,
    held_out: TargetFrames,
    config: DiffusionTraining,
    folder: Path,
    progress: Progress,
    seconds: float,
    steps: int | None,
) -> Progress:
    """Train until the budget is used up.

    Time is that of the whole loop: reading, updates, measurements and checkpoints, over all pieces
    of the run.

    Args:
        world: on the device to train on.
        learned: frames to learn from.
        held_out: frames to measure on.
        config: how.
        folder: of the run.
        progress: where to start; a step > 0 continues the run's checkpoint.
        seconds: budget of the whole run.
        steps: most updates of the whole run; None: as many as there is time for.

    Returns:
        the progress at the end, which a checkpoint holds.

    Raises:
        TrainingError: a gradient is not finite.
    """
    device = next(world.parameters()).device
    names = {parameter: name for name, parameter in world.named_parameters()}
    decayed = [p for p in names if p.ndim > 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for p in names if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    path = folder / CHECKPOINT
    if progress.step > 0:
        load_checkpoint(path, world, optimizer, names)
    order = EpochOrder(len(learned), config.batch, (config.seed, ORDER))
    batches = Prefetch.beside(device, lambda step: learned.read(order.positions(step)))
    logger = RunLogger(folder, STAGE, progress.step)
    started = time.monotonic() - progress.seconds
    world.train()
    while progress.seconds < seconds and (steps is None or progress.step < steps):
        step = progress.step
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min((step + 1) / max(config.warmup, 1), 1.0)
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(world, batches.batch(step), config, (config.seed, NOISE, step))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(world.parameters(), config.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise TrainingError(
                f"the gradient of update {step} is not finite; lower training.learning_rate"
            )
        optimizer.step()
        progress = replace(progress, step=step + 1, seconds=time.monotonic() - started)
        if progress.step % LOG_EVERY == 0:
            logger.scalars(progress.step, {"loss": float(loss.detach())})
        if progress.step % config.checkpoint_every == 0:
            logger.scalars(progress.step, {"held_out_loss": held_out_loss(world, held_out, config)})
            logger.flush()
            progress = replace(progress, seconds=time.monotonic() - started)
            save_checkpoint(path, world, optimizer, names, {}, progress)
    save_checkpoint(path, world, optimizer, names, {}, progress)
    logger.close()
    return progress


@torch.no_grad()
def held_out_loss(
    world: DiffusionWorld, held_out: TargetFrames, config: DiffusionTraining
) -> float:
    """Mean loss at the same held-out frames, noise levels and noise each time."""
    rng = np.random.default_rng([config.seed, VALIDATION])
    positions = rng.integers(len(held_out), size=config.validation)
    losses = []
    for start in range(0, len(positions), config.batch):
        some = positions[start : start + config.batch]
        key = (config.seed, VALIDATION, start)
        losses.append(float(_loss(world, held_out.read(some), config, key)) * len(some))
    return sum(losses) / len(positions)


def _loss(
    world: DiffusionWorld, batch: Targets, config: DiffusionTraining, key: tuple[int, ...]
) -> Tensor:
    """The loss of a batch, with the noise of a random stream."""
    device = next(world.parameters()).device
    generator = generator_of(np.random.SeedSequence(key))
    height, width = batch.frames.shape[1:3]
    log_sigma = torch.randn(len(batch.frames), generator=generator)
    noise = torch.randn(len(batch.frames), 3, height, width, generator=generator)
    tensors = (batch.frames, batch.past, batch.actions, batch.known, log_sigma, noise)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        return world.loss(*(tensor.to(device) for tensor in tensors))
