"""Guidance: its formula against densities on a grid, and guided steps against whole clips."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from worldflow.errors import ConfigError, DataError
from worldflow.flow.affine import LOG_SCALE_BOUND, Affine
from worldflow.flow.flow import Flow
from worldflow.flow.guidance import Guidance, Unconditional, guide, guide_choice
from worldflow.flow.sampler import SamplerConfig
from worldflow.heads.config import HeadsConfig
from worldflow.testing import randomize, tiny_config, tiny_world

TOKENS, CHANNELS, CONDITION = 5, 2, 8
logs = st.floats(-LOG_SCALE_BOUND, LOG_SCALE_BOUND)
means = st.floats(-5.0, 5.0)
weights = st.floats(0.0, 50.0)


def affine(mu: float, scale: float) -> Affine:
    return of_logs(mu, math.log(scale))


def of_logs(mu: float, log_scale: float) -> Affine:
    return Affine(*torch.tensor([[mu], [log_scale]], dtype=torch.float64))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize(("mu_u", "scale_u"), [(0.3, 1.0), (-1.0, 2.0), (0.9, 0.7)])
def test_guided_density_is_the_product_of_powers_on_a_grid(
    weight: float, mu_u: float, scale_u: float
) -> None:
    mu_c, scale_c = 0.5, 0.7
    x = np.linspace(-12, 12, 400_001)

    def log_normal(mu: float, scale: float) -> np.ndarray:
        return -0.5 * ((x - mu) / scale) ** 2 - math.log(scale)

    density = np.exp((1 + weight) * log_normal(mu_c, scale_c) - weight * log_normal(mu_u, scale_u))
    density /= density.sum()
    mean = (density * x).sum()
    deviation = np.sqrt((density * (x - mean) ** 2).sum())
    guided = guide(affine(mu_c, scale_c), affine(mu_u, scale_u), weight)
    assert guided.mu.item() == pytest.approx(mean, abs=1e-6)
    assert guided.log_scale.exp().item() == pytest.approx(deviation, abs=1e-6)


def test_a_choice_is_guided_as_a_density_is() -> None:
    told, untold = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.5, 0.4, 0.1])
    # with w = 1: 0.5^2 / 0.5, 0.3^2 / 0.4 and 0.2^2 / 0.1, of their sum 1.125
    guided = guide_choice(told.log(), untold.log(), 1.0).exp()
    torch.testing.assert_close(guided, torch.tensor([0.5, 0.225, 0.4]) / 1.125)
    torch.testing.assert_close(guide_choice(told.log(), untold.log(), 0.0).exp(), told)


def test_beyond_the_limit_of_the_weight_the_unconditional_side_is_widened() -> None:
    # (1 + w) / 1 - w / 0.25 is negative for every w > 1 / 3: no such density
    guided = guide(affine(1.0, 1.0), affine(0.0, 0.5), 2.0)
    assert guided.mu.item() == pytest.approx(1.0 + 2.0 * 1.0)
    assert guided.log_scale.item() == pytest.approx(0.0)


@given(means, logs, means, logs, weights)
def test_scale_is_positive_finite_and_no_larger_than_the_conditional_one(
    mu_c: float, log_c: float, mu_u: float, log_u: float, weight: float
) -> None:
    conditional, other = of_logs(mu_c, log_c), of_logs(mu_u, log_u)
    guided = guide(conditional, other, weight)
    assert guided.mu.isfinite().all()
    assert 0.0 < guided.log_scale.exp().item() <= math.exp(log_c) * (1 + 1e-12)
    assert (guided.mu - mu_c).abs() <= weight * abs(mu_c - mu_u) * (1 + 1e-9) + 1e-12


@given(means, logs, means, logs, st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_more_weight_is_further_away_and_surer(
    mu_c: float, log_c: float, mu_u: float, log_u: float, one: float, two: float
) -> None:
    conditional, other = of_logs(mu_c, log_c), of_logs(mu_u, log_u)
    less, more = (guide(conditional, other, w) for w in sorted((one, two)))
    assert (more.mu - mu_u).abs() >= (less.mu - mu_u).abs() - 1e-9
    assert more.log_scale <= less.log_scale + 1e-12


@given(means, logs, means, logs)
def test_no_weight_and_no_difference_change_nothing(
    mu_c: float, log_c: float, mu_u: float, log_u: float
) -> None:
    conditional = of_logs(mu_c, log_c)
    same = guide(conditional, of_logs(mu_u, log_u), 0.0)
    assert torch.equal(same.mu, conditional.mu)
    assert torch.equal(same.log_scale, conditional.log_scale)
    again = guide(conditional, conditional, 7.0)
    assert torch.equal(again.mu, conditional.mu)
    assert torch.equal(again.log_scale, conditional.log_scale)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="finite and not negative"):
        Guidance(weight)


def test_unknown_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"guidance.over is 'sound'"):
        Guidance(1.0, "sound")


def small_flow() -> Flow:
    torch.manual_seed(0)
    flow = Flow(tiny_config().flow, TOKENS, CHANNELS, CONDITION).double().eval()
    randomize(flow, 1)
    return flow.requires_grad_(False)


def dream(
    flow: Flow, noise: Tensor, condition: Tensor, other: Tensor, weight: float, method: str
) -> tuple[Tensor, Tensor]:
    """Noisy frames and their log-likelihoods (B, T, ...) of a dream from nothing."""
    state = flow.empty_state(len(noise), guided=True)
    sampler = SamplerConfig(method, 0.0)
    frames, log_probs = [], []
    for t in range(noise.shape[1]):
        away = Unconditional(other[:, t], weight)
        state, out, sample = flow.step(state, noise[:, t], condition[:, t], sampler, away)
        frames.append(sample.noisy)
        log_probs.append(out.log_prob)
    return torch.stack(frames, 1), torch.stack(log_probs, 1)


@pytest.mark.parametrize("method", ["sequential", "jacobi"])
def test_guided_steps_invert_the_guided_map_of_whole_clips(method: str) -> None:
    flow, weight = small_flow(), 1.7
    generator = torch.Generator().manual_seed(3)
    shape = (2, 7)  # longer than the window
    noise = torch.randn(*shape, TOKENS, CHANNELS, generator=generator, dtype=torch.float64)
    condition, other = torch.randn(2, *shape, CONDITION, generator=generator, dtype=torch.float64)
    frames, log_probs = dream(flow, noise, condition, other, weight, method)
    # as forward scores them: once under the condition, once under the other
    hidden = flow._local(frames.flatten(0, 1))[0].reshape(frames.shape)
    flat = hidden.flatten(0, 1)
    known = [flow.global_block(hidden, c).flatten(0, 1) for c in (condition, other)]
    maps = [flow.global_block.affine(flat, features) for features in known]
    torch.testing.assert_close(guide(*maps, weight).to_noise(flat), noise.flatten(0, 1))
    # the likelihood is that under the condition, not of the guided map
    torch.testing.assert_close(log_probs, flow(frames, condition).log_prob)
    unguided, _ = dream(flow, noise, condition, condition, weight, method)
    assert not torch.allclose(frames, unguided)


def test_observed_frames_are_remembered_on_both_sides() -> None:
    flow, weight = small_flow(), 0.8
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, 5, TOKENS, CHANNELS, generator=generator, dtype=torch.float64)
    condition, other = torch.randn(2, 2, 5, CONDITION, generator=generator, dtype=torch.float64)
    frames, _ = dream(flow, noise, condition, other, weight, "sequential")
    state = flow.empty_state(2, guided=True)
    for t in range(4):
        away = Unconditional(other[:, t], weight)
        state, _ = flow.observe(state, frames[:, t], condition[:, t], away)
    away = Unconditional(other[:, 4], weight)
    sampler = SamplerConfig("sequential")
    _, _, sample = flow.step(state, noise[:, 4], condition[:, 4], sampler, away)
    torch.testing.assert_close(sample.noisy, frames[:, 4])


def test_a_state_begun_without_guidance_cannot_be_guided() -> None:
    flow = small_flow()
    noise, condition = torch.zeros(1, TOKENS, CHANNELS).double(), torch.zeros(1, CONDITION).double()
    with pytest.raises(ValueError, match="guided=True"):
        flow.step(flow.empty_state(1), noise, condition, guidance=Unconditional(condition, 1.0))


def test_worlds_refuse_guidance_over_what_they_do_not_know() -> None:
    world = tiny_world()
    frames, actions = torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8), torch.zeros(1, 1).long()
    with pytest.raises(ConfigError, match="this world knows no text"):
        world.initial_state(frames, actions, guidance=Guidance(1.0, "text"))
    with pytest.raises(DataError, match="learned without captions"):
        world.initial_state(frames, actions, text=torch.zeros(1, 4))


def test_guidance_over_actions_changes_dreams_and_none_does_not() -> None:
    world = tiny_world()
    frames, actions = torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8), torch.zeros(1, 1).long()

    def next_frame(guidance: Guidance | None) -> Tensor:
        state = world.initial_state(frames, actions, guidance=guidance)
        assert (state.flow.unguided is None) == (guidance is None or not guidance.active)
        generator = torch.Generator().manual_seed(0)
        return world.step(state, torch.tensor([2]), generator)[1].latents

    plain = next_frame(None)
    assert torch.equal(plain, next_frame(Guidance(0.0, "text")))
    assert not torch.equal(plain, next_frame(Guidance(2.0, "actions")))


@pytest.mark.parametrize("reads", ["frame", "past", "episode"])
def test_a_hazard_of_a_guided_dream_is_that_without_guidance(reads: str) -> None:
    """Guidance changes which frame comes, so an end that is read from the frame changes too."""
    world = tiny_world(config=replace(tiny_config(), heads=HeadsConfig(8, termination_reads=reads)))
    frames, actions = torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8), torch.zeros(1, 1).long()

    def end(weight: float) -> Tensor:
        guidance = Guidance(weight, "actions")
        state = world.initial_state(frames, actions, guidance=guidance)
        generator = torch.Generator().manual_seed(0)
        prediction = world.step(state, torch.tensor([2]), generator)[1]
        assert prediction.termination_probability is not None
        return prediction.termination_probability

    assert torch.equal(end(0.0), end(2.0)) == (reads != "frame")
