"""What the end of pretraining measures and adds to a world."""

from __future__ import annotations

import sys
from itertools import islice

import numpy as np

from worldflow.data.alignment_check import check_alignment
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import DataError
from worldflow.training.latents import LatentEpisodes
from worldflow.world_spec import Contexts

MAX_CONTEXTS = 64


def warn_of_shifts(episodes: LatentEpisodes, dataset: EpisodeDataset) -> None:
    """Warn where actions seem to be off by a frame."""
    known = [k for k in range(len(dataset)) if episodes.known[k][1:].all()]
    latents = [episodes.latents[k].reshape(len(episodes.known[k]), -1) for k in known]
    actions = [episodes.actions[k] for k in known]
    check = check_alignment(latents, actions, dataset.action_spec)
    warning = check.warning() if check is not None else None
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)


def first_contexts(dataset: EpisodeDataset, held_out: np.ndarray, context: int) -> Contexts:
    """The first frames of held-out episodes, where the actions between them are known.

    Raises:
        DataError: there is no such episode.
    """
    long = (int(index) for index in held_out if dataset.lengths[index] > context)
    slices = (dataset.read(index, 0, context) for index in long)
    none = dataset.action_spec.kind == "none"
    known = list(islice((s for s in slices if none or s.known[1:].all()), MAX_CONTEXTS))
    if not known:
        raise DataError(
            f"no held-out episode is longer than world.context={context} frames and begins with "
            "known actions; collect longer episodes or lower world.context"
        )
    return Contexts(np.stack([s.frames for s in known]), np.stack([s.actions for s in known]))
