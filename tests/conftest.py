"""Fixtures that several folders of tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from worldflow.actions import ActionSpec
from worldflow.randomness import Generators
from worldflow.testing import tiny_world
from worldflow.world_model import WorldModel
from worldflow.world_state import Prediction, WorldState

FOREVER = 1_000_000


def pytest_runtest_setup() -> None:
    """Seed what draws from torch's global generator (initial weights), before any fixture.

    A test then sees the same bits whichever tests its process ran before; a fixture of a module
    draws after the seeding of the first test that asks for it.
    """
    torch.manual_seed(0)


@pytest.fixture
def scripted_world() -> Callable[..., WorldModel]:
    """Makes a `tiny_world` whose rewards and ends of episodes are known beforehand.

    Step k of an episode has reward k, and step `lifetime` (one for all rows, or one a row)
    terminates it; frames and scores are those of the random world.
    """

    def make(
        lifetime: int | Sequence[int] = FOREVER,
        action_spec: ActionSpec | None = None,
        size: int = 64,
    ) -> WorldModel:
        world = tiny_world(action_spec, size)
        dream = world.step

        def step(
            state: WorldState, action: torch.Tensor, generator: Generators, temperature: float = 1
        ) -> tuple[WorldState, Prediction]:
            state, prediction = dream(state, action, generator, temperature)
            age = state.denoiser.time - world.config.context
            ended = age >= torch.as_tensor(lifetime)
            return state, replace(prediction, terminated=ended, reward=age.float())

        world.step = step  # type: ignore[method-assign]
        return world

    return make
