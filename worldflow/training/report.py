"""The page that a run leaves behind: what was done, how it went and what came of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldflow.calibration import QUANTILES, Calibration
from worldflow.config import flatten
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.inspect import Coverage
from worldflow.data.metadata import games_of, write_atomically
from worldflow.novelty import noise_floor
from worldflow.pictures.report import Report
from worldflow.training.curves import Curve, read_metrics, read_pictures, read_scalars
from worldflow.training.logger import METRICS, TENSORBOARD, video_path
from worldflow.training.modes import Run, Trained
from worldflow.training.report_charts import (
    MOST_POINTS,
    POSITION,
    Chart,
    calibration_chart,
    codec_charts,
    flow_charts,
    gradient_charts,
    machine_charts,
    position_charts,
)

PAGE = "report.html"


def write_run_report(run: Run, trained: Trained, summary: str) -> None:
    """Write `report.html` of a finished run, one file with all its pictures and videos.

    Args:
        run: what was trained, on what and how.
        trained: what came of it; its world is calibrated.
        summary: a sentence on how it was trained.

    Raises:
        DataError: what the run logged is missing or damaged.
    """
    training, folder, sigma = run.training, run.folder, trained.world.config.sigma
    codec, flow = ("joint", "joint") if training.is_joint else ("codec", "flow")
    curves = read_metrics(folder / METRICS)
    games = ", ".join(games_of(run.dataset.metadata.source)) or "video"
    report = Report(f"A world of {games}: how it was trained")
    report.text(summary)
    report.heading("Held-out figures")
    report.text(
        "Of episodes that were not learned from, at the first and the last measurement. NLL is in "
        f"nats a latent; the noise on the latents (sigma {sigma}) alone has "
        f"{noise_floor(sigma):.3f}. Bits are per dimension of the pixels, an upper bound. NLLs "
        "compare under one codec and one sigma only, bits of the pixels always."
    )
    report.table(held_out_rows(curves))
    _add_calibration(report, trained.world.calibration)
    _add_dreams(report, run, codec, flow)
    report.heading("Curves")
    report.text(f"Where more than {MOST_POINTS} points were logged, neighbours are averaged.")
    floor = noise_floor(sigma)
    report.svg(*_drawn(codec_charts(codec), curves))
    report.svg(*_drawn(flow_charts(flow, floor, sigma**2), curves))
    report.svg(*position_charts(curves, flow, floor))
    report.svg(*_drawn(gradient_charts(curves), curves))
    report.heading("Data")
    report.table([{"": name, "value": value} for name, value in data_rows(run).items()])
    _add_machine(report, run, trained, list(dict.fromkeys((codec, flow))))
    report.heading("Settings")
    report.code(settings_lines(json.loads(trained.progress.fingerprint), training.is_joint))
    report.heading("What comes next")
    report.code(next_commands(run))
    write_atomically(folder / PAGE, report.html().encode())


def held_out_rows(curves: Mapping[str, Curve]) -> list[dict[str, str]]:
    """A row for each held-out figure; the NLL of single frames of a clip comes last."""
    tags = [tag for tag in curves if "held_out" in tag]
    tags = sorted(tags) + sorted(tag for tag in curves if POSITION in tag)
    return [
        {
            "figure": tag,
            "first": f"{curves[tag][1][0]:.4g}",
            "last": f"{curves[tag][1][-1]:.4g}",
            "update": str(curves[tag][0][-1]),
        }
        for tag in tags
    ]


def data_rows(run: Run) -> dict[str, str]:
    """What the world learned from."""
    dataset, metadata = run.dataset, run.dataset.metadata
    height, width, _ = dataset.frame_shape
    held = int((dataset.lengths[run.held_out] - 1).sum())
    lossy = metadata.lossy
    rows = {
        "folder": str(dataset.folder),
        "source": json.dumps(metadata.source),
        "episodes": f"{len(dataset)}, of which {len(run.held_out)} are held out",
        "steps": f"{dataset.steps}, of which {held} are held out",
        "frames": f"{height} x {width}, {metadata.fps:g} a second",
        "lossy compression": f"{lossy}: likelihoods describe it too" if lossy else "none known",
        "rewards": _recorded(metadata.has_rewards),
        "terminations": _recorded(metadata.has_terminations),
    }
    return rows | _coverage(dataset)


def settings_lines(settings: Mapping[str, Any], joint: bool) -> list[str]:
    """The settings that the result depends on, those of stages that did not run apart."""
    unused = ("training.codec.", "training.flow.") if joint else ("training.joint.",)
    flat = {k: v for k, v in flatten(settings).items() if not k.startswith(unused)}
    return [f"{key}={json.dumps(value)}" for key, value in flat.items()]


def next_commands(run: Run) -> list[str]:
    """What a user does with the world."""
    world, data = (shlex.quote(str(path)) for path in (run.folder / "world", run.dataset.folder))
    out = shlex.quote(str(run.folder / "evaluation"))
    commands = [f"worldflow evaluate world={world} data={data} out={out}"]
    heads = run.world.config.heads
    if heads.reward and heads.termination and run.dataset.action_spec.kind != "none":
        agent = shlex.quote(str(run.folder / "agent"))
        commands.append(f"worldflow train-agent world={world} out={agent}")
    return commands


def _recorded(there: bool) -> str:
    return "recorded" if there else "not recorded"


def _coverage(dataset: EpisodeDataset) -> dict[str, str]:
    """How the recorded actions are spread; an episode's first frame has none."""
    if dataset.action_spec.kind == "none":
        return {"actions": "none"}
    coverage, recorded = Coverage(dataset.action_spec), 0
    for index in range(len(dataset)):
        steps = dataset.steps_of(index)
        actions = steps.actions[1:][steps.known[1:]]
        coverage.add(actions)
        recorded += len(actions)
    known = {"actions": f"recorded for {recorded} of {dataset.steps} steps"}
    return known | dict(line.split(": ", 1) for line in coverage.lines())


