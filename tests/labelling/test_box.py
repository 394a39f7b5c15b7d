"""The search of a box against fine grids."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worldflow.actions import ActionSpec
from worldflow.errors import ConfigError, DataError
from worldflow.labelling.box import BoxPosterior, search, search_actions
from worldflow.labelling.infer import padded_draws
from worldflow.randomness import fixed
from worldflow.testing import tiny_world
from worldflow.world_model import WorldModel

LOW, HIGH = -1.0, 3.0
LINE = ActionSpec("box", low=(LOW,), high=(HIGH,))
PLANE = ActionSpec("box", low=(LOW, 0.0), high=(HIGH, 0.5))


def make(spec: ActionSpec, strength: float = 1.0) -> WorldModel:
    """A world on which actions have more or less effect."""
    world = tiny_world(spec, 32).double()
    world.conditioning.projection.weight *= strength
    return world


@pytest.fixture(scope="module")
def frames() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (2, 4, 32, 32, 3), generator=generator).to(torch.uint8)


def middles(low: float, high: float, cells: int) -> Tensor:
    """The middles of equal parts, whose mean is the integral's midpoint rule."""
    return low + (high - low) * (torch.arange(cells).double() + 0.5) / cells


def on_grid(world: WorldModel, frames: Tensor, past: Tensor, grid: Tensor) -> Tensor:
    """log p(x_t | x_<t, past, a) of one row for every a of the grid (G, D): (G,); past (t, D)."""
    length, t = frames.shape[1], len(past)
    actions = torch.zeros(len(grid), length, grid.shape[1]).double()
    actions[:, :t], actions[:, t] = past, grid
    return world.log_prob(frames.expand(len(grid), -1, -1, -1, -1), actions)[:, t]


@pytest.mark.parametrize("strength", [1.0, 8.0])
def test_a_line_is_searched_as_well_as_by_a_fine_grid(frames: Tensor, strength: float) -> None:
    world = make(LINE, strength)
    found = search_actions(world, frames, candidates=32, rounds=3)
    grid = middles(LOW, HIGH, 100)[:, None]
    for row in range(2):
        past = torch.zeros(1, 1).double()
        for t in range(1, 4):
            log_prob = on_grid(world, frames[row : row + 1], past, grid)
            best = on_grid(world, frames[row : row + 1], past, found.best[row, t, None])
            assert best.item() > log_prob.max().item() - 0.05
            density = log_prob.softmax(0)
            mean = (density * grid[:, 0]).sum().item()
            std = (density * (grid[:, 0] - mean).square()).sum().sqrt().item()
            entropy = -(density * (density * len(grid)).log()).sum().item()
            assert found.mean[row, t].item() == pytest.approx(mean, abs=0.1 * std)
            assert found.entropy[row, t].item() == pytest.approx(entropy, abs=0.1)
            past = torch.cat((past, found.best[row, t, None]))
    # a test of flat posteriors would say little
    assert found.entropy[:, 1:].min() < (-1.5 if strength > 1 else -0.1)


def test_a_plane_is_searched_as_well_as_by_a_fine_grid(frames: Tensor) -> None:
    world = make(PLANE, 0.5)
    found = search_actions(world, frames[:1, :2], candidates=128, rounds=3)
    grid = torch.cartesian_prod(middles(LOW, HIGH, 30), middles(0.0, 0.5, 30))
    log_prob = on_grid(world, frames[:1, :2], torch.zeros(1, 2).double(), grid)
    density = log_prob.softmax(0)
    mean = (density[:, None] * grid).sum(0)
    std = (density[:, None] * (grid - mean).square()).sum(0).sqrt()
    assert ((found.mean[0, 1] - mean).abs() < 0.1 * std).all()
    entropy = -(density * (density * len(grid)).log()).sum().item()
    assert found.entropy[0, 1].item() == pytest.approx(entropy, abs=0.1)


def test_candidates_are_of_the_box_and_their_weights_give_the_mean(frames: Tensor) -> None:
    found = search_actions(make(PLANE), frames, candidates=16, rounds=2)
    assert found.candidates.shape == (2, 4, 32, 2)
    low, high = (torch.tensor(x).double() for x in (PLANE.low, PLANE.high))
    assert ((found.candidates >= low) & (found.candidates <= high)).all()
    weights = found.log_weights.exp()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4).double())
    mean = (weights[..., None] * found.candidates).sum(2)
    torch.testing.assert_close(found.mean[:, 1:], mean[:, 1:])
    assert (found.mean[:, 0] == 0.5 * (low + high)).all() and (found.entropy[:, 0] == 0).all()


def test_frames_that_say_nothing_leave_the_box_as_it_is(frames: Tensor) -> None:
    found = search_actions(make(LINE, 0.0), frames, candidates=32, rounds=3)
    torch.testing.assert_close(found.entropy, torch.zeros(2, 4).double())
    torch.testing.assert_close(found.mean, torch.ones(2, 4, 1).double(), atol=0.05, rtol=0)


def test_rows_are_on_their_own_and_end_where_they_end(frames: Tensor) -> None:
    world = make(LINE)
    videos = [frames[0, :2].numpy(), frames[1].numpy()]
    (noisy,), lengths = padded_draws(world, videos, fixed(2), 1)
    together = search(world, noisy, lengths, 8, 2)
    for row, video in enumerate(videos):
        alone = search_actions(world, torch.from_numpy(video)[None], candidates=8, rounds=2)
        for name in BoxPosterior.__dataclass_fields__:
            mine = getattr(together, name)[row, : len(video)]
            torch.testing.assert_close(mine, getattr(alone, name)[0])
    assert (together.entropy[0, 2:] == 0).all()


def test_errors(frames: Tensor) -> None:
    world = tiny_world(LINE, 32)
    with pytest.raises(ConfigError, match="candidates=1"):
        search_actions(world, frames, candidates=1)
    with pytest.raises(ConfigError, match="rounds=0"):
        search_actions(world, frames, rounds=0)
    with pytest.raises(DataError, match="this world needs"):
        search_actions(world, frames.float())
    with pytest.raises(DataError, match="enumerated by action_posterior"):
        search_actions(tiny_world(frame_size=32), frames)
    world.conditioning.projection.weight[:] = math.nan
    with pytest.raises(DataError, match="frame 1 is not finite"):
        search_actions(world, frames)
