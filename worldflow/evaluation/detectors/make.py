"""All detectors that an evaluation compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldflow.data.episodes import EpisodeDataset
from worldflow.evaluation.detectors.detector import Detector
from worldflow.evaluation.detectors.ensemble import Disagreement, PredictionError, fit_members
from worldflow.evaluation.detectors.likelihood import (
    NegativeLogLikelihood,
    Novelty,
    WindowNovelty,
    WorldScores,
)
from worldflow.evaluation.detectors.random_network import RandomNetworkDistillation
from worldflow.evaluation.detectors.reconstruction import ReconstructionError
from worldflow.training.latents import LatentEpisodes
from worldflow.world_model import WorldModel


def make_detectors(
    world: WorldModel,
    dataset: EpisodeDataset,
    taught: np.ndarray,
    folder: Path,
    window: int,
    batch: int,
    seed: int,
    updates: int,
    progress: bool,
) -> list[Detector]:
    """The world's own scores, then the baselines, which learn from episodes of their own.

    Args:
        world: in eval mode.
        dataset: where the episodes are.
        taught: indices of those that the baselines learn from.
        folder: of the baselines' networks and the latents that they learn from; what is there of
            an earlier or interrupted run is used.
        window: frames that are scored together.
        batch: clips scored at once.
        seed: of noise, weights and order.
        updates: of each baseline network.
        progress: show progress bars.
    """
    latents = LatentEpisodes(world.codec, dataset, folder)
    members = fit_members(world, latents, dataset.lengths, taught, updates, folder, seed, progress)
    scored = WorldScores(world, batch, seed)
    return [
        Novelty(scored),
        WindowNovelty(scored, window),
        NegativeLogLikelihood(scored),
        ReconstructionError(world, batch),
        RandomNetworkDistillation(dataset, taught, updates, folder, batch, seed, progress),
        Disagreement(world, members, batch),
        PredictionError(world, members, batch),
    ]
