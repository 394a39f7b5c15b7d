"""How well a score tells strange from normal: AUROC, AUPRC, false positives at 95% recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RECALL = 0.95


@dataclass(frozen=True)
class Detection:
    """Figures of merit under each of R weightings, (R,) each.

    Attributes:
        auroc: probability that a strange one scores above a normal one, ties counting half.
        auprc: average precision, the sum over thresholds of precision times gained recall. Chance
            is the share of strange ones.
        fpr: share of normal ones at or above the highest threshold that finds 95% of the strange.
    """

    auroc: np.ndarray
    auprc: np.ndarray
    fpr: np.ndarray


def detection(scores: np.ndarray, strange: np.ndarray, weights: np.ndarray) -> Detection:
    """Measure a score whose larger values should mean strange.

    Args:
        scores: (n,), infinity allowed.
        strange: (n,) bool.
        weights: (R, n), how often each one counts.

    Raises:
        ValueError: shapes that do not fit, NaN, or a weighting under which one of the two kinds
            is missing.
    """
    if scores.ndim != 1 or strange.shape != scores.shape or weights.shape[1:] != scores.shape:
        raise ValueError(
            f"scores {scores.shape}, strange {strange.shape} and weights {weights.shape} do not fit"
        )
    if np.isnan(scores).any():
        raise ValueError("some scores are NaN")
    order = np.argsort(-scores, kind="stable")
    ranked, weighted = scores[order], weights[:, order]
    # equal scores share a threshold
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    found = _from_zero(np.cumsum(weighted * strange[order], axis=1)[:, ends])
    false = _from_zero(np.cumsum(weighted * ~strange[order], axis=1)[:, ends])
    all_strange, all_normal = found[:, -1:], false[:, -1:]
    if not ((all_strange > 0).all() and (all_normal > 0).all()):
        raise ValueError("needs strange and normal ones under every weighting")
    recall, rate = found / all_strange, false / all_normal
    auroc = (np.diff(rate, axis=1) * (recall[:, 1:] + recall[:, :-1]) / 2).sum(axis=1)
    flagged = (found + false)[:, 1:]
    precision = np.divide(found[:, 1:], flagged, out=np.zeros_like(flagged), where=flagged > 0)
    auprc = (np.diff(recall, axis=1) * precision).sum(axis=1)
    first = (recall >= RECALL - 1e-12).argmax(axis=1)
    return Detection(auroc, auprc, rate[np.arange(len(rate)), first])


def _from_zero(counts: np.ndarray) -> np.ndarray:
    """With the threshold above all scores, which finds nothing."""
    return np.concatenate([np.zeros((len(counts), 1)), counts], axis=1)
