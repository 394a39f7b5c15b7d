"""uint8 outside, float in [-1, 1] inside: the one place where frames change their type."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(frames: Tensor) -> Tensor:
    """uint8 (..., H, W, 3) in 0..255 to float32 (..., 3, H, W) in [-1, 1]."""
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8, got {frames.dtype}")
    return frames.movedim(-1, -3).float() / 127.5 - 1.0


def to_uint8(frames: Tensor) -> Tensor:
    """float (..., 3, H, W) in [-1, 1] (clipped) to uint8 (..., H, W, 3) in 0..255."""
    levels = ((frames.float() + 1.0) * 127.5).round().clamp(0.0, 255.0)
    return levels.to(torch.uint8).movedim(-3, -1).contiguous()
