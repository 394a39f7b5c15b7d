"""Codec, conditioning, denoiser, heads, scores and randomness: known answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from worldflow.actions import ActionSpec
from worldflow.codec import Codec, CodecConfig, reconstruction_loss, saliency
from worldflow.conditioning import Conditioning
from worldflow.data.frames import to_float, to_uint8
from worldflow.denoiser import Denoiser, DenoiserConfig, tweedie
from worldflow.errors import ConfigError, DataError
from worldflow.flow.affine import LOG_SCALE_BOUND, AffineHead
from worldflow.flow.block import GlobalConfig
from worldflow.flow.flow import FlowConfig
from worldflow.flow.transformer import TransformerConfig
from worldflow.heads.reward import RewardHead, symexp, symlog
from worldflow.heads.termination import TerminationHead
from worldflow.randomness import normal, uniform
from worldflow.testing import randomize


def test_frames_survive_the_way_to_float_and_back() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    floats = to_float(frames)
    assert floats.shape == (1, 3, 16, 16) and floats.min() == -1.0 and floats.max() == 1.0
    assert torch.equal(to_uint8(floats), frames)
    assert to_uint8(torch.full((3, 1, 1), 9.0)).max() == 255
    with pytest.raises(TypeError, match="uint8"):
        to_float(floats)


def test_codec_latents_have_unit_scale_and_the_stated_shape() -> None:
    codec = Codec(CodecConfig(channels=5, widths=[8, 8, 8, 8]), (64, 32)).train()
    pixels = torch.rand(16, 3, 64, 32) * 2 - 1
    latents = codec.encode(pixels)
    assert latents.shape == (16, 4 * 2, 5)
    assert codec.decode(latents).shape == pixels.shape
    flat = latents.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(0, unbiased=False), torch.ones(5), atol=5e-2, rtol=0)


def test_codec_refuses_frames_that_do_not_divide() -> None:
    with pytest.raises(ConfigError, match="stride 16"):
        Codec(CodecConfig(), (60, 64))


def test_saliency_marks_what_differs() -> None:
    background = torch.zeros(1, 3, 2, 2)
    pixels, previous = background.clone(), background.clone()
    pixels[0, 1, 0, 0] = 0.5  # differs from both
    pixels[0, :, 1, 1] = previous[0, :, 1, 1] = -2.0  # from the background only, beyond the limit
    previous[0, 0, 0, 1] = 0.25  # something left this place
    assert saliency(pixels, previous, background)[0, 0].tolist() == [[0.5, 0.25], [0.0, 1.0]]


def test_reconstruction_loss_is_a_weighted_mean() -> None:
    pixels = torch.zeros(1, 3, 1, 2)
    decoded = torch.tensor([1.0, 0.0]).expand(1, 3, 1, 2)
    weight = torch.tensor([3.0, 1.0]).reshape(1, 1, 1, 2)
    # errors |1| and 0: 0.5 * 1 + 1 = 1.5, at weight 3 of 4
    assert reconstruction_loss(decoded, pixels, weight).item() == pytest.approx(1.5 * 3 / 4)


def test_first_frame_has_no_action() -> None:
    conditioning = Conditioning(ActionSpec("discrete", n=4), 6)
    one, two = torch.tensor([[0, 1, 2]]), torch.tensor([[3, 1, 2]])
    assert torch.equal(conditioning(one), conditioning(two))
    assert not torch.equal(conditioning(one), conditioning(one.flip(1)))


def test_boxes_are_scaled_to_one() -> None:
    narrow = Conditioning(ActionSpec("box", low=(-1.0,), high=(1.0,)), 6)
    wide = Conditioning(ActionSpec("box", low=(0.0,), high=(100.0,)), 6)
    wide.load_state_dict(narrow.state_dict())
    torch.testing.assert_close(
        narrow.embed(torch.tensor([[-1.0], [0.0], [1.0]])),
        wide.embed(torch.tensor([[0.0], [50.0], [100.0]])),
    )


@pytest.mark.parametrize("window", [1, 3])
def test_denoiser_steps_as_it_runs(window: int) -> None:
    config = DenoiserConfig(window=window, transformer=TransformerConfig(8, 2, 2))
    denoiser = Denoiser(config, 3, 2, 4).double().eval()
    randomize(denoiser, 0)
    noisy, condition = torch.randn(2, 9, 3, 2).double(), torch.randn(2, 9, 4).double()
    full, features = denoiser(noisy, condition)
    cache = denoiser.empty_cache(2)
    for t in range(9):
        prediction, feature, cache = denoiser.step(noisy[:, t], condition[:, t], cache)
        torch.testing.assert_close(prediction, full[:, t], atol=1e-9, rtol=0)
        torch.testing.assert_close(feature, features[:, t], atol=1e-9, rtol=0)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_denoiser_looks_ahead_as_far_as_it_says(lookahead: int) -> None:
    config = DenoiserConfig(window=3, lookahead=lookahead, transformer=TransformerConfig(8, 2, 2))
    denoiser = Denoiser(config, 3, 2, 4).eval()
    randomize(denoiser, 0)
    noisy, condition = torch.randn(1, 6, 3, 2), torch.randn(1, 6, 4)
    changed = noisy.clone()
    changed[:, 4] += 1.0
    moved = (denoiser(noisy, condition)[0] != denoiser(changed, condition)[0]).flatten(2).any(-1)[0]
    first = 4 - lookahead
    assert moved.tolist() == [t >= first for t in range(6)]
    if lookahead:
        with pytest.raises(ConfigError, match="cannot step"):
            denoiser.step(noisy[:, 0], condition[:, 0], denoiser.empty_cache(1))


def test_denoiser_lookahead_is_checked() -> None:
    with pytest.raises(ConfigError, match="lookahead"):
        DenoiserConfig(lookahead=2)


def test_tweedie_gives_the_posterior_mean_of_a_gaussian() -> None:
    """y ~ N(0, s^2), y~ = y + sigma e: -log p has gradient y~ / (s^2 + sigma^2)."""
    s, sigma = 2.0, 0.5
    noisy = torch.tensor([-1.0, 0.3, 4.0])
    score = sigma * noisy / (s**2 + sigma**2)
    expected = noisy * s**2 / (s**2 + sigma**2)
    torch.testing.assert_close(tweedie(noisy, score, sigma), expected)


def test_reward_head_recovers_the_reward_it_is_certain_of() -> None:
    head = RewardHead(2, 3, 4, low=-1.0, high=4.0)
    bins = symexp(head.bins)
    assert bins[0] == pytest.approx(-1.0) and bins[-1] == pytest.approx(4.0, rel=1e-5)
    rewards = torch.tensor([-1.0, 4.0, float(bins[7])])
    nearest = (head.bins[None] - symlog(rewards)[:, None]).abs().argmin(1)
    logits = torch.full((3, len(bins)), -50.0)
    logits[torch.arange(3), nearest] = 50.0
    torch.testing.assert_close(head.mean(logits), rewards)
    assert head.loss(logits, rewards).max() < 1e-4
    # two-hot: the loss between two bins is least at the weights of its neighbours
    between = symexp(0.25 * head.bins[3] + 0.75 * head.bins[4])[None]
    logits = torch.full((1, len(bins)), -50.0)
    logits[0, 3], logits[0, 4] = math.log(0.25), math.log(0.75)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert head.loss(logits, between).item() == pytest.approx(entropy, abs=1e-4)


def test_a_constant_reward_is_learnable() -> None:
    head = RewardHead(2, 3, 4, low=4.0, high=4.0)
    logits = torch.zeros(1, len(head.bins), requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(head.loss(logits, torch.tensor([4.0])).sum(), logits)
        logits = (logits - 5.0 * gradient).detach().requires_grad_()
    assert head.mean(logits).item() == pytest.approx(4.0, abs=0.05)


def test_the_affine_map_keeps_its_precision_under_autocast() -> None:
    head = AffineHead(8, 2)
    randomize(head, 0)
    features = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        half = head(features)
    full = head(features)
    assert half.mu.dtype == half.log_scale.dtype == torch.float32
    assert torch.equal(half.mu, full.mu) and torch.equal(half.log_scale, full.log_scale)
    assert head(100 * features).log_scale.abs().max() <= LOG_SCALE_BOUND
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(full.to_data(full.to_noise(x)), x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TransformerConfig(width=48, heads=5),
        lambda: TransformerConfig(depth=-1),
        lambda: GlobalConfig(past=TransformerConfig(depth=0)),
        lambda: FlowConfig(window=0),
        lambda: DenoiserConfig(window=0),
        lambda: CodecConfig(widths=[]),
        lambda: CodecConfig(widths=[30]),
    ],
)
def test_impossible_sizes_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_termination_head() -> None:
    head = TerminationHead(2, (3, 5), 4, "frame")
    frame, past = torch.randn(6, 2, 3), torch.randn(6, 2, 5)
    assert torch.equal(head(frame, past), head(frame, 0 * past)) and head(frame, past).std() > 0
    hazard = TerminationHead(2, (3, 5), 4, "past")
    assert torch.equal(hazard(frame, past), hazard(0 * frame, past))
    assert hazard(frame, past).std() > 0
    logits = torch.tensor([0.0, 20.0])
    torch.testing.assert_close(head.probability(logits), torch.tensor([0.5, 1.0]))
    loss = head.loss(logits, torch.tensor([True, True]))
    assert loss[0].item() == pytest.approx(math.log(2)) and loss[1] < 1e-6


def test_each_row_draws_from_its_own_generator() -> None:
    like = torch.zeros(())
    both = normal([torch.Generator().manual_seed(s) for s in (1, 2)], 2, (3,), like)
    alone = normal([None, torch.Generator().manual_seed(2)], 2, (3,), like)
    assert torch.equal(both[1], alone[1]) and not alone[0].any()
    assert uniform(torch.Generator().manual_seed(1), 4, like).shape == (4,)
    with pytest.raises(ValueError, match="need 3 generators"):
        normal([None], 3, (1,), like)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "octopus"}, "octopus"),
        ({"kind": "discrete"}, "n >= 1"),
        ({"kind": "box", "low": (0.0,), "high": (1.0, 2.0)}, "same, non-zero length"),
        ({"kind": "box", "low": (0.0,), "high": (0.0,)}, "low < high"),
        ({"kind": "box", "low": (-math.inf,), "high": (0.0,)}, "finite"),
    ],
)
def test_bad_action_specs_are_named(fields: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ActionSpec(**fields)


def test_actions_are_validated() -> None:
    discrete = ActionSpec("discrete", n=3)
    assert discrete.validate(np.array([0, 2], np.int8)).dtype == np.int64
    box = ActionSpec("box", low=(0.0, 0.0), high=(1.0, 1.0))
    assert box.validate(np.array([[0, 1]])).dtype == np.float32
    for spec, bad in (
        (discrete, [3]),
        (discrete, [0.5]),
        (box, [[0.0]]),
        (box, [[0.0, np.nan]]),
        (box, [[0, 2]]),
    ):
        with pytest.raises(DataError):
            spec.validate(np.array(bad))
    assert ActionSpec.from_dict(box.to_dict()) == box
    with pytest.raises(DataError, match="needs `kind`"):
        ActionSpec.from_dict({"n": 3})
