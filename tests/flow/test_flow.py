"""The flow's laws: exact likelihood, causality, invertibility, incremental = full."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldflow.flow.affine import standard_normal_log_prob
from worldflow.flow.block import GlobalConfig, LocalBlock
from worldflow.flow.flow import Flow, FlowConfig, FlowState, _log_scale, _token_log_scale
from worldflow.flow.sampler import SamplerConfig
from worldflow.flow.transformer import TransformerConfig
from worldflow.testing import randomize

CONDITION = 5


def random_flow(
    tokens: int = 4,
    channels: int = 2,
    window: int = 3,
    local_blocks: int = 2,
    seed: int = 0,
    past: int = 2,
    within: int = 1,
    scale: float = 0.3,
) -> Flow:
    """A float64 flow of random weights, tight sampler tolerance."""
    torch.manual_seed(seed)
    config = FlowConfig(
        window=window,
        local_blocks=local_blocks,
        local=TransformerConfig(8, 1, 2),
        global_block=GlobalConfig(TransformerConfig(16, past, 2), TransformerConfig(8, within, 2)),
        sampler=SamplerConfig("jacobi", 1e-10),
    )
    flow = Flow(config, tokens, channels, CONDITION)
    randomize(flow, seed, scale)
    return flow.double().eval().requires_grad_(False)


def clip(flow: Flow, batch: int, frames: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random noisy latents and conditions."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames, flow.tokens, flow.channels)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(batch, frames, CONDITION, generator=generator, dtype=torch.float64),
    )


def test_no_local_blocks_sum_to_zero_on_the_device_of_the_frames() -> None:
    frames = torch.zeros(3, 4, 2, dtype=torch.bfloat16, device="meta")
    for total in (_log_scale([], frames), _token_log_scale([], frames)):
        assert total.device == frames.device
        assert total.shape == () and total.dtype == torch.float32
    here = torch.zeros(3, 4, 2)
    assert _log_scale([], here) == 0 and _token_log_scale([], here) == 0


def observe_all(flow: Flow, noisy: Tensor, condition: Tensor) -> tuple[FlowState, Tensor]:
    """Log-likelihoods (B, T) frame by frame."""
    state, columns = flow.empty_state(len(noisy)), []
    for t in range(noisy.shape[1]):
        state, out = flow.observe(state, noisy[:, t], condition[:, t])
        columns.append(out.log_prob)
    return state, torch.stack(columns, 1) if columns else noisy.new_zeros(len(noisy), 0)


@pytest.mark.parametrize("within", [0, 1, 2])
def test_log_likelihood_equals_autograd_jacobian_in_every_frame(within: int) -> None:
    flow = random_flow(within=within)
    noisy, condition = clip(flow, 1, 4)
    size = flow.tokens * flow.channels
    jacobian = torch.autograd.functional.jacobian(
        lambda x: flow(x, condition).noise, noisy
    ).reshape(4 * size, 4 * size)
    out = flow(noisy, condition)
    for t in range(4):
        frame = slice(t * size, (t + 1) * size)
        log_det = torch.linalg.slogdet(jacobian[frame, frame]).logabsdet
        expected = standard_normal_log_prob(out.noise[0, t]).sum() + log_det
        assert abs(expected - out.log_prob[0, t]) < 1e-6
        # nothing flows from later frames to earlier ones, so the blocks' product is the whole
        assert not jacobian[frame, (t + 1) * size :].any()
        assert abs(out.log_scale[0, t] + log_det) < 1e-6


def test_identity_flow_has_the_normal_likelihood() -> None:
    flow = Flow(
        FlowConfig(
            local=TransformerConfig(8, 1, 2), global_block=GlobalConfig(TransformerConfig(8, 1, 2))
        ),
        tokens=3,
        channels=2,
        condition=CONDITION,
    )
    noisy, condition = (x.float() for x in clip(flow, 2, 2))
    expected = -0.5 * noisy.square().sum((2, 3)) - 3.0 * math.log(2 * math.pi)
    torch.testing.assert_close(flow(noisy, condition).log_prob, expected)


def moved(flow: Flow, frame: int, token: int) -> Tensor:
    """Which tokens of z, (T, N) bool, a change of one token of a clip of 9 frames moves."""
    noisy, condition = clip(flow, 1, 9)
    changed = noisy.clone()
    changed[0, frame, token] += 0.5
    return (flow(changed, condition).noise - flow(noisy, condition).noise).abs().sum(-1)[0] > 1e-12


@pytest.mark.parametrize("within", [0, 1])
@pytest.mark.parametrize(("frame", "token"), [(0, 0), (0, 3), (2, 1)])
def test_a_change_moves_exactly_what_it_may(frame: int, token: int, within: int) -> None:
    window, past = 2, 2
    flow = random_flow(window=window, local_blocks=0, past=past, within=within)
    expected = torch.zeros(9, 4, dtype=torch.bool)
    expected[frame, token] = True
    if within:
        expected[frame, token:] = True
    # the previous frame is an input, and every layer looks W - 1 frames back
    reach = 1 + past * (window - 1)
    expected[frame + 1 : frame + 1 + reach] = True
    assert torch.equal(moved(flow, frame, token), expected)


@pytest.mark.parametrize("token", [0, 3])
def test_with_local_blocks_a_change_stays_out_of_earlier_frames(token: int) -> None:
    changed = moved(random_flow(window=2), 2, token)
    assert not changed[:2].any() and changed[2].any() and changed[3:6].all()
    assert not changed[6:].any()


@pytest.mark.parametrize("flip", [False, True])
def test_a_local_block_looks_back_in_its_own_order(flip: bool) -> None:
    block = LocalBlock(TransformerConfig(8, 1, 2), tokens=5, channels=2, flip=flip)
    randomize(block, 0)
    x = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[0, 2] += 1.0
    mu = (block(changed).mu != block(x).mu).any(-1)[0].tolist()
    assert mu == ([True, True, False, False, False] if flip else [False, False, False, True, True])


def test_token_orders_alternate_up_to_the_global_block() -> None:
    flow = random_flow(local_blocks=3)
    flips = [block.within.flip for block in flow.local_blocks]  # type: ignore[union-attr]
    assert flips == [True, False, True] and flow.global_block.order == [0, 1, 2, 3]


def test_an_action_moves_its_frame_and_later_ones_only() -> None:
    flow = random_flow()
    noisy, condition = clip(flow, 1, 5)
    changed = condition.clone()
    changed[0, 2] += 1.0
    moved = (flow(noisy, changed).noise != flow(noisy, condition).noise).flatten(2).any(-1)[0]
    assert moved.tolist() == [False, False, True, True, True]


def test_local_blocks_see_one_frame_only() -> None:
    flow = random_flow()
    noisy, _ = clip(flow, 1, 2)
    changed = noisy.clone()
    changed[0, 0] += 1.0
    hidden, _ = flow._local(noisy[0])
    other, _ = flow._local(changed[0])
    assert torch.equal(hidden[1], other[1]) and not torch.equal(hidden[0], other[0])


@pytest.mark.parametrize("within", [0, 1])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9, 40])
def test_incremental_equals_full_at_and_beyond_the_window(frames: int, within: int) -> None:
    flow = random_flow(window=3, within=within)
    noisy, condition = clip(flow, 2, frames)
    full = flow(noisy, condition).log_prob
    torch.testing.assert_close(observe_all(flow, noisy, condition)[1], full, atol=1e-9, rtol=0)


def test_incremental_equals_full_after_a_thousand_frames() -> None:
    """Log-likelihoods, and a sample: its noise in the full forward is the noise it was made of."""
    flow = random_flow(tokens=2, window=3)
    noisy, condition = clip(flow, 1, 1001)
    state, incremental = observe_all(flow, noisy[:, :1000], condition[:, :1000])
    z = clip(flow, 1, 1, seed=5)[0][:, 0]
    _, out, sample = flow.step(state, z, condition[:, 1000])
    noisy[:, 1000] = sample.noisy
    full = flow(noisy, condition)
    torch.testing.assert_close(incremental, full.log_prob[:, :1000], atol=1e-9, rtol=0)
    torch.testing.assert_close(full.noise[:, 1000], z, atol=1e-8, rtol=0)
    torch.testing.assert_close(out.log_prob, full.log_prob[:, 1000], atol=1e-8, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_samples_are_those_of_the_full_forward(steps: int) -> None:
    """A dream of W - 2 to 3 W frames, forward in one go: every frame gives back its own noise."""
    flow = random_flow(window=3)
    _, condition = clip(flow, 2, steps)
    noise = clip(flow, 2, steps, seed=7)[0]
    state, frames = flow.empty_state(2), []
    for t in range(steps):
        state, _, sample = flow.step(state, noise[:, t], condition[:, t])
        frames.append(sample.noisy)
    full = flow(torch.stack(frames, 1), condition).noise
    torch.testing.assert_close(full, noise, atol=1e-7, rtol=0)


def test_time_shift_changes_no_likelihood() -> None:
    """Positions are relative: the same frames after a cache of another age score the same."""
    flow = random_flow(window=2)
    noisy, condition = clip(flow, 1, 12)
    long = observe_all(flow, noisy, condition)[1]
    # the receptive field is 2 layers * (W - 1) frames, plus the previous frame at the input
    short = observe_all(flow, noisy[:, 5:], condition[:, 5:])[1]
    # the table of rotations is of float32 precision, hence not 1e-9
    torch.testing.assert_close(long[:, 9:], short[:, 4:], atol=1e-5, rtol=0)


def test_a_row_can_be_reset_while_the_others_keep_every_bit() -> None:
    flow = random_flow()
    noisy, condition = clip(flow, 3, 10)
    state, _ = observe_all(flow, noisy[:, :5], condition[:, :5])
    rows = torch.tensor([False, True, False])
    mixed = FlowState.where(rows, flow.empty_state(3), state)
    fresh = flow.empty_state(3)
    for t in range(5, 10):
        mixed, got = flow.observe(mixed, noisy[:, t], condition[:, t])
        state, kept = flow.observe(state, noisy[:, t], condition[:, t])
        fresh, restarted = flow.observe(fresh, noisy[:, t], condition[:, t])
        assert torch.equal(got.log_prob[[0, 2]], kept.log_prob[[0, 2]])
        assert torch.equal(got.log_prob[1], restarted.log_prob[1])


def test_reordered_and_repeated_rows_go_on_as_they_would_have() -> None:
    flow = random_flow()
    noisy, condition = clip(flow, 3, 8)
    state, _ = observe_all(flow, noisy[:, :5], condition[:, :5])
    # rows of different age, so that their rings are at different slots
    rows = torch.tensor([False, True, False])
    state = FlowState.where(rows, flow.empty_state(3), state)
    index = torch.tensor([2, 0, 1, 1])
    branched = state.rows(index)
    for t in range(5, 8):
        state, expected = flow.observe(state, noisy[:, t], condition[:, t])
        branched, got = flow.observe(branched, noisy[index, t], condition[index, t])
        torch.testing.assert_close(got.log_prob, expected.log_prob[index], atol=1e-12, rtol=0)


def test_neither_observing_nor_stepping_changes_the_old_state() -> None:
    flow = random_flow()
    noisy, condition = clip(flow, 1, 4)
    state, _ = observe_all(flow, noisy[:, :3], condition[:, :3])
    first = flow.observe(state, noisy[:, 3], condition[:, 3])[1].log_prob
    flow.step(state, noisy[:, 0], condition[:, 0])
    assert torch.equal(flow.observe(state, noisy[:, 3], condition[:, 3])[1].log_prob, first)


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 5),
    channels=st.integers(1, 3),
    window=st.integers(1, 4),
    local_blocks=st.integers(0, 3),
    layers=st.tuples(st.integers(1, 2), st.integers(0, 2)),
    past=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_sampling_inverts_the_flow_and_jacobi_equals_sequential(
    tokens: int,
    channels: int,
    window: int,
    local_blocks: int,
    layers: tuple[int, int],
    past: int,
    seed: int,
) -> None:
    flow = random_flow(tokens, channels, window, local_blocks, seed, *layers)
    noisy, condition = clip(flow, 2, past + 1, seed)
    state, _ = observe_all(flow, noisy[:, :past], condition[:, :past])
    z = clip(flow, 2, 1, seed + 1)[0][:, 0]
    _, out, drawn = flow.step(state, z, condition[:, past])
    torch.testing.assert_close(out.noise, z, atol=1e-7, rtol=0)
    assert drawn.passes.shape == (2, local_blocks + 1) and drawn.passes.max() <= tokens
    assert not drawn.fallbacks.any()
    clip_with_it = torch.cat((noisy[:, :past], drawn.noisy[:, None]), dim=1)
    full = flow(clip_with_it, condition).log_prob[:, -1]
    torch.testing.assert_close(out.log_prob, full, atol=1e-7, rtol=0)
    _, _, reference = flow.step(state, z, condition[:, past], SamplerConfig("sequential"))
    torch.testing.assert_close(drawn.noisy, reference.noisy, atol=1e-7, rtol=0)
    expected = [tokens if layers[1] else 1] + [tokens] * local_blocks
    assert (reference.passes == torch.tensor(expected)).all()


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 0.001])
def test_jacobi_is_as_near_to_sequential_as_its_tolerance_says(tolerance: float) -> None:
    """One block's inversion in each of 64 rows; random weights contract less than trained ones."""
    flow = random_flow(tokens=8, local_blocks=0, seed=3, scale=0.1)
    noisy, condition = clip(flow, 64, 2)
    state, _ = observe_all(flow, noisy[:, :1], condition[:, :1])
    drawn = [
        flow.step(state, noisy[:, 1], condition[:, 1], config)[2]
        for config in (SamplerConfig("jacobi", tolerance), SamplerConfig("sequential"))
    ]
    error = (drawn[0].noisy - drawn[1].noisy).square().mean(dim=2).sqrt()
    assert 0.0 < error.max() <= 2.0 * tolerance and error.amax(1).median() < 0.5 * tolerance
    assert drawn[0].passes.float().mean() < 8


def test_a_damaged_row_falls_back_and_harms_no_other() -> None:
    flow = random_flow()
    noisy, condition = clip(flow, 2, 2)
    state, _ = observe_all(flow, noisy[:, :1], condition[:, :1])
    _, _, expected = flow.step(state, noisy[:, 1], condition[:, 1])
    wild = state.affines[-1]._replace(mu=state.affines[-1].mu.clone())
    wild.mu[1] = math.nan  # where the iteration starts
    broken = FlowState(state.cache, state.hidden, (*state.affines[:-1], wild))
    _, out, drawn = flow.step(broken, noisy[:, 1], condition[:, 1])
    assert drawn.fallbacks.tolist() == [0, 1]
    assert torch.equal(drawn.noisy[0], expected.noisy[0])
    torch.testing.assert_close(drawn.noisy[1], expected.noisy[1], atol=1e-8, rtol=0)
    assert out.log_prob.isfinite().all()
