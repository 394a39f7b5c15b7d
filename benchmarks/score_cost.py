"""What the denoiser's target, the score at the flow's input, costs beside the flow's training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timing import timed
from torch import Tensor

from worldflow.training.flow_stage import FlowStage
from worldflow.training.loop import step_generators

NONE, SAME_PASS, OWN_PASS = (
    "without the score",
    "score from the same backward pass",
    "score from a second forward and backward pass",
)


def score_cost(stage: FlowStage, rounds: int, warmup: int) -> list[dict[str, Any]]:
    """Time forward and backward of the flow in three ways, in turn, on one batch.

    Args:
        stage: its world, its batches.
        rounds: timed, of each way.
        warmup: rounds before them.

    Returns:
        rows: median milliseconds, and the median ratio to the way without a score.
    """
    world, config = stage.world, stage.config
    rng, generator = step_generators(stage.seed, stage.name, 0)
    batch = stage.episodes.batch(stage.train.sample(config.batch, rng), config.clip)
    noise = torch.randn(batch.latents.shape, generator=generator)
    noisy = batch.latents + world.config.sigma * noise

    def nll(inputs: Tensor) -> Tensor:
        return -world.flow(inputs, world.conditioning(batch.actions)).log_prob.mean()

    def without() -> None:
        nll(noisy).backward()

    def same_pass() -> None:
        inputs = noisy.clone().requires_grad_()
        nll(inputs).backward()
        assert inputs.grad is not None

    def own_pass() -> None:
        without()
        inputs = noisy.clone().requires_grad_()
        torch.autograd.grad(nll(inputs), inputs)

    ways: dict[str, Callable[[], None]] = {
        NONE: without,
        SAME_PASS: same_pass,
        OWN_PASS: own_pass,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(warmup + rounds):
        for name, way in ways.items():
            world.zero_grad(set_to_none=True)  # as in the loop
            times[name].append(timed(way)[1])
    costs = {name: np.array(values[warmup:]) for name, values in times.items()}
    return [
        {
            "way": name,
            "ms": float(np.median(cost)),
            "ratio_to_none": float(np.median(cost / costs[NONE])),
        }
        for name, cost in costs.items()
    ]
