"""The likelihood of bytes: it is one, it is that of a rounded logistic, and its scale is found."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worldflow.pixels import RATE, START, PixelLikelihood

LEVELS = torch.arange(256, dtype=torch.uint8)
SCALES = (0.05, 3.0, 400.0)  # of the three channels, in grey levels


def likelihood(scales: tuple[float, ...] = SCALES) -> PixelLikelihood:
    model = PixelLikelihood().double()
    with torch.no_grad():
        model.log_scale.copy_(torch.tensor(scales, dtype=torch.float64).log() / RATE)
    return model


def of_all_levels(centre: float, channel: int) -> Tensor:
    """log p of each level of one channel, (256,): that of whole pixels less that of the others."""
    decoded = torch.full((256, 3, 1, 1), centre / 127.5 - 1.0, dtype=torch.float64)
    frames = torch.full((256, 1, 1, 3), 255, dtype=torch.uint8)
    frames[:, 0, 0, channel] = LEVELS
    alone = [likelihood((scale,) * 3)(decoded[:1], frames[255:]) / 3.0 for scale in SCALES]
    return likelihood()(decoded, frames) - sum(alone[:channel] + alone[channel + 1 :])


@pytest.mark.parametrize("centre", [-60.0, 0.0, 0.4, 127.5, 200.1, 255.0, 300.0])
@pytest.mark.parametrize("channel", range(3))
def test_the_levels_sum_to_one(centre: float, channel: int) -> None:
    total = of_all_levels(centre, channel).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)


@pytest.mark.parametrize("centre", [0.4, 127.5, 250.3])
@pytest.mark.parametrize("channel", [1, 2])
def test_a_level_has_its_share_of_the_integral_of_the_density(centre: float, channel: int) -> None:
    scale = SCALES[channel]

    def integral(low: float, high: float) -> Tensor:
        points = torch.linspace(low, high, 200_001, dtype=torch.float64)
        half = (points - centre) / (2.0 * scale)
        return torch.trapezoid(1.0 / (4.0 * scale * half.cosh().square()), points)

    whole = integral(-0.5, 255.5)
    for level in (0, 1, 100, 254, 255):
        expected = (integral(level - 0.5, level + 0.5) / whole).log()
        found = of_all_levels(centre, channel)[level]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_far_out_it_is_finite_and_so_is_its_gradient() -> None:
    model = PixelLikelihood().requires_grad_(True)
    with torch.no_grad():
        model.log_scale.fill_(math.log(0.02) / RATE)
    decoded = torch.full((2, 3, 1, 2), 9.0, requires_grad=True)
    frames = torch.tensor([0, 77], dtype=torch.uint8).repeat(2, 1, 1)[..., None].expand(2, 1, 2, 3)
    value = model(decoded, frames).sum()
    value.backward()
    assert value < -1e5 and value.isfinite()
    assert decoded.grad is not None and decoded.grad.isfinite().all() and (decoded.grad <= 0).all()
    assert model.log_scale.grad is not None and (model.log_scale.grad > 0).all()


def test_half_precision_is_left_before_anything_is_lost() -> None:
    decoded = torch.linspace(-1.0, 1.0, 12).reshape(1, 3, 2, 2).bfloat16()
    frames = torch.arange(0, 240, 20, dtype=torch.uint8).reshape(1, 2, 2, 3)
    model = PixelLikelihood()
    assert torch.equal(model(decoded, frames), model(decoded.float(), frames))


def test_the_scale_of_a_rounded_logistic_is_found() -> None:
    generator, scales = torch.Generator().manual_seed(0), torch.tensor([0.8, 4.0, 30.0])
    centre = 255.0 * torch.rand(4, 3, 100, 100, generator=generator)
    uniform = torch.rand(centre.shape, generator=generator, dtype=torch.float64)
    low, high = (((border - centre) / scales[:, None, None]).sigmoid() for border in (-0.5, 255.5))
    drawn = centre + scales[:, None, None] * (low + (high - low) * uniform).logit()
    frames = drawn.round().clamp(0, 255).to(torch.uint8).movedim(1, -1)
    model, decoded = PixelLikelihood(), centre / 127.5 - 1.0
    torch.testing.assert_close(model.scale, torch.full((3,), START))
    model.fit(decoded, frames)
    torch.testing.assert_close(model.scale, scales, rtol=0.02, atol=0)
    best = model(decoded, frames).sum()
    for change in (-0.02, 0.02):
        other = PixelLikelihood()
        other.log_scale.data = model.log_scale + change / RATE
        assert other(decoded, frames).sum() < best


def test_black_and_white_have_no_use_for_a_large_scale() -> None:
    """Decoded within a third of a level, they cost less than the bit of a coin."""
    white = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    error = torch.linspace(0.0, 0.3, 64 * 64).reshape(1, 1, 64, 64)
    centre = torch.where(white, 255.0 - error, error).expand(1, 3, 64, 64)
    frames = torch.where(white, 255, 0).to(torch.uint8).movedim(1, -1).expand(1, 64, 64, 3)
    model, decoded = PixelLikelihood(), centre / 127.5 - 1.0
    model.fit(decoded, frames)
    assert (model.scale < 1.0).all()
    assert float(-model(decoded, frames)) / math.log(2.0) / frames.numel() < 1.0


def test_a_scale_that_is_not_there_is_noticed() -> None:
    model = PixelLikelihood()
    assert model.fitted
    model.log_scale.data[1] = math.nan
    assert not model.fitted
    frames = torch.full((1, 2, 2, 3), 9, dtype=torch.uint8)
    model.fit(torch.full((1, 3, 2, 2), 9 / 127.5 - 1.0), frames)  # decoded without any error
    assert model.fitted and (model.scale < 0.03).all()
