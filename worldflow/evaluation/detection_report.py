"""Tables, charts and pictures of how well strangeness is detected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldflow.evaluation.detection import LEVELS, Detected
from worldflow.evaluation.maps import LEGEND
from worldflow.pictures.plots import bar_chart, line_chart
from worldflow.pictures.report import Report
from worldflow.pictures.strips import save_png, strip

COLUMNS = 12  # frames of an example
MAPS = "_where"  # ends the names of the strips with maps
TITLES = {"frame": "single frames", "window": "means over the window"}
MEASURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "fpr": "false-positive rate at 95% recall",
}

KINDS = ("frame", "window", "running", "within step")

Figures = dict[str, Any]


def save_examples(folder: Path, detected: Detected | None) -> None:
    """Write strips of each family of corruptions: its frames, if it changes any, and their maps.

    Old ones are removed.
    """
    for old in folder.glob("detection_*.png"):
        old.unlink()
    if detected is None:
        return
    for family, rows in detected.examples.items():
        path = folder / f"detection_{family.replace(' ', '_')}.png"
        if not all(np.array_equal(frames, rows["real"]) for frames in rows.values()):
            save_png(path, _strip(rows))
        save_png(path.with_stem(path.stem + MAPS), _strip(detected.maps[family]))


def add_detection(report: Report, figures: Figures, dream_error: Figures, folder: Path) -> None:
    """Append `detection` and `dream_error` of `evaluation.json`, and the strips in its folder."""
    report.heading("Detection of strangeness")
    report.text(
        f"{figures['clips']} clips of {figures['episodes']} held-out episodes, as they are and "
        f"changed from the first frame to the last. {figures['given']} frames are given; the "
        f"{figures['window']} after them are judged, frame by frame and by the mean of their "
        "scores. Single frames count as strange only where the frame or its action differs from "
        "the game's. Chance is an AUROC of 0.5. Intervals: 95% bootstrap over episodes."
    )
    report.text(
        "novelty: the world's own score. window novelty: the same of the last frames together. "
        "NLL: its negative log-likelihood. codec: error of the codec's reconstruction. RND: random "
        "network distillation. ensemble: disagreement of three small worlds, which depends on past "
        "and action alone. curiosity: the error of their mean prediction. Pictures: an example of "
        "each corruption, the given frames first, and where in it novelty lies."
    )
    for path in sorted(folder.glob("detection_*.png")):
        family = path.stem.removeprefix("detection_").removesuffix(MAPS).replace("_", " ")
        where = f": where it is strange ({LEGEND})" if path.stem.endswith(MAPS) else ""
        report.picture(path.read_bytes(), family + where)
    for level in LEVELS:
        charts = [
            bar_chart(
                f"{family}: AUROC, {TITLES[level]}",
                "mean over the corruptions",
                {name: _bar(found) for name, found in levels[level].items()},
            )
            for family, levels in figures["families"].items()
        ]
        report.svg(*charts)
    for level in LEVELS:
        for measure, title in MEASURES.items():
            report.text(f"{title}, {TITLES[level]}")
            report.table(_rows(figures, level, measure))
    report.heading("Scores of a dream and its true errors")
    report.text(
        f"Rank correlation (Spearman) with the squared error against the real episode under the "
        f"same actions: {dream_error['clips']} clips, {dream_error['dreams']} dreams of each, up "
        f"to {dream_error['steps']} steps. window: means of both over {dream_error['window']} "
        "steps. running: the mean score of the dream so far. within step: among the dreams at one "
        "step, so that errors which only grow with time do not count. Intervals: 95% bootstrap "
        "over clips. The picture: mean error of frames in each tenth of a score."
    )
    report.svg(
        line_chart(
            "Errors of dreamed frames by what is said of them",
            "tenth of the frames, by score",
            "squared grey levels",
            {
                name: (list(range(1, len(parts) + 1)), np.array(parts))
                for name, parts in dream_error["error_by_tenths"].items()
            },
        )
    )
    report.table(
        [
            {"score": name, **{kind: _text(found.get(kind)) for kind in KINDS}}
            for name, found in dream_error["correlations"].items()
        ]
    )


def print_detection(figures: Figures, dream_error: Figures) -> None:
    """Print the AUROC of each family, and the rank correlations of the dream's own scores."""
    for level in LEVELS:
        for family, levels in figures["families"].items():
            cells = [f"{name} {found['value']:.3f}" for name, found in levels[level].items()]
            print(f"AUROC of {TITLES[level]}, {family}: {', '.join(cells)}")
    for name, found in dream_error["correlations"].items():
        cells = [f"{kind} {_text(found.get(kind))}" for kind in KINDS]
        print(f"rank correlation with the dream's error, {name}: {', '.join(cells)}")


def _strip(rows: dict[str, np.ndarray]) -> np.ndarray:
    real = rows["real"]
    columns = np.unique(np.linspace(0, len(real) - 1, COLUMNS).round().astype(int))
    scale = max(1, 64 // real.shape[1])
    return strip({name: frames[columns] for name, frames in rows.items()}, columns, scale)


def _rows(figures: Figures, level: str, measure: str) -> list[dict[str, str]]:
    return [
        {
            "family": found["family"],
            "corruption": name,
            **{detector: _text(values[measure]) for detector, values in found[level].items()},
        }
        for name, found in figures["corruptions"].items()
    ]


def _bar(found: dict[str, float | None]) -> tuple[float, float, float]:
    value, low, high = (
        np.nan if (end := found[name]) is None else end for name in ("value", "low", "high")
    )
    return value, low, high


def _text(found: dict[str, float | None] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    ends = [f"{found[end]:.3f}" if found[end] is not None else "-" for end in ("low", "high")]
    return f"{found['value']:.3f} [{', '.join(ends)}]"
