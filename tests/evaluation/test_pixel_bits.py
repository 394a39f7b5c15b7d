"""The bound on the likelihood of pixels, where the truth is an integral over one latent."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldflow.codec import CodecConfig
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.pixel_figures import pixel_figures
from worldflow.evaluation.simulate import clip_noise
from worldflow.pixel_bits import fit_pixel_scale, pixel_bits
from worldflow.storage import load_world, save_world
from worldflow.testing import randomize, tiny_config, tiny_world
from worldflow.world_model import WorldModel

SIZE = 16  # one token of one channel: y is a number


def world_of_one_latent(sigma: float) -> WorldModel:
    config = replace(tiny_config(1), sigma=sigma, codec=CodecConfig(1, [8] * 4))
    world = WorldModel(config, tiny_world(frame_size=SIZE, config=config).spec)
    return world.eval().requires_grad_(False)


def frames_of(count: int) -> Tensor:
    return torch.randint(
        0, 256, (count, 1, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator()
    )


def flow_log_prob(world: WorldModel, y: Tensor) -> Tensor:
    """log p of the first frame's only latent, (n,)."""
    noisy = y[:, None, None, None]
    return world.flow(noisy, world.conditioning(torch.zeros(len(y), 1, dtype=torch.int64)))[1][:, 0]


def encoded(world: WorldModel, frame: Tensor) -> Tensor:
    """The latent of a frame (1, H, W, 3), as (1,); twice, as no layer takes one number alone."""
    return world.codec.encode_frames(frame.expand(2, *frame.shape[1:]))[0, 0]


def bound(world: WorldModel, frame: Tensor) -> Tensor:
    """The negative of `total`, in nats a frame; the mean over the noise by Gauss-Hermite."""
    nodes, weights = (torch.from_numpy(v).float() for v in np.polynomial.hermite_e.hermegauss(96))
    y = encoded(world, frame) + world.config.sigma * nodes
    frames = frame.expand(len(y), 1, *frame.shape[1:])
    total = pixel_bits(world, frames, y[:, None, None, None], flow_log_prob(world, y)[:, None])
    nats = -total["total"][:, 0] * math.prod(world.frame_shape) * math.log(2.0)
    return (weights.double() / weights.double().sum() * nats.double()).sum()


def truth(world: WorldModel, frame: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x), and how far q is from the posterior: KL(q, p(y~ | x)), both on a fine grid."""
    y = torch.linspace(-12.0, 12.0, 24_000, dtype=torch.float64)
    parts = [
        world.codec.log_prob(frame.expand(len(p), *frame.shape[1:]), p[:, None, None])
        + flow_log_prob(world, p)
        for p in y.float().split(2000)
    ]
    together, step = torch.cat(parts).double(), math.log(24.0 / 23_999)
    log_prob = torch.logsumexp(together, 0) + step
    q = torch.distributions.Normal(encoded(world, frame).double(), world.config.sigma).log_prob(y)
    divergence = (q.exp() * (q - together + log_prob)).sum() * math.exp(step)
    return log_prob, divergence


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_bound_is_off_by_the_divergence_from_the_posterior(sigma: float) -> None:
    world = world_of_one_latent(sigma)
    randomize(world, 0)
    world.codec.likelihood.log_scale.fill_(math.log(20.0) / 10.0)
    for frame in frames_of(2):
        log_prob, divergence = truth(world, frame)
        assert divergence > 0.1
        torch.testing.assert_close(bound(world, frame), log_prob - divergence, atol=0.02, rtol=0)


def test_the_bound_is_tight_where_q_is_the_posterior() -> None:
    """The decoder knows nothing of y, so the posterior is the prior; q has sigma 1 around zero."""
    world = world_of_one_latent(sigma=1.0)  # a new flow is the identity: the prior is N(0, 1)
    for part in (world.codec.encoder[-1], world.codec.decoder[-2]):
        assert isinstance(part, nn.Conv2d) and part.bias is not None
        part.weight.zero_()
        part.bias.zero_()
    [frame] = frames_of(1)
    log_prob, divergence = truth(world, frame)
    twice = frame.expand(2, *frame.shape[1:])
    alone = world.codec.log_prob(twice, torch.zeros(2, 1, 1))[0].double()
    torch.testing.assert_close(log_prob, alone, atol=0.01, rtol=0)
    assert divergence < 0.01
    torch.testing.assert_close(bound(world, frame), alone, atol=0.01, rtol=0)


def clips(world: WorldModel, frames: np.ndarray, lengths: list[int]) -> RealClips:
    valid = np.arange(frames.shape[1]) < np.array(lengths)[:, None]
    return RealClips(frames, np.zeros(valid.shape, np.int64), valid)


def test_figures_are_means_over_clips_of_the_frames_after_the_given() -> None:
    world = tiny_world(frame_size=SIZE)
    rng = np.random.default_rng(0)
    real = clips(world, rng.integers(0, 256, (3, 5, SIZE, SIZE, 3), dtype=np.uint8), [5, 4, 3])
    found = pixel_figures(world, real, batch=2, seed=7)
    expected = []
    for row, length in enumerate((5, 4, 3)):
        frames = torch.from_numpy(real.frames[row : row + 1, :length])
        actions = torch.zeros(1, length, dtype=torch.int64)
        noisy = world.noisy_latents(frames, [clip_noise(7, row)])
        log_prob = world.log_prob(frames, actions, [clip_noise(7, row)])
        bits = pixel_bits(world, frames, noisy, log_prob)
        assert torch.allclose(bits["total"], bits["pixels"] + bits["latents"])
        expected.append(float(bits["total"][:, 2:].mean()))
    assert found["total"]["mean"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert found["total"]["low"] == pytest.approx(min(expected), rel=1e-5)
    assert found["total"]["count"] == 3


def test_a_world_without_a_scale_is_fitted_to_its_contexts() -> None:
    world, other = tiny_world(frame_size=SIZE), tiny_world(frame_size=SIZE)
    world.codec.likelihood.log_scale.fill_(math.nan)
    frames = torch.from_numpy(world.context.frames)
    real = clips(world, np.repeat(frames.numpy(), 2, axis=1)[:, :3], [3] * 5)
    found = pixel_figures(world, real, batch=8, seed=0)
    fit_pixel_scale(other.codec, frames.flatten(0, 1), other.config.sigma, 0)
    assert found == pixel_figures(other, real, batch=8, seed=0)
    assert 8.0 < found["total"]["mean"] < 9.0  # the contexts are noise


def test_a_file_of_a_time_before_the_scale_is_read(tmp_path: Path) -> None:
    save_world(tiny_world(frame_size=SIZE), tmp_path / "world", "card")
    assert load_world(tmp_path / "world").codec.likelihood.fitted
    weights = load_file(tmp_path / "world/world.safetensors")
    del weights["codec.likelihood.log_scale"]
    save_file(weights, tmp_path / "world/world.safetensors")
    assert not load_world(tmp_path / "world").codec.likelihood.fitted
