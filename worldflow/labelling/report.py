"""What labelling found, and how right it was where the true actions are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from worldflow.actions import ActionSpec
from worldflow.data.metadata import write_atomically
from worldflow.errors import DataError
from worldflow.evaluation.metrics import bootstrap
from worldflow.evaluation.strips import save_png
from worldflow.labelling.calibration import (
    calibration_error,
    fit_temper,
    mean_nll,
    reliability,
    tempered,
)
from worldflow.labelling.infer import Labels
from worldflow.labelling.picture import reliability_diagram

FIGURES, DIAGRAM, LABELS = "labelling.json", "reliability.png", "labels"
SPREAD_EDGES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # nats; the last bin has no end
ENTROPY_BINS = 20


def labels_path(folder: Path, index: int) -> Path:
    """Where the labels of an episode lie in a dataset's folder."""
    return folder / LABELS / f"{index:06d}.safetensors"


def read_labels(folder: Path, indices: list[int]) -> Labels:
    """The labels of all transitions (M, ...) of the episodes `indices`, and `episode` (M,).

    Raises:
        DataError: a file is damaged or missing.
    """
    parts = []
    for index in indices:
        path = labels_path(folder, index)
        try:
            tensors = load(path.read_bytes())
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: {error}; delete it and run the command again") from error
        part = {name: tensor[1:] for name, tensor in tensors.items()}
        parts.append(part | {"episode": np.full(len(part["entropy"]), index)})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
    """
    labels = read_labels(folder, indices)
    confident = labels["confidence"] >= settings["threshold"]
    figures: dict[str, Any] = {
        "settings": settings,
        "episodes": len(indices),
        "transitions": len(confident),
        "labelled": float(confident.mean()) if len(confident) else None,
        "entropy": _histogram(labels["entropy"], spec),
        "truth": None,
    }
    if spec.kind == "discrete":
        kept = labels["kept"]
        figures["kept"] = (
            {"mean": float(kept.mean()), "least": float(kept.min())} if kept.size else None
        )
    judged = {name: values[labels["recorded"]] for name, values in labels.items()}
    if len(judged["truth"]):
        if spec.kind == "discrete":
            figures["truth"] = _judge_choices(judged, prior, settings["threshold"])
            diagram = reliability_diagram(figures["truth"]["reliability"])
            save_png(folder / DIAGRAM, diagram)
        else:
            figures["truth"] = _judge_vectors(judged, settings["threshold"], spec)
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / FIGURES, text.encode())
    return figures


def _histogram(entropy: np.ndarray, spec: ActionSpec) -> dict[str, list[float]]:
    """Of the posteriors' entropy, nats: from 0 to log n; of a box, from the least there is to 0."""
    least = 0.0 if spec.kind == "discrete" else min(float(entropy.min(initial=0.0)), -1.0)
    most = float(np.log(spec.n)) if spec.kind == "discrete" else 0.0
    counts, edges = np.histogram(entropy.clip(least, most), ENTROPY_BINS, (least, most))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _judge_choices(labels: Labels, prior: np.ndarray, threshold: float) -> dict[str, Any]:
    """Figures of discrete actions over the M transitions whose true action is known."""
    posterior, truth, episode = labels["posterior"], labels["truth"], labels["episode"]
    right, confidence = labels["action"] == truth, labels["confidence"]
    counts = np.zeros((len(prior), len(prior)), np.int64)
    np.add.at(counts, (truth, labels["action"]), 1)
    rows = reliability(posterior, truth)
    by_episode = np.array([right[episode == index].mean() for index in np.unique(episode)])
    return {
        "transitions": len(truth),
        "accuracy": float(right.mean()),
        "accuracy_of_episodes": bootstrap(by_episode).to_dict(),
        "most_frequent_action": float(counts.sum(1).max() / len(truth)),
        "confident": [
            _share(right, confidence >= least) | {"posterior": least}
            for least in sorted({0.9, 0.99, threshold})
        ],
        "spread": [
            _share(right, (labels["spread"] >= low) & (labels["spread"] < high))
            | {"low": low, "high": high if np.isfinite(high) else None}
            for low, high in zip(SPREAD_EDGES, (*SPREAD_EDGES[1:], np.inf), strict=True)
        ],
        "confusion": counts.tolist(),  # a row for each true action
        "expected_calibration_error": calibration_error(rows),
        "reliability": rows,
        "temper": _temper(labels, np.log(prior)),
    }


def _share(right: np.ndarray, where: np.ndarray) -> dict[str, float | None]:
    accuracy = float(right[where].mean()) if where.any() else None
    return {"share": float(where.mean()), "accuracy": accuracy}


def _temper(labels: Labels, log_prior: np.ndarray) -> dict[str, Any] | None:
    """The temper fitted to every other episode, and what it does to the rest; None for one episode.

    It is fitted to the untempered posteriors, whatever `temper` the labels were made with.
    """
    episodes = np.unique(labels["episode"])
    if len(episodes) < 2:
        return None
    to_fit = np.isin(labels["episode"], episodes[::2])
    exact, truth = labels["log_posterior"].astype(np.float64), labels["truth"]
    temper = fit_temper(exact[to_fit], log_prior, truth[to_fit])
    rest, truth = exact[~to_fit], truth[~to_fit]
    return {"fitted": temper, "transitions": int(to_fit.sum())} | {
        name: {
            "nll": mean_nll(tempered(rest, log_prior, value), truth),
            "expected_calibration_error": calibration_error(
                reliability(np.exp(tempered(rest, log_prior, value)), truth)
            ),
        }
        for name, value in (("at_1", 1.0), ("at_fitted", temper))
    }


def _judge_vectors(labels: Labels, threshold: float, spec: ActionSpec) -> dict[str, Any]:
    """Figures of box actions over the M transitions whose true action is known."""
    side = np.subtract(spec.high, spec.low)
    error = np.square((labels["action"].astype(np.float64) - labels["truth"]) / side)
    variance = (labels["truth"] / side).var(axis=0)

    def of(where: np.ndarray) -> dict[str, Any]:
        if not where.any():
            return {"share": 0.0, "root_mean_squared_error": None}
        root = np.sqrt(error[where].mean(axis=0))
        return {"share": float(where.mean()), "root_mean_squared_error": root.tolist()}

    return {
        "transitions": len(error),
        "in_units_of": side.tolist(),
        "all": of(np.ones(len(error), np.bool_)),
        "labelled": of(labels["confidence"] >= threshold),
        "explained": [
            1.0 - float(e) / float(v) if v else None
            for e, v in zip(error.mean(axis=0), variance, strict=True)
        ],
    }
