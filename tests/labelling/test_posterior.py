"""The posterior of discrete actions against brute force over all sequences of actions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from worldflow.actions import ActionSpec
from worldflow.errors import ConfigError, DataError
from worldflow.labelling.infer import padded_draws
from worldflow.labelling.latents import ENCODED_AT_ONCE, noisy_draws
from worldflow.labelling.posterior import (
    _revise,
    action_posterior,
    filter_actions,
    log_prior_of,
)
from worldflow.randomness import fixed
from worldflow.testing import tiny_world
from worldflow.world_model import WorldModel

FRAMES = 5
PRIOR = (0.2, 0.5, 0.3)


@pytest.fixture(scope="module")
def world() -> WorldModel:
    """Its actions are alike enough for more than one to stay possible."""
    world = tiny_world(frame_size=32).double()
    world.conditioning.table.weight *= 0.3
    return world


@pytest.fixture(scope="module")
def frames() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (2, FRAMES, 32, 32, 3), generator=generator).to(torch.uint8)


def brute_force(world: WorldModel, frames: Tensor, prior: tuple[float, ...], delay: int) -> Tensor:
    """log p(a_t | x_<=t+delay) of one row, (T, n), by the likelihood of every sequence."""
    length, choices = frames.shape[1], world.action_spec.n
    log_prior = torch.tensor(prior).double().log()
    sequences = torch.tensor(
        [(0, *s) for s in itertools.product(range(choices), repeat=length - 1)]
    )
    repeated = frames.expand(len(sequences), -1, -1, -1, -1)
    terms = world.log_prob(repeated, sequences)
    terms[:, 1:] += log_prior[sequences[:, 1:]]
    joint = terms.cumsum(1)
    rows = [log_prior]
    for t in range(1, length):
        seen = joint[:, min(t + delay, length - 1)]
        # sequences that differ after what is seen are counted alike for every action
        mass = torch.stack([seen[sequences[:, t] == a].logsumexp(0) for a in range(choices)])
        rows.append(mass - mass.logsumexp(0))
    return torch.stack(rows)


@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize("prior", [None, PRIOR])
def test_with_a_full_beam_it_is_exact(
    world: WorldModel, frames: Tensor, prior: tuple[float, ...] | None, delay: int
) -> None:
    found = action_posterior(world, frames, prior=prior, beam=3 ** (FRAMES - 1), delay=delay)
    uniform = (1 / 3, 1 / 3, 1 / 3)
    for row in range(2):
        expected = brute_force(world, frames[row : row + 1], prior or uniform, delay)
        torch.testing.assert_close(found.log_posterior[row], expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.kept, torch.ones_like(found.kept))
    # the test would be empty if one action were certain, or if later frames changed nothing
    assert found.log_posterior[:, 1:].exp().max() < 0.999
    if delay:
        filtered = action_posterior(world, frames, prior=prior, beam=3 ** (FRAMES - 1))
        assert (filtered.log_posterior - found.log_posterior).abs().max() > 1e-3


def test_the_likelihood_of_a_frame_has_its_past_summed_out(
    world: WorldModel, frames: Tensor
) -> None:
    found = action_posterior(world, frames[:1], beam=81)
    again = found.log_likelihood[0] - math.log(3)
    torch.testing.assert_close(
        (again - again.logsumexp(1, keepdim=True))[1:], found.log_posterior[0, 1:]
    )
    # the chain rule: their product is the likelihood of the frames, whatever the actions
    sequences = torch.tensor([(0, *s) for s in itertools.product(range(3), repeat=FRAMES - 1)])
    repeated = frames[:1].expand(len(sequences), -1, -1, -1, -1)
    whole = world.log_prob(repeated, sequences)[:, 1:].sum(1)
    expected = whole.logsumexp(0) - math.log(len(sequences))
    torch.testing.assert_close(again[1:].logsumexp(1).sum(), expected)


def test_a_greedy_beam_goes_on_from_the_likeliest_action(world: WorldModel, frames: Tensor) -> None:
    found = action_posterior(world, frames[:1], beam=1)
    taken = [0]
    for t in range(1, FRAMES):
        after = [0] * (FRAMES - t - 1)  # does not matter
        tried = torch.tensor([[*taken, a, *after] for a in range(3)])
        log_prob = world.log_prob(frames[:1].expand(3, -1, -1, -1, -1), tried)[:, t]
        torch.testing.assert_close(found.log_likelihood[0, t], log_prob)
        torch.testing.assert_close(found.log_posterior[0, t], log_prob.log_softmax(0))
        torch.testing.assert_close(found.kept[0, t], log_prob.softmax(0).max())
        taken.append(int(log_prob.argmax()))


def test_a_narrow_beam_keeps_a_posterior_over_all_actions(
    world: WorldModel, frames: Tensor
) -> None:
    found = action_posterior(world, frames, beam=2, delay=3)
    exact = action_posterior(world, frames, beam=81, delay=3)
    assert found.kept.min() < 0.99
    torch.testing.assert_close(found.log_posterior.logsumexp(2).exp(), torch.ones(2, 5).double())
    assert (found.log_posterior - exact.log_posterior).exp().sub(1).abs().max() > 1e-3


def test_a_beam_of_the_delays_size_lets_later_frames_choose(
    world: WorldModel, frames: Tensor
) -> None:
    """Of n^delay histories each ends differently, so the two last frames are judged exactly."""
    found = action_posterior(world, frames[:, :3], beam=3, delay=1)
    exact = action_posterior(world, frames[:, :3], beam=9, delay=1)
    assert found.kept[:, 2].max() < 1 - 1e-6
    torch.testing.assert_close(found.log_posterior, exact.log_posterior)


def test_what_was_dropped_is_no_evidence() -> None:
    """Of three actions one has no history left and keeps its share; the others change by Bayes."""
    before = torch.tensor([[0.2, 0.3, 0.5]]).double().log()
    weights = torch.tensor([[0.9, 0.05, 0.05]]).double().log()  # of what is left, whatever it was
    likelihood = torch.tensor([[2.0, 5.0, 7.0]]).double().log()
    after = _revise(before, weights, likelihood, torch.tensor([[0, 2, 2]])).exp()
    expected = torch.tensor([[0.2 * 2, 0.0, 0.5 * 6]]).double()
    expected = 0.7 * expected / expected.sum()
    expected[0, 1] = 0.3
    torch.testing.assert_close(after, expected)


def test_a_row_does_not_depend_on_the_others(world: WorldModel, frames: Tensor) -> None:
    together = action_posterior(world, frames, beam=3, delay=1)
    for row in range(2):
        alone = action_posterior(world, frames[row : row + 1], beam=3, delay=1)
        torch.testing.assert_close(together.log_posterior[row], alone.log_posterior[0])
        torch.testing.assert_close(together.log_likelihood[row], alone.log_likelihood[0])


def test_rows_of_different_lengths_end_where_they_end(world: WorldModel, frames: Tensor) -> None:
    """Delayed posteriors near the end of a short row do not look beyond it."""
    videos = [frames[0, :3].numpy(), frames[1].numpy(), frames[0, :1].numpy()]
    (noisy,), lengths = padded_draws(world, videos, fixed(3), 1)
    assert lengths.tolist() == [3, 5, 1]
    noisy[0, 3:] = 100.0
    log_prior = log_prior_of(world, PRIOR)
    found = filter_actions(world, noisy, lengths, log_prior, 4, 2)
    for row, video in enumerate(videos):
        clip = torch.from_numpy(video)[None]
        alone = action_posterior(world, clip, prior=PRIOR, beam=4, delay=2)
        torch.testing.assert_close(found.log_posterior[row, : len(video)], alone.log_posterior[0])
        assert (found.log_posterior[row, len(video) :] == log_prior).all()


def test_draws_of_noise_are_averaged_as_posteriors(world: WorldModel, frames: Tensor) -> None:
    both = action_posterior(world, frames[:1], beam=3, delay=1, noise_samples=2)
    draws = noisy_draws(world, frames[:1], 2, fixed(1))
    lengths, log_prior = torch.tensor([FRAMES]), log_prior_of(world, None)
    one, two = (filter_actions(world, y, lengths, log_prior, 3, 1) for y in draws)
    assert (one.log_posterior - two.log_posterior).abs().max() > 0.01
    mean = 0.5 * (one.log_posterior.exp() + two.log_posterior.exp())
    torch.testing.assert_close(both.log_posterior.exp(), mean)


def test_the_noise_is_the_worlds(world: WorldModel) -> None:
    frames = torch.randint(0, 256, (2, ENCODED_AT_ONCE + 1, 32, 32, 3), dtype=torch.uint8)
    first, second = noisy_draws(world, frames, 2, fixed(2))
    torch.testing.assert_close(first, world.noisy_latents(frames, fixed(2)))
    assert (first - second).std() == pytest.approx(world.config.sigma * math.sqrt(2), rel=0.1)


def test_where_frames_say_nothing_the_prior_is_left(frames: Tensor) -> None:
    world = tiny_world(frame_size=32).double()
    world.flow.global_block.past.modulation.weight.zero_()  # actions have no effect
    found = action_posterior(world, frames, prior=PRIOR, beam=4, delay=1)
    expected = torch.tensor(PRIOR).double().expand(2, FRAMES, 3)
    torch.testing.assert_close(found.log_posterior.exp(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("prior", "message"),
    [((0.5, 0.5), "must be 3"), ((0.5, 0.5, 0.0), "positive"), ((0.5, 0.5, 0.5), "sum 1")],
)
def test_bad_priors_are_refused(
    world: WorldModel, frames: Tensor, prior: tuple[float, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        action_posterior(world, frames, prior=prior)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": 0}, "beam=0"),
        ({"delay": -1}, "delay=-1"),
        ({"noise_samples": 0}, "noise_samples=0"),
        ({"beam": 1, "delay": 1}, "no effect with beam=1"),
    ],
)
def test_bad_searches_are_refused(
    world: WorldModel, frames: Tensor, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        action_posterior(world, frames, **settings)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ActionSpec("none"), "kind 'none'"),
        (ActionSpec("discrete", n=1), "nothing to choose between"),
        (ActionSpec("box", low=(0.0,), high=(1.0,)), "use search_actions"),
    ],
)
def test_worlds_without_a_choice_are_refused(
    spec: ActionSpec, message: str, frames: Tensor
) -> None:
    with pytest.raises(DataError, match=message):
        action_posterior(tiny_world(spec, 32), frames)


def test_bad_frames_are_named(world: WorldModel, frames: Tensor) -> None:
    for bad in (frames[0], frames[..., :16, :], frames.float()):
        with pytest.raises(DataError, match="this world needs"):
            action_posterior(world, bad)
    with pytest.raises(DataError, match="no frames"):
        action_posterior(world, frames[:, :0])


def test_broken_weights_are_named(frames: Tensor) -> None:
    world = tiny_world(frame_size=32)
    world.conditioning.table.weight[1] = math.nan
    with pytest.raises(DataError, match="frame 1 is not finite"):
        action_posterior(world, frames)
