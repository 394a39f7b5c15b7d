"""How fast a world steps."""

from __future__ import annotations

import time

import torch

from worldflow.world_model import WorldModel


def steps_per_second(
    world: WorldModel, batch: int = 1, steps: int = 50, warmup: int = 5, seed: int = 0
) -> float:
    """Frames dreamed per second, over all rows, under random actions from real contexts.

    Args:
        world: in eval mode, with contexts.
        batch: rows stepped at once.
        steps: timed steps.
        warmup: steps before the clock starts: the first ones of a process are several times slower.
        seed: of noise and actions.
    """
    generator = torch.Generator().manual_seed(seed)
    spec, contexts = world.action_spec, world.context
    rows = torch.arange(batch) % len(contexts.frames)
    state = world.initial_state(
        torch.from_numpy(contexts.frames)[rows], torch.from_numpy(contexts.actions)[rows], generator
    )
    started = 0.0
    for step in range(warmup + steps):
        if step == warmup:
            started = time.perf_counter()
        if spec.kind == "box":
            low, high = torch.tensor(spec.low), torch.tensor(spec.high)
            action = low + (high - low) * torch.rand((batch, len(low)), generator=generator)
        else:
            action = torch.randint(max(spec.n, 1), (batch,), generator=generator)
        state, _ = world.step(state, action, generator)
    return batch * steps / (time.perf_counter() - started)
