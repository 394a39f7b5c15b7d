"""The compiled step is the eager one."""

from __future__ import annotations

import pytest
import torch

from worldflow.compiled import compile_step
from worldflow.testing import tiny_world
from worldflow.world_model import WorldModel


def dream(world: WorldModel, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and log-likelihoods of a dream of two rows."""
    frames, actions = (
        torch.from_numpy(x[:2]) for x in (world.context.frames, world.context.actions)
    )
    generator = torch.Generator().manual_seed(0)
    state = world.initial_state(frames, actions, generator)
    latents, likelihoods = [], []
    for t in range(steps):
        state, prediction = world.step(state, torch.tensor([t % 3, 0]), generator)
        latents.append(prediction.latents)
        likelihoods.append(prediction.log_likelihood)
        assert prediction.frame.shape == (2, 64, 64, 3)
    return torch.stack(latents), torch.stack(likelihoods)


@pytest.mark.slow
def test_a_compiled_dream_is_the_eager_dream() -> None:
    """Seven steps, past the window; the sampler's tolerance is tight, so that passes agree."""
    worlds = tiny_world(), compile_step(tiny_world())
    for world in worlds:
        world.flow.config.sampler.tolerance = 1e-5
    (latents, likelihood), (compiled, other) = (dream(world, 7) for world in worlds)
    torch.testing.assert_close(compiled, latents, atol=1e-3, rtol=0)
    torch.testing.assert_close(other, likelihood, atol=1e-2, rtol=0)
