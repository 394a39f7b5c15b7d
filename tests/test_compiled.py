"""The compiled step is the eager one, bit for bit on a CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worldflow.compiled import compile_step
from worldflow.flow.guidance import Guidance
from worldflow.flow.transformer import TransformerConfig
from worldflow.heads.config import HeadsConfig
from worldflow.testing import randomize, tiny_config, tiny_world
from worldflow.world_model import WorldModel
from worldflow.world_spec import WorldConfig


def dream(world: WorldModel, rows: int, steps: int, weight: float = 0.0) -> list[torch.Tensor]:
    """Frames and likelihoods of a dream, and the likelihoods of the real beginning.

    A `weight` guides it towards its actions.
    """
    frames, actions = (
        torch.from_numpy(x[:rows]) for x in (world.context.frames, world.context.actions)
    )
    generator = torch.Generator().manual_seed(0)
    guidance = Guidance(weight, "actions")
    state = world.initial_state(frames, actions, generator, guidance=guidance)
    seen = [world.log_prob(frames, actions)]
    for t in range(steps):
        state, prediction = world.step(state, torch.full((rows,), t % 3), generator)
        assert prediction.termination_probability is not None
        seen += [prediction.latents, prediction.frame, prediction.log_likelihood]
        seen.append(prediction.termination_probability)
    return seen


def frame_parallel() -> WorldConfig:
    config = tiny_config()
    block = replace(config.flow.global_block, within=TransformerConfig(8, 0, 2))
    return replace(config, flow=replace(config.flow, global_block=block))


def several_outcomes() -> WorldConfig:
    config = tiny_config()
    block = replace(config.flow.global_block, outcomes=3)
    return replace(config, flow=replace(config.flow, global_block=block))


def hazard(reads: str) -> WorldConfig:
    return replace(several_outcomes(), heads=HeadsConfig(8, termination_reads=reads))


@pytest.mark.parametrize(
    "config",
    [tiny_config(), frame_parallel(), several_outcomes(), hazard("past"), hazard("episode")],
    ids=["causal", "parallel", "outcomes", "hazard", "memory"],
)
def test_a_compiled_dream_is_the_eager_dream(config: WorldConfig) -> None:
    """Seven steps, past the window; one compiled world serves any number of rows."""
    eager, compiled = tiny_world(config=config), compile_step(tiny_world(config=config))
    for rows in (2, 1, 5):
        expected = dream(eager, rows, 7)
        for a, b in zip(expected, dream(compiled, rows, 7), strict=True):
            assert torch.equal(a, b)


def test_a_compiled_guided_dream_chooses_the_same_outcomes() -> None:
    config = several_outcomes()
    eager, compiled = tiny_world(config=config), compile_step(tiny_world(config=config))
    for world in (eager, compiled):
        randomize(world.flow.global_block.outcomes, 0, 1.0)  # which depend on the condition
    expected, unguided = dream(eager, 2, 7, 2.0), dream(eager, 2, 7)
    for a, b in zip(expected, dream(compiled, 2, 7, 2.0), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(expected[-2], unguided[-2])


def test_a_compiled_world_is_not_trained() -> None:
    world = compile_step(tiny_world())
    assert not world.training
    assert not any(parameter.requires_grad for parameter in world.parameters())
