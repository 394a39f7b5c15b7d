"""From log-likelihoods to scores that an agent can read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from worldflow.errors import WorldFormatError

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Calibration:
    """How log-likelihoods of held-out real frames are distributed, given their past.

    Attributes:
        mean: of the log-likelihood of a frame, nats.
        std: of the same.
        quantiles: of the same, at `QUANTILES`; for readers of the file.
        frames: number of held-out frames measured.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...]
    frames: int

    @classmethod
    def fit(cls, log_prob: Tensor) -> Calibration:
        """From log-likelihoods of held-out frames, any shape."""
        values = log_prob.flatten().double()
        levels = torch.tensor(QUANTILES, dtype=torch.float64)
        return cls(
            mean=float(values.mean()),
            std=float(values.std()),
            quantiles=tuple(torch.quantile(values, levels).tolist()),
            frames=len(values),
        )

    def novelty(self, log_prob: Tensor) -> Tensor:
        """|log p - mean| / std: 0 is typical, the unit is one standard deviation of held-out data.

        Two-sided, since a flow can give a strange but simple image a higher likelihood than any
        real one (typicality, Nalisnick et al. 2019).
        """
        return (log_prob - self.mean).abs() / self.std

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Calibration:
        """What `to_dict` wrote; `where` names the file in errors."""
        try:
            result = cls(
                mean=float(values["mean"]),
                std=float(values["std"]),
                quantiles=tuple(float(q) for q in values["quantiles"]),
                frames=int(values["frames"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WorldFormatError(
                f"{where}: calibration field is missing or not a number ({error}); "
                "pretrain the world again or restore the file"
            ) from error
        if not (math.isfinite(result.mean) and math.isfinite(result.std) and result.std > 0):
            raise WorldFormatError(f"{where}: `mean` and `std` must be finite and std > 0")
        return result


UNCALIBRATED = Calibration(math.nan, math.nan, (math.nan,) * len(QUANTILES), 0)


def bits_per_dim(log_prob: Tensor, dimensions: int) -> Tensor:
    """-log2 p of a frame's noisy latents, divided by their number."""
    return -log_prob / (dimensions * math.log(2.0))


def noise_floor(sigma: float) -> float:
    """The least NLL a latent can have, in nats: the entropy of its noise."""
    return 0.5 * math.log(2.0 * math.pi * math.e * sigma**2)


def prediction_entropy(log_scale: Tensor, dimensions: int) -> Tensor:
    """Estimate of the predicted frame's entropy in nats: the standard normal's, plus log scales.

    The scales are those along one frame, a sample of the prediction in a dream.
    """
    return log_scale + 0.5 * dimensions * (1.0 + math.log(2.0 * math.pi))
