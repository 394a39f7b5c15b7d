"""Jacobi against the sequential sampler in the worlds that ship, on their own frames and noise."""

from __future__ import annotations

import pytest
import torch

import worldflow
from worldflow.flow.sampler import SamplerConfig, invert

SEQUENTIAL = SamplerConfig("sequential")


@pytest.mark.parametrize("name", ["catch", "takecover"])
@torch.inference_mode()
def test_every_block_of_every_row_is_inverted_within_the_tolerance(name: str) -> None:
    world = worldflow.load_world(name)
    flow, config = world.flow, world.config.flow.sampler
    assert config.tolerance <= 0.1 * world.config.sigma + 1e-9
    generator = torch.Generator().manual_seed(0)
    frames, actions = (
        torch.from_numpy(x[:16]) for x in (world.context.frames, world.context.actions)
    )
    state = world.initial_state(frames, actions, generator)
    for _ in range(4):
        action = torch.randint(world.action_spec.n, (16,), generator=generator)
        past, condition = state.flow, world.conditioning.embed(action)
        chance = flow.draw_chance(generator, past.hidden)
        features = flow.global_block.read_past(past.hidden, condition, past.cache.clone())
        known = (features,) if chance is None else (features, chance)
        blocks = [
            *((block, block.order) for block in flow.local_blocks),
            (lambda x, known=known: flow.global_block.affine(x, *known), flow.global_block.order),
        ]
        x = torch.randn(past.hidden.shape, generator=generator)
        for (block, order), affine in zip(reversed(blocks), reversed(past.affines), strict=True):
            found = invert(block, x, affine.to_data(x), order, config)
            exact = invert(block, x, x, order, SEQUENTIAL)
            assert not found.fallback.any()
            assert (found.passes <= world.tokens).all() and found.passes.float().mean() < 8
            error = (found.x - exact.x).square().mean(dim=2).sqrt().amax(dim=1)
            assert (error <= config.tolerance).all()
            x = exact.x
        state, _ = world.step(state, action, generator)