def _drawn(charts: list[Chart], curves: Mapping[str, Curve]) -> list[str]:
    return [svg for chart in charts if (svg := chart.svg(curves)) is not None]


def _add_calibration(report: Report, calibration: Calibration) -> None:
    report.heading("Calibration of novelty")
    report.text(
        f"Log-likelihoods of {calibration.frames} held-out frames that have the past which a dream "
        f"starts with: mean {calibration.mean:.5g} nats a frame, standard deviation "
        f"{calibration.std:.4g}."
    )
    report.svg(calibration_chart(calibration))
    levels = zip(QUANTILES, calibration.quantiles, strict=True)
    report.table([{f"{level:g}": f"{value:.5g}" for level, value in levels}])


def _add_dreams(report: Report, run: Run, codec: str, flow: str) -> None:
    """The pictures of the last measurement; without a tag there is none."""
    pictures = read_pictures(run.folder / TENSORBOARD)
    report.heading("Held-out frames and dreams")
    if (tag := f"{codec}/real_above_codec") in pictures:
        step, png = pictures[tag]
        report.picture(png, f"Real frames above the same through the codec, at update {step}.")
    tag = f"{flow}/real_codec_dream"
    if tag not in pictures:
        report.text(
            "No dreams were shown: no measured clip is whole and has known actions, or the "
            "denoiser looks ahead and so cannot step."
        )
        return
    step, png = pictures[tag]
    caption = f"under the actions of held-out clips, at update {step}; 0 is the last given frame."
    report.picture(png, f"Real frames, the same through the codec, and the dream {caption}")
    video = video_path(run.folder, tag, step)
    if video.is_file():
        report.video(video.read_bytes(), "The same, clip after clip.")


def _add_machine(report: Report, run: Run, trained: Trained, stages: list[str]) -> None:
    """How it was computed, for how long and how fast."""
    logged = read_scalars(run.folder / TENSORBOARD)
    training, progress = run.training, trained.progress
    rows = {
        "parameters": f"{sum(p.numel() for p in trained.world.parameters()):,}",
        "device": run.engine.ranks.device.type,
        **{name: str(value) for name, value in progress.setup.items()},
        "training.precision": training.precision,
        "training.ema": f"{training.ema:g}",
        "time of updates and measurements": f"{progress.seconds / 60:.1f} minutes",
    }
    for stage in stages:
        if (tag := f"{stage}/frames_per_second") in logged:
            rows[f"frames a second, stage {stage}"] = f"{np.median(logged[tag][1]):.4g} (median)"
    report.heading("How it was computed")
    report.text(
        "Time is that of all parts of the run, without importing recordings and encoding latents; "
        "throughput is that of updates alone. Ranks and savings are those of the last part."
    )
    report.table([{"": name, "value": value} for name, value in rows.items()])
    report.svg(*_drawn(machine_charts(stages), logged))
