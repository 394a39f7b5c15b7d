"""The sections of an evaluation's page that show a world as a simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldflow.evaluation.association import estimate_text as estimate
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.game_report import add_game, game_lines
from worldflow.evaluation.simulate import Dreams
from worldflow.pictures.plots import line_chart
from worldflow.pictures.report import Report
from worldflow.pictures.strips import strip

ACTIONS = "true_and_other_actions"  # a picture, without `.png`
COLUMNS = 12


def action_strip(
    clips: RealClips, true: Dreams, other: Dreams, valid: np.ndarray, context: int
) -> np.ndarray:
    """Reality, a dream under its actions, one under others: of the clip with most steps of both."""
    row = int(valid.sum(axis=1).argmax())
    steps = int(valid[row].sum())
    picked = np.unique(np.linspace(0, max(steps - 1, 0), COLUMNS).round().astype(int))
    rows = {
        "real": clips.frames[row, context:][picked],
        "dream": true.frames[0, row][picked],
        "other": other.frames[0, row][picked],
    }
    return strip(rows, picked + 1, max(1, 64 // clips.frames.shape[2]))


def add_simulator(report: Report, figures: dict[str, Any], folder: Path) -> None:
    """Append what actions do, rewards, terminations, and what the real game showed.

    Args:
        report: the page.
        figures: of `evaluation.json`.
        folder: where the pictures lie.
    """
    steps = figures["steps"]
    if figures["agreement"] is not None:
        _add_agreement(report, figures["agreement"], steps, folder)
    if figures["reward"] is not None:
        _add_reward(report, figures["reward"], steps)
    if figures["termination"] is not None:
        _add_termination(report, figures["termination"], steps)
    if "game" in figures:
        add_game(report, figures["game"], figures["settings"], folder)


def simulator_lines(figures: dict[str, Any]) -> list[str]:
    """What the command prints of these sections."""
    lines = [f"SSIM of the dream {estimate(figures['ssim']['dream'])}"]
    if figures["agreement"] is not None:
        lines.append(f"agreement of actions {estimate(figures['agreement']['agreement'])}")
    if figures["reward"] is not None:
        error = figures["reward"]["error"]
        lines.append(f"reward, mean absolute error in dreams {estimate(error['in dreams'])}")
    if figures["termination"] is not None:
        rate = figures["termination"]["rate"]
        lines += [f"ends a step, {name:21} {estimate(value)}" for name, value in rate.items()]
    return lines + (game_lines(figures["game"]) if "game" in figures else [])


def _chart(title: str, unit: str, steps: list[int], curves: dict[str, list[float | None]]) -> str:
    series = {n: (steps, np.array(c, dtype=np.float64)) for n, c in curves.items()}
    return line_chart(title, "step", unit, series)


def _add_agreement(report: Report, found: dict[str, Any], steps: list[int], folder: Path) -> None:
    report.heading("What actions do")
    report.text(
        "Each clip is dreamed twice with the same noise: under its own actions a, and under those "
        "of the next clip, b. Agreement is the sum over steps of |dream(b) - real(a)|^2 - "
        "|dream(a) - real(a)|^2, over the sum of |dream(b) - dream(a)|^2: the share of the change "
        "that reality confirms. 0: actions change nothing, or nothing right; 1: all is right; "
        "above 1: right, but too weak. Steps count that are real in both clips; the interval is "
        f"over clips. Agreement: {estimate(found['agreement'])}."
    )
    report.svg(
        _chart(
            "Errors under true and other actions", "squared grey levels", steps, found["over_time"]
        )
    )
    report.picture(
        (folder / f"{ACTIONS}.png").read_bytes(),
        "real; dreamed under the same actions; dreamed with the same noise under other actions",
    )


def _add_reward(report: Report, found: dict[str, Any], steps: list[int]) -> None:
    report.heading("Rewards")
    report.text(
        "Mean absolute errors: of the reward that is predicted from real frames, of dreamed "
        "rewards under the same actions, up to the end of the shorter of dream and episode, and of "
        "always predicting the mean reward of the clips."
    )
    report.table(
        [{"reward": n, "mean absolute error": estimate(e)} for n, e in found["error"].items()]
    )
    events = found["events"]
    if events is None:
        report.text("No reward is the usual one (or all are), so that none is an event.")
    else:
        report.text(
            f"A reward is an event where it is more than {events['margin']:g} away from the usual "
            f"{events['usual']:g}. Predicted and true events are paired, the nearest first."
        )
        kinds = [name for name in events if name not in ("usual", "margin")]
        report.table(_event_rows({name: events[name] for name in kinds}))
    report.svg(_chart("Reward of a step", "mean over clips", steps, found["over_time"]))


def _add_termination(report: Report, found: dict[str, Any], steps: list[int]) -> None:
    report.heading("Terminations")
    report.text(
        "On real frames an end is predicted where its probability is 0.5 or more. In dreams an end "
        "is drawn, and the first one counts; after a real end the dream goes on, so that it can be "
        "late. `any` pairs both ends however far they are apart. Late and off are the mean of the "
        "steps, signed and absolute, by which the paired ends differ."
    )
    kinds = {name: found[name] for name in ("on real frames", "in dreams")}
    report.table(_event_rows(kinds))
    drawn, rate = found["drawn on real frames"], found["rate"]
    rows = {
        "expected precision of drawn ends, on real frames": drawn["precision"],
        "expected recall of drawn ends, on real frames": drawn["recall"],
    } | {f"ends a step, {name}": value for name, value in rate.items()}
    report.table([{"figure": name, "value": estimate(value)} for name, value in rows.items()])
    report.svg(_chart("Episodes still running", "share of clips", steps, found["running"]))


def _event_rows(kinds: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "predicted": name,
            "within steps": tolerance,
            "predicted events": f"{found['predicted']:g}",
            "true events": f"{found['actual']:g}",
            "precision": estimate(found["precision"]),
            "recall": estimate(found["recall"]),
            "late": estimate(found["late"]),
            "off": estimate(found["off"]),
        }
        for name, by_tolerance in kinds.items()
        for tolerance, found in by_tolerance.items()
    ]
