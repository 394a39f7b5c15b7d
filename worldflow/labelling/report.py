"""What labelling found, and how right it was where the true actions are known.

The labels are read from disk, an episode at a time, as often as they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from worldflow.actions import ActionSpec
from worldflow.data.metadata import write_atomically
from worldflow.errors import DataError
from worldflow.labelling.infer import Labels
from worldflow.labelling.judging import judge_choices, judge_vectors
from worldflow.labelling.picture import reliability_diagram
from worldflow.pictures.strips import save_png

FIGURES, DIAGRAM, LABELS = "labelling.json", "reliability.png", "labels"
ENTROPY_BINS = 20


def labels_path(folder: Path, index: int) -> Path:
    """Where the labels of an episode lie in a dataset's folder."""
    return folder / LABELS / f"{index:06d}.safetensors"


def read_labels(folder: Path, index: int) -> Labels:
    """The labels of all transitions (M, ...) of an episode.

    Raises:
        DataError: the file is damaged or missing.
    """
    path = labels_path(folder, index)
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: {error}; delete it and run the command again") from error
    return {name: tensor[1:] for name, tensor in tensors.items()}


def write_report(
    folder: Path, settings: dict[str, Any], indices: list[int], spec: ActionSpec, prior: np.ndarray
) -> dict[str, Any]:
    """Write `labelling.json`, and `reliability.png` where true actions are known.

    Args:
        folder: of the labelled dataset.
        settings: of the command; `threshold` counts.
        indices: of the episodes.
        spec: of the actions.
        prior: p(a), (n,); empty for a box.

    Returns:
        what `labelling.json` holds.

    Raises:
        DataError: labels are damaged or missing.
    """
    threshold = settings["threshold"]

    def every() -> Iterator[Labels]:
        return (read_labels(folder, index) for index in indices)

    def judged() -> Iterator[Labels]:
        for labels in every():
            if labels["recorded"].any():
                yield {name: values[labels["recorded"]] for name, values in labels.items()}

    transitions = labelled = 0
    kept, least_kept, least_entropy = 0.0, 1.0, 0.0
    for labels in every():
        transitions += len(labels["entropy"])
        labelled += int((labels["confidence"] >= threshold).sum())
        least_entropy = min(least_entropy, float(labels["entropy"].min(initial=0.0)))
        if spec.kind == "discrete":
            kept += float(labels["kept"].sum(dtype=np.float64))
            least_kept = min(least_kept, float(labels["kept"].min(initial=1.0)))
    figures: dict[str, Any] = {
        "settings": settings,
        "episodes": len(indices),
        "transitions": transitions,
        "labelled": labelled / transitions if transitions else None,
        "entropy": _histogram(every(), least_entropy, spec),
    }
    if spec.kind == "discrete":
        some = {"mean": kept / transitions, "least": least_kept} if transitions else None
        figures["kept"] = some
        figures["truth"] = truth = judge_choices(judged, prior, threshold)
        if truth:
            save_png(folder / DIAGRAM, reliability_diagram(truth["reliability"]))
    else:
        figures["truth"] = judge_vectors(judged, spec, threshold)
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / FIGURES, text.encode())
    return figures


def _histogram(episodes: Iterable[Labels], least: float, spec: ActionSpec) -> dict[str, list]:
    """Of the posteriors' entropy, nats: from 0 to log n; of a box, from the least there is to 0."""
    limits = (0.0, float(np.log(spec.n))) if spec.kind == "discrete" else (min(least, -1.0), 0.0)
    edges = np.histogram_bin_edges(np.zeros(0), ENTROPY_BINS, limits)
    counts = np.zeros(ENTROPY_BINS, np.int64)
    for labels in episodes:
        counts += np.histogram(labels["entropy"].clip(*limits), ENTROPY_BINS, limits)[0]
    return {"edges": edges.tolist(), "counts": counts.tolist()}
