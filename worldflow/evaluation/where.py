"""Where in real frames a world finds something strange or unsure, laid over the frames in red."""

from __future__ import annotations

import numpy as np
import torch

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.simulate import scores
from worldflow.heatmap import novelty_map, overlay, uncertainty_map
from worldflow.world_model import WorldModel

SHARES = 0.5, 0.99  # of the tokens, between whose uncertainties the red grows


def where(world: WorldModel, clips: RealClips, seed: int) -> dict[str, np.ndarray]:
    """The frames of a few clips with a map over them, each (B, T, H, W, 3) uint8.

    "strange": see `strange`. "unsure": the entropy of the prediction of tokens, red from the clips'
    median to their 99th percentile.

    Args:
        world: in eval mode.
        clips: of which.
        seed: of the noise on the latents.

    Raises:
        WorldFormatError: the world was calibrated before novelty had tokens.
    """
    found = scores(world, clips, clips.actions, len(clips.frames), seed)
    frames, unsure = torch.from_numpy(clips.frames), uncertainty_map(world, found)
    low, high = np.quantile(unsure[torch.from_numpy(clips.valid)].numpy(), SHARES)
    return {
        "strange": overlay(frames, novelty_map(world, found)).numpy(),
        "unsure": overlay(frames, unsure, float(low), float(high)).numpy(),
    }


def strange(world: WorldModel, clips: RealClips, seed: int) -> np.ndarray:
    """The frames with the novelty of tokens over them, (B, T, H, W, 3) uint8.

    It is red from 1 to 6 standard deviations. Arguments and errors are those of `where`.
    """
    found = scores(world, clips, clips.actions, len(clips.frames), seed)
    return overlay(torch.from_numpy(clips.frames), novelty_map(world, found)).numpy()
