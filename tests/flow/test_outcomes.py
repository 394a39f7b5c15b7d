"""Outcomes: a mixture of flows is exact, sums to one, is sampled as it says, and has modes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from worldflow.errors import ConfigError
from worldflow.flow.affine import Affine, standard_normal_log_prob
from worldflow.flow.block import GlobalConfig
from worldflow.flow.flow import Flow, FlowConfig
from worldflow.flow.guidance import Unconditional, guide
from worldflow.flow.outcomes import Mixture
from worldflow.flow.sampler import SamplerConfig
from worldflow.flow.transformer import TransformerConfig
from worldflow.testing import randomize

CONDITION = 5


def mixed_flow(
    outcomes: int = 3, tokens: int = 4, channels: int = 2, local_blocks: int = 1, within: int = 1
) -> Flow:
    torch.manual_seed(0)
    config = FlowConfig(
        window=3,
        local_blocks=local_blocks,
        local=TransformerConfig(8, 1, 2),
        global_block=GlobalConfig(
            TransformerConfig(16, 1, 2), TransformerConfig(8, within, 2), outcomes
        ),
        sampler=SamplerConfig("jacobi", 1e-10),
    )
    flow = Flow(config, tokens, channels, CONDITION)
    randomize(flow, 1, 0.5)
    return flow.double().eval().requires_grad_(False)


def clip(flow: Flow, batch: int, frames: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, frames, flow.tokens, flow.channels)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(batch, frames, CONDITION, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("within", [0, 1])
def test_likelihood_is_the_mixture_of_each_outcomes_jacobian(within: int) -> None:
    flow = mixed_flow(within=within)
    noisy, condition = clip(flow, 1, 3)
    block, size = flow.global_block, flow.tokens * flow.channels
    with torch.no_grad():
        features = block(flow._local(noisy[0])[0][None], condition)[:, 2]
    ways = list(itertools.product(range(3), repeat=flow.tokens))
    terms = []
    for way in ways:
        outcomes = torch.tensor([way])

        def noise(frame: Tensor, outcomes: Tensor = outcomes) -> Tensor:
            u = flow._local(frame[None])[0]
            return block.mixture(u, features).take(outcomes).to_noise(u)

        jacobian = torch.autograd.functional.jacobian(noise, noisy[0, 2]).reshape(size, size)
        log_det = torch.linalg.slogdet(jacobian).logabsdet
        density = standard_normal_log_prob(noise(noisy[0, 2])).sum() + log_det
        weights = block.mixture(flow._local(noisy[0, 2][None])[0], features).log_weights[0]
        terms.append(weights.gather(1, outcomes.T).sum() + density)
    assert len({round(float(term), 6) for term in terms}) == len(ways) == 3**flow.tokens
    total = flow(noisy, condition).log_prob[0, 2]
    torch.testing.assert_close(total, torch.logsumexp(torch.stack(terms), 0))


def test_density_sums_to_one_over_the_line() -> None:
    flow = mixed_flow(tokens=1, channels=1)
    noisy, condition = clip(flow, 1, 3)
    line = torch.linspace(-40.0, 40.0, 8001, dtype=torch.float64)
    state = flow.empty_state(1)
    for t in range(2):
        state, _ = flow.observe(state, noisy[:, t], condition[:, t])
    rows = torch.zeros(len(line), dtype=torch.int64)
    _, out = flow.observe(state.rows(rows), line[:, None, None], condition[rows, 2])
    assert float(torch.trapezoid(out.log_prob.exp(), line)) == pytest.approx(1.0, abs=1e-6)


def test_samples_follow_the_density() -> None:
    """Of one number: the share of samples below a point is the integral of the density up to it."""
    flow, rows = mixed_flow(tokens=1, channels=1), 40_000
    noisy, condition = clip(flow, 1, 2)
    state, _ = flow.observe(flow.empty_state(1), noisy[:, 0], condition[:, 0])
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(rows, 1, 1, generator=generator, dtype=torch.float64)
    many = torch.zeros(rows, dtype=torch.int64)
    chance = flow.draw_chance(generator, z)
    _, _, sample = flow.step(state.rows(many), z, condition[many, 1], chance=chance)
    drawn = sample.noisy.flatten()
    line = torch.linspace(-40.0, 40.0, 8001, dtype=torch.float64)
    many = torch.zeros(len(line), dtype=torch.int64)
    _, out = flow.observe(state.rows(many), line[:, None, None], condition[many, 1])
    below = torch.cumulative_trapezoid(out.log_prob.exp(), line)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        point = line[1:][torch.searchsorted(below, share)]
        assert float((drawn <= point).double().mean()) == pytest.approx(share, abs=0.01)


def test_stepping_equals_scoring_whole_clips() -> None:
    flow = mixed_flow()
    noise, condition = clip(flow, 2, 7)  # longer than the window
    generator, state = torch.Generator().manual_seed(3), flow.empty_state(2)
    frames, log_probs, log_scales = [], [], []
    for t in range(7):
        chance = flow.draw_chance(generator, noise[:, t])
        state, out, sample = flow.step(state, noise[:, t], condition[:, t], chance=chance)
        frames.append(sample.noisy)
        log_probs.append(out.log_prob)
        log_scales.append(out.log_scale)
    full = flow(torch.stack(frames, 1), condition)
    torch.testing.assert_close(torch.stack(log_probs, 1), full.log_prob)
    torch.testing.assert_close(torch.stack(log_scales, 1), full.log_scale)
    torch.testing.assert_close(full.token_log_scale.sum(-1), full.log_scale)


def test_the_noise_of_a_sample_is_found_again_where_its_outcomes_are_sure() -> None:
    flow = mixed_flow()
    flow.global_block.outcomes.weights.bias.copy_(torch.tensor([0.0, 60.0, 0.0]))
    z, condition = clip(flow, 2, 1)
    chance = torch.linspace(0.001, 0.999, 2 * flow.tokens, dtype=torch.float64).reshape(2, -1)
    _, out, _ = flow.step(flow.empty_state(2), z[:, 0], condition[:, 0], chance=chance)
    torch.testing.assert_close(out.noise, z[:, 0], atol=1e-8, rtol=0)


def test_outcomes_are_chosen_by_their_probabilities() -> None:
    def chosen(weights: list[float], chance: list[float]) -> list[int]:
        mu = torch.arange(len(weights), dtype=torch.float32)[:, None]
        mixture = Mixture(Affine(mu, torch.zeros_like(mu)), torch.tensor(weights).log())
        return [int(mixture.choose(torch.tensor(value))) for value in chance]

    assert chosen([0.2, 0.5, 0.3], [0.0, 0.19, 0.21, 0.69, 0.71]) == [0, 0, 1, 1, 2]
    # rounding may leave the sum of the weights below the chance
    assert chosen([0.5, 0.4], [0.95]) == [1]


def test_a_chance_is_needed_where_there_is_a_choice_and_drawn_only_there() -> None:
    flow = mixed_flow()
    noise, condition = clip(flow, 2, 1)
    with pytest.raises(ValueError, match="several outcomes here"):
        flow.step(flow.empty_state(2), noise[:, 0], condition[:, 0])
    plain, generator = mixed_flow(outcomes=1), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert plain.draw_chance(generator, noise) is None
    assert torch.equal(generator.get_state(), before)
    assert not list(plain.global_block.outcomes.parameters())


def test_no_outcome_is_refused() -> None:
    with pytest.raises(ConfigError, match="outcomes is 0"):
        GlobalConfig(outcomes=0)


def test_guidance_chooses_an_outcome_and_takes_it_on_both_sides() -> None:
    flow, weight = mixed_flow(), 2.5
    z, (condition, other) = clip(flow, 2, 1)[0], clip(flow, 4, 1)[1].chunk(2)
    block, state = flow.global_block, flow.empty_state(2, guided=True)
    chance = torch.linspace(0.01, 0.99, 2 * flow.tokens, dtype=torch.float64).reshape(2, -1)
    away = Unconditional(other[:, 0], weight)
    _, _, sample = flow.step(state, z[:, 0], condition[:, 0], guidance=away, chance=chance)
    hidden = flow._local(sample.noisy)[0]
    sides = [
        block.mixture(hidden, block(hidden[:, None], c[:, :1])[:, 0]) for c in (condition, other)
    ]
    told, untold = (side.log_weights.exp() for side in sides)
    weights = told ** (1 + weight) / untold**weight
    guided_weights = (weights / weights.sum(-1, keepdim=True)).log()
    outcome = Mixture(sides[0].affine, guided_weights).choose(chance)
    assert (outcome != sides[0].choose(chance)).any()  # the condition alone would choose others
    guided = guide(*(side.take(outcome) for side in sides), weight)
    torch.testing.assert_close(guided.to_noise(hidden), z[:, 0], atol=1e-8, rtol=0)


def test_jacobi_and_sequential_make_the_same_frame() -> None:
    flow = mixed_flow()
    noise, condition = clip(flow, 16, 1)
    chance = flow.draw_chance(torch.Generator().manual_seed(5), noise[:, 0])
    start = flow.empty_state(16)
    frames = [
        flow.step(start, noise[:, 0], condition[:, 0], SamplerConfig(*how), chance=chance)[2].noisy
        for how in (("jacobi", 1e-10), ("sequential", 0.0))
    ]
    torch.testing.assert_close(*frames, atol=1e-8, rtol=0)


def test_a_row_does_not_depend_on_the_others() -> None:
    flow = mixed_flow()
    noise, condition = clip(flow, 3, 1)

    def sample(seeds: list[int | None]) -> Tensor:
        generators = [None if s is None else torch.Generator().manual_seed(s) for s in seeds]
        chance = flow.draw_chance(generators, noise[:, 0])
        _, _, made = flow.step(flow.empty_state(3), noise[:, 0], condition[:, 0], chance=chance)
        return made.noisy

    assert torch.equal(sample([1, 2, 3])[1], sample([None, 2, 7])[1])


def fitted(outcomes: int) -> float:
    """NLL, nats, of a frame that is -2 or 2 with normal noise of 0.3, after some training."""
    torch.manual_seed(0)
    config = FlowConfig(
        window=2,
        local_blocks=1,
        local=TransformerConfig(16, 1, 2),
        global_block=GlobalConfig(
            TransformerConfig(16, 1, 2), TransformerConfig(16, 1, 2), outcomes
        ),
    )
    flow = Flow(config, 1, 4, CONDITION)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    generator, condition = torch.Generator().manual_seed(1), torch.zeros(256, 1, CONDITION)
    losses = []
    for _ in range(250):
        side = 4.0 * torch.randint(2, (256, 1, 1, 1), generator=generator) - 2.0
        frames = side + 0.3 * torch.randn(256, 1, 1, 4, generator=generator)
        loss = -flow(frames, condition).log_prob.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-50:]) / 50


def test_two_outcomes_learn_what_one_cannot() -> None:
    entropy = math.log(2.0) + 4 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.3))
    assert fitted(2) == pytest.approx(entropy, abs=0.15)
    # one: four independent normals of variance 4.09 is the best there is
    alone = 2.0 * math.log(2 * math.pi * math.e * 4.09)
    assert fitted(1) == pytest.approx(alone, abs=0.15)
