"""The flow's laws: exact likelihood, causality, invertibility, incremental = full."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldflow.flow.affine import standard_normal_log_prob
from worldflow.flow.flow import Flow, FlowConfig, FlowState
from worldflow.flow.sampler import SamplerConfig
from worldflow.flow.transformer import TransformerConfig
from worldflow.testing import randomize

CONDITION = 5


def random_flow(
    tokens: int = 4, channels: int = 2, window: int = 3, local_blocks: int = 2, seed: int = 0
) -> Flow:
    """A float64 flow of random weights, tight sampler tolerance."""
    torch.manual_seed(seed)
    config = FlowConfig(
        window=window,
        local_blocks=local_blocks,
        local=TransformerConfig(8, 1, 2),
        global_block=TransformerConfig(16, 2, 2),
        sampler=SamplerConfig("jacobi", 1e-10),
    )
    flow = Flow(config, tokens, channels, CONDITION)
    randomize(flow, seed)
    return flow.double().eval().requires_grad_(False)


def clip(flow: Flow, batch: int, frames: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random noisy latents and conditions."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames, flow.tokens, flow.channels)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(batch, frames, CONDITION, generator=generator, dtype=torch.float64),
    )


def observe_all(flow: Flow, noisy: Tensor, condition: Tensor) -> tuple[FlowState, Tensor]:
    """Log-likelihoods (B, T) frame by frame."""
    state, columns = flow.empty_state(len(noisy)), []
    for t in range(noisy.shape[1]):
        state, out = flow.observe(state, noisy[:, t], condition[:, t])
        columns.append(out.log_prob)
    return state, torch.stack(columns, 1) if columns else noisy.new_zeros(len(noisy), 0)


def test_log_likelihood_equals_autograd_jacobian_in_every_frame() -> None:
    flow = random_flow()
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
        FlowConfig(local=TransformerConfig(8, 1, 2), global_block=TransformerConfig(8, 1, 2)),
        tokens=3,
        channels=2,
        condition=CONDITION,
    )
    noisy, condition = (x.float() for x in clip(flow, 2, 2))
    expected = -0.5 * noisy.square().sum((2, 3)) - 3.0 * math.log(2 * math.pi)
    torch.testing.assert_close(flow(noisy, condition).log_prob, expected)


@pytest.mark.parametrize("frame", [0, 2])
@pytest.mark.parametrize("token", [0, 3])
def test_a_change_moves_only_what_it_may(frame: int, token: int) -> None:
    flow = random_flow(window=2)
    noisy, condition = clip(flow, 1, 6)
    changed = noisy.clone()
    changed[0, frame, token] += 0.5
    moved = (flow(changed, condition).noise - flow(noisy, condition).noise).abs().sum(-1)[0] > 1e-12
    assert not moved[:frame].any()
    assert moved[frame].any() and moved[frame + 1].all()


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


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9, 40])
def test_incremental_equals_full_at_and_beyond_the_window(frames: int) -> None:
    flow = random_flow(window=3)
    noisy, condition = clip(flow, 2, frames)
    full = flow(noisy, condition).log_prob
    torch.testing.assert_close(observe_all(flow, noisy, condition)[1], full, atol=1e-9, rtol=0)


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


def test_observe_leaves_the_old_state_as_it_was() -> None:
    flow = random_flow()
    noisy, condition = clip(flow, 1, 4)
    state, _ = observe_all(flow, noisy[:, :3], condition[:, :3])
    first = flow.observe(state, noisy[:, 3], condition[:, 3])[1].log_prob
    flow.sample(state, noisy[:, 0], condition[:, 0])
    assert torch.equal(flow.observe(state, noisy[:, 3], condition[:, 3])[1].log_prob, first)


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.integers(1, 5),
    channels=st.integers(1, 3),
    window=st.integers(1, 4),
    local_blocks=st.integers(0, 3),
    past=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_sampling_inverts_the_flow_and_jacobi_equals_sequential(
    tokens: int, channels: int, window: int, local_blocks: int, past: int, seed: int
) -> None:
    flow = random_flow(tokens, channels, window, local_blocks, seed)
    noisy, condition = clip(flow, 2, past + 1, seed)
    state, _ = observe_all(flow, noisy[:, :past], condition[:, :past])
    z = clip(flow, 2, 1, seed + 1)[0][:, 0]
    drawn, passes = flow.sample(state, z, condition[:, past])
    _, out = flow.observe(state, drawn, condition[:, past])
    torch.testing.assert_close(out.noise, z, atol=1e-7, rtol=0)
    assert passes.shape == (2, local_blocks + 1) and passes.max() <= tokens
    clip_with_it = torch.cat((noisy[:, :past], drawn[:, None]), dim=1)
    full = flow(clip_with_it, condition).log_prob[:, -1]
    torch.testing.assert_close(out.log_prob, full, atol=1e-7, rtol=0)
    reference, count = flow.sample(state, z, condition[:, past], SamplerConfig("sequential"))
    torch.testing.assert_close(drawn, reference, atol=1e-7, rtol=0)
    assert (count == tokens).all()
