"""Diffusion as Karras et al. (2022, "EDM") write it: preconditioning, noise levels and sampler.

A denoiser D(x, sigma) estimates the clean image y from x = y + sigma * noise. It is made of a
network F by

    D(x, sigma) = c_skip(sigma) * x + c_out(sigma) * F(c_in(sigma) * x, c_noise(sigma))

so that, for data of standard deviation `sigma_data`, what F reads and what F shall answer both have
unit variance at every noise level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worldflow.errors import ConfigError


@dataclass
class EdmConfig:
    """Noise levels; defaults are those of DIAMOND (Alonso et al., 2024).

    Attributes:
        sigma_data: standard deviation that the data (pixels in [-1, 1]) are taken to have.
        noise_mean: of the logarithm of sigma in training, which is normal.
        noise_std: standard deviation of that logarithm.
        steps: Euler steps of the sampler.
        sigma_min: the last noise level before 0.
        sigma_max: the first noise level.
        rho: how much the levels crowd at the low end.
    """

    sigma_data: float = 0.5
    noise_mean: float = -0.4
    noise_std: float = 1.2
    steps: int = 3
    sigma_min: float = 0.002
    sigma_max: float = 5.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        positive = (self.sigma_data, self.noise_std, self.sigma_min, self.rho)
        if min(positive) <= 0 or self.sigma_max <= self.sigma_min or self.steps < 1:
            raise ConfigError(
                f"edm: sigma_data={self.sigma_data}, noise_std={self.noise_std}, rho={self.rho}, "
                f"steps={self.steps} and 0 < sigma_min={self.sigma_min} < sigma_max="
                f"{self.sigma_max} must be positive"
            )


class Preconditioning(NamedTuple):
    """The four factors at some noise levels, each of the shape of sigma."""

    skip: Tensor
    out: Tensor
    inner: Tensor
    noise: Tensor

    @classmethod
    def of(cls, sigma: Tensor, sigma_data: float) -> Preconditioning:
        """At the noise levels sigma (...) > 0 (EDM, table 1)."""
        total = sigma.square() + sigma_data**2
        return cls(
            skip=sigma_data**2 / total,
            out=sigma * sigma_data / total.sqrt(),
            inner=total.rsqrt(),
            noise=sigma.log() / 4.0,
        )


def levels(config: EdmConfig) -> Tensor:
    """The sampler's noise levels, falling from sigma_max to sigma_min and 0: (steps + 1,) float64.

    A single step goes from sigma_max to 0.
    """
    low, high = (sigma ** (1.0 / config.rho) for sigma in (config.sigma_min, config.sigma_max))
    ramp = torch.linspace(0.0, 1.0, config.steps, dtype=torch.float64)
    sigmas = (high + ramp * (low - high)) ** config.rho
    return torch.cat((sigmas, sigmas.new_zeros(1)))


def euler(denoise: Callable[[Tensor, float], Tensor], start: Tensor, sigmas: Tensor) -> Tensor:
    """Solve dx / dsigma = (x - D(x, sigma)) / sigma by Euler steps through falling noise levels.

    Args:
        denoise: D, from x and sigma to an estimate of the clean image.
        start: x at the first level.
        sigmas: (steps + 1,), the last one 0: the last step ends at an estimate of D itself.
    """
    x = start
    for sigma, following in zip(sigmas.tolist()[:-1], sigmas.tolist()[1:], strict=True):
        x = x + (following - sigma) / sigma * (x - denoise(x, sigma))
    return x
