"""What an evaluation leaves on disk: figures, strips, charts, a video and a page of them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflow.data.metadata import write_atomically
from worldflow.evaluation.detection_report import add_detection, save_examples
from worldflow.evaluation.maps import LEGEND
from worldflow.evaluation.simulator_report import add_simulator
from worldflow.pictures.plots import line_chart
from worldflow.pictures.report import Report
from worldflow.pictures.strips import save_png, strip
from worldflow.pictures.video import beside, write_video

if TYPE_CHECKING:
    from worldflow.evaluation.evaluate import Evaluation

FIGURES, VIDEO, PAGE = "evaluation.json", "dream_beside_reality.mp4", "report.html"
STRIP_COLUMNS = 16
VIDEO_FRAMES = 480
STRIP = (
    "the same actions: real, dreamed, real through the codec; where the real frame is strange "
    f"({LEGEND}) and where the world was unsure of it"
)


def write_evaluation(evaluation: Evaluation, folder: Path, strips: int) -> None:
    """Write everything to `folder`; `evaluation.json` comes last and marks it complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("strip_*.png"):
        old.unlink()
    for row in range(min(strips, len(evaluation.clips.frames))):
        save_png(folder / f"strip_{row:03d}.png", clip_strip(evaluation, row))
    for name, image in evaluation.pictures.items():
        save_png(folder / f"{name}.png", image)
    write_video(folder / VIDEO, clip_video(evaluation), evaluation.fps)
    save_examples(folder, evaluation.detected)
    report = Report("Dream beside reality")
    add_evaluation(report, evaluation.figures, folder)
    write_atomically(folder / PAGE, report.html().encode())
    text = json.dumps(evaluation.figures, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / FIGURES, text.encode())


def clip_strip(evaluation: Evaluation, row: int) -> np.ndarray:
    """Real frames, the first dream of a clip, the codec's, maps: from the last given frame on."""
    first = evaluation.figures["context"] - 1
    end = int(evaluation.clips.valid[row].sum())
    columns = np.unique(np.linspace(first, end - 1, STRIP_COLUMNS).round().astype(int))
    rows = {
        "real": evaluation.clips.frames[row],
        "dream": _with_context(evaluation, row),
        "codec": evaluation.reconstructed[row],
        **{name: frames[row] for name, frames in evaluation.maps.items()},
    }
    scale = max(1, 64 // evaluation.clips.frames.shape[2])
    return strip({n: f[columns] for n, f in rows.items()}, columns - first, scale)


def clip_video(evaluation: Evaluation) -> np.ndarray:
    """Clip after clip, real frames left and dreamed ones right: (T, H', W', 3) uint8."""
    real, dreamed = [], []
    for row, valid in enumerate(evaluation.clips.valid):
        real.append(evaluation.clips.frames[row][valid])
        dreamed.append(_with_context(evaluation, row)[valid])
    columns = {"real": real, "dream": dreamed}
    return beside({n: np.concatenate(parts)[:VIDEO_FRAMES] for n, parts in columns.items()})


def add_evaluation(report: Report, figures: dict[str, Any], folder: Path) -> None:
    """Append the figures of `evaluation.json` and the strips in its folder to a report."""
    settings = figures["settings"]
    report.text(
        f"{figures['clips']} held-out clips, dreamed {figures['steps'][-1]} steps on from their "
        f"beginnings under the real actions (given frames: {figures['context']}; dreams of each "
        f"clip: {settings['samples']}; temperature: {settings['world']['temperature']}). Step 0 "
        "is the last given frame. Where episodes end earlier, later steps have fewer clips. "
        "Numbers in brackets are 95% bootstrap intervals over clips, each of an episode of its "
        "own; beside the real game over episodes or moments, as is said there. PSNR and SSIM in "
        "the table are means over clips of each clip's own; curves over the horizon average "
        "squared errors first."
    )
    if figures["captions"] is not None:
        report.text(
            f"The world was told the captions of {figures['captions']} of these clips. Novelty is "
            "calibrated without captions. What actions do is asked under each clip's own caption, "
            "which may say what its own actions lead to."
        )
    for path in sorted(folder.glob("strip_*.png")):
        report.picture(path.read_bytes(), STRIP)
    steps = figures["steps"]

    def chart(title: str, unit: str, curves: dict[str, list[float | None]]) -> str:
        series = {n: (steps, np.array(c, dtype=np.float64)) for n, c in curves.items()}
        return line_chart(title, "step", unit, series)

    report.svg(
        chart("PSNR over the horizon", "dB", figures["psnr_over_time"]),
        chart("SSIM over the horizon", "1: equal", figures["ssim_over_time"]),
        chart("Novelty over time", "standard deviations", figures["novelty_over_time"]),
    )
    report.text(
        "Novelty is how rare a frame is among held-out real ones, in standard deviations: of a "
        "real frame, how well it fits the prediction; of a dreamed one, how unsure that was. "
        "Under wrong actions real frames should look strange to the world."
    )
    nll = {f"NLL a latent, {n} (nats)": f"{v:.4f}" for n, v in figures["nll_per_latent"].items()}
    passes = {
        f"Jacobi passes of {figures['tokens']}, {name} block": f"{value:.1f}"
        for name, value in figures["jacobi_iterations"].items()
    }
    quality = {
        f"PSNR, {name} (dB, mean over clips)": f"{e['mean']:.2f} [{e['low']:.2f}, {e['high']:.2f}]"
        for name, e in figures["psnr"].items()
    }
    quality |= {
        f"SSIM, {name} (mean over clips)": f"{e['mean']:.4f} [{e['low']:.4f}, {e['high']:.4f}]"
        for name, e in figures["ssim"].items()
    }
    bits = {
        f"bits per dimension of the pixels, a bound, {part}": _interval(estimate)
        for part, estimate in figures["pixel_bits"].items()
    }
    rows = quality | bits | nll | passes
    report.table([{"figure": name, "value": value} for name, value in rows.items()])
    add_score(report, figures["score"])
    add_simulator(report, figures, folder)
    if "detection" in figures:
        add_detection(report, figures["detection"], figures["dream_error"], folder)


def add_score(report: Report, score: dict[str, Any]) -> None:
    """Append what `score_matching.score_figures` measured to a report."""
    report.text(
        f"The denoiser (lookahead {score['lookahead']}) learned the flow's score. Below is how "
        "much of the exact score it explains, at frames without and with knowledge of the next "
        "one, and how far from the clean latents they take the noisy ones: mean squared error at "
        f"{score['frames']} frames. {score['clamped']:.2%} of the exact scores were clamped."
    )
    report.table(
        [
            {
                "latents": name,
                "R² of the denoiser's prediction": _interval(score["explained"].get(name)),
                "squared error": _interval(error),
            }
            for name, error in score["squared_error"].items()
        ]
    )


def _interval(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['mean']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"


def _with_context(evaluation: Evaluation, row: int) -> np.ndarray:
    """A clip's given frames, then its first dream: (T, H, W, 3)."""
    given = evaluation.clips.frames[row, : evaluation.figures["context"]]
    return np.concatenate([given, evaluation.dreams.frames[0, row]])
