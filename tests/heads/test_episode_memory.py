"""The head of the end that remembers the episode."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from worldflow.errors import DataError
from worldflow.heads.config import HeadsConfig
from worldflow.heads.episode_memory import EpisodeTerminationHead
from worldflow.testing import tiny_config, tiny_world
from worldflow.world_model import WorldModel
from worldflow.world_state import WorldState

TOKENS, CHANNELS, CONDITION = 3, 2, 4


def small_head() -> EpisodeTerminationHead:
    return EpisodeTerminationHead(TOKENS, CHANNELS, CONDITION, 16)


def clips(rows: int, frames: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, frames, TOKENS, CHANNELS), torch.randn(rows, frames, CONDITION)


def test_an_end_depends_on_all_before_it_and_on_nothing_after() -> None:
    """Autograd's derivative of one logit by every frame and every action."""
    head = small_head()
    noisy, condition = (x.requires_grad_() for x in clips(1, 12))
    by_frame, by_action = torch.autograd.grad(head(noisy, condition)[0, 8], (noisy, condition))
    frames, actions = by_frame.abs().sum((0, 2, 3)), by_action.abs().sum((0, 2))
    assert (frames[:8] > 0).all() and (frames[8:] == 0).all()
    assert (actions[:9] > 0).all() and (actions[9:] == 0).all()


def test_steps_are_the_clip() -> None:
    head = small_head()
    noisy, condition = clips(2, 7)
    memory = head.begin(noisy[:, 0])
    features = torch.zeros(2, TOKENS, 5)  # of denoiser and flow, which it does not read
    with torch.no_grad():
        expected = head(noisy, condition)
        for t in range(7):
            logits, memory = head.step(memory, features, features, noisy[:, t], condition[:, t])
            torch.testing.assert_close(logits, expected[:, t])
        shorter = head(noisy, condition, torch.tensor([3, 7]))
    torch.testing.assert_close(shorter[0, :3], expected[0, :3])
    torch.testing.assert_close(shorter[1], expected[1])
    assert (shorter[0, 3:] == 0).all()


def test_what_left_the_picture_ends_an_episode_later() -> None:
    """A mark is seen in one frame and ends the episode five frames later, for certain.

    Nothing shows it in between, so without a memory the end is a matter of chance, one step in
    eleven.
    """
    head = small_head()
    adam = torch.optim.Adam(head.parameters(), 5e-3)
    for _ in range(400):
        noisy, condition = clips(64, 16)
        when = torch.randint(0, 11, (64,))
        noisy[torch.arange(64), when, 1] = 4.0
        ended = torch.nn.functional.one_hot(when + 5, 16)
        losses = head.loss(head(noisy, condition), ended)
        # past the end there is nothing to learn
        alive = torch.arange(16) <= (when + 5)[:, None]
        loss = (losses * alive).sum() / alive.sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    chance = 64 / float(alive.sum())
    without = -chance * math.log(chance) - (1 - chance) * math.log(1 - chance)
    assert loss.item() < 0.1 * without


def remembering() -> WorldModel:
    return tiny_world(
        config=replace(tiny_config(), heads=HeadsConfig(8, termination_reads="episode"))
    )


def dreams(world: WorldModel, rows: list[int], *seeds: int) -> WorldState:
    frames, actions = (
        torch.from_numpy(x)[rows] for x in (world.context.frames, world.context.actions)
    )
    return world.initial_state(frames, actions, [torch.Generator().manual_seed(s) for s in seeds])


def hazard(world: WorldModel, state: WorldState, *seeds: int) -> tuple[WorldState, Tensor]:
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    state, prediction = world.step(state, torch.zeros(len(seeds), dtype=torch.int64), generators)
    assert prediction.termination_probability is not None
    return state, prediction.termination_probability


def test_rows_keep_their_own_memory() -> None:
    """Forked, put elsewhere, mixed and begun anew they have the chances that they have alone."""
    world = remembering()
    state = dreams(world, [0, 1], 1, 2)
    for t in range(6):  # past the window of flow and denoiser
        state, _ = hazard(world, state, t, t + 9)
    kept = state
    _, both = hazard(world, kept, 3, 4)
    _, forked = hazard(world, world.fork(kept, [1, 1, 0]), 4, 5, 3)
    assert both[0] != both[1]
    torch.testing.assert_close(forked, both[[1, 1, 0]])
    fresh = dreams(world, [1, 0], 7, 8)
    _, new = hazard(world, fresh, 4, 3)
    mixed = WorldState.where(torch.tensor([True, False]), kept, fresh)
    _, of_mixed = hazard(world, mixed, 3, 3)
    torch.testing.assert_close(of_mixed, torch.stack((both[0], new[1])))
    following, _ = hazard(world, kept, 3, 4)
    with torch.inference_mode():
        following.assign(torch.tensor([0]), fresh.rows(torch.tensor([1])))
    _, assigned = hazard(world, following, 3, 3)
    torch.testing.assert_close(assigned[:1], new[1:])
    _, again = hazard(world, kept, 3, 4)
    assert torch.equal(again, both)  # no step and no assignment changed it


def test_a_dream_from_nothing_has_a_memory_too() -> None:
    world = remembering()
    state, prediction = world.first_frame(2, torch.Generator().manual_seed(0))
    assert prediction.termination_probability is None and state.episode is not None
    assert prediction.reward is None and prediction.terminated is None  # no head learned from it
    after, _ = hazard(world, state, 1, 2)
    assert after.episode is not None
    assert torch.equal(after.episode.before, state.episode.last)
    assert not torch.equal(after.episode.summary, state.episode.summary)


def test_it_remembers_in_full_precision() -> None:
    head = small_head()
    noisy, condition = clips(2, 40)
    expected = head(noisy, condition)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(noisy, condition), expected)


def test_states_with_and_without_a_memory_do_not_mix() -> None:
    world, other = remembering(), tiny_world()
    with pytest.raises(ValueError, match="two worlds"):
        WorldState.where(torch.tensor([True]), dreams(world, [0], 1), dreams(other, [0], 1))
    with pytest.raises(DataError, match="of another world, whose head of the end has no memory"):
        hazard(world, dreams(other, [0], 1), 1)
    with pytest.raises(DataError, match="of another world, whose head of the end has a memory"):
        hazard(other, dreams(world, [0], 1), 1)
