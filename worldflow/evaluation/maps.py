"""Where in real frames a world finds something strange or was unsure, in red over the frames."""

from __future__ import annotations

import numpy as np
import torch

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.simulate import scores
from worldflow.heatmap import HIGH, LOW, novelty_map, overlay, uncertainty_map
from worldflow.world_model import WorldModel

SHARES = 0.5, 0.99  # of the tokens, between whose uncertainties the red grows
LEGEND = f"red from {LOW:g} to {HIGH:g} standard deviations of a token's novelty"


def maps_over(world: WorldModel, clips: RealClips, batch: int, seed: int) -> dict[str, np.ndarray]:
    """The frames of clips with a map over them, each (B, T, H, W, 3) uint8, by the map's name.

    "strange": the novelty of tokens. "unsure": the entropy of the prediction of tokens, red from
    the median to the 99th percentile of all that have `world.config.context` frames before them;
    a world that is as sure of everything has no such map.

    Args:
        world: in eval mode, calibrated.
        clips: of which.
        batch: clips scored at once.
        seed: of the noise on the latents.
    """
    found, context = scores(world, clips, clips.actions, batch, seed), world.config.context
    frames, unsure = torch.from_numpy(clips.frames), uncertainty_map(world, found)
    maps = {"strange": overlay(frames, novelty_map(world, found)).numpy()}
    judged = unsure[:, context:][torch.from_numpy(clips.valid[:, context:])]
    low, high = np.quantile(judged.numpy(), SHARES).tolist()
    if low < high:
        maps["unsure"] = overlay(frames, unsure, low, high).numpy()
    return maps
