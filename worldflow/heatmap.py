"""Where in the frame a world finds something strange or unsure: maps, and maps over frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldflow.world_model import WorldModel
from worldflow.world_state import Prediction, Scores

STRONGEST = 0.75  # how much of the colour the strangest token has
LOW, HIGH = 1.0, 6.0  # standard deviations of novelty, between which the colour grows


def novelty_map(world: WorldModel, scores: Scores) -> Tensor:
    """Novelty of each token, calibrated like that of frames: (..., h, w).

    Args:
        world: what gave the scores.
        scores: of frames (...); a `Prediction` is that of dreamed ones.

    Raises:
        WorldFormatError: the world was calibrated before novelty had tokens.
    """
    kind = "dreamed" if isinstance(scores, Prediction) else "seen"
    novelty = world.calibration.require(kind).tokens.novelty(scores.token_statistics)
    return novelty.unflatten(-1, world.codec.grid)


def uncertainty_map(world: WorldModel, scores: Scores) -> Tensor:
    """The predicted entropy of each token in nats, (..., h, w); its sum is `uncertainty`."""
    return scores.token_uncertainty.unflatten(-1, world.codec.grid)


def overlay(frames: Tensor, values: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    """Frames with a map over them in red, uint8 (..., H, W, 3).

    pixel = (1 - a) * pixel + a * (255, 0, 0), with a = 0.75 * clip((value - low) / (high - low))

    Args:
        frames: (..., H, W, 3) uint8.
        values: (..., h, w), enlarged to the frame without smoothing.
        low: value up to which the frame is shown as it is.
        high: value from which the colour is strongest.

    Raises:
        ValueError: the limits do not rise.
    """
    if not low < high:
        raise ValueError(f"low={low} must be less than high={high}")
    share = ((values.float() - low) / (high - low)).clamp(0.0, 1.0).nan_to_num(0.0)
    flat = share.reshape(-1, 1, *share.shape[-2:])
    alpha = STRONGEST * F.interpolate(flat, size=frames.shape[-3:-1], mode="nearest")
    alpha = alpha.reshape(*frames.shape[:-1], 1)
    colour = torch.tensor([255.0, 0.0, 0.0], device=frames.device)
    return torch.lerp(frames.float(), colour.expand(frames.shape), alpha).round().to(torch.uint8)
