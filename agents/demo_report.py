"""The page that a demo leaves behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldflow.data.metadata import write_atomically
from worldflow.evaluation.output import FIGURES, add_evaluation
from worldflow.pictures.plots import bar_chart, line_chart
from worldflow.pictures.report import Report
from worldflow.training.curves import read_scalars

# (folder, title, unit of x, unit of y, {name: tag}); a tag that was never logged is left out.
CURVES = [
    ("pretrain", "Codec", "update", "dB", {"held-out PSNR": "codec/held_out_psnr"}),
    (
        "pretrain",
        "Flow",
        "update",
        "nats a latent",
        {
            "training": "flow/nll",
            "held out": "flow/held_out_nll",
            "held out, wrong actions": "flow/held_out_nll_wrong_action",
        },
    ),
    (
        "agent",
        "Agent, in the dream",
        "imagined step",
        "return of an episode",
        {"return": "rollout/ep_rew_mean"},
    ),
    ("agent", "What the agent dreams", "imagined step", "novelty", {"novelty": "dream/novelty"}),
]


def write_report(out: Path, summary: dict[str, Any], commands: Sequence[str]) -> None:
    """Write `report.html`, one file with all its pictures.

    Args:
        out: the demo's folder, with `evaluation/`, `pretrain/` and `agent/`.
        summary: see `worldflow.agents.demo.summarize`, and `seconds` of each stage.
        commands: what was run.
    """
    report = Report("An agent that learned in a dream")
    report.text(
        "Real frames were collected, a world was learned from them, and an agent was trained "
        "inside that world only. Then it played the real game."
    )
    report.heading("Returns in the real game")
    report.svg(returns_chart(summary))
    report.text(
        f"Means over {summary['episodes']} episodes; bars show 95% bootstrap intervals. In the "
        f"dream the agent gets {summary['dream_agent_return_in_dream']:.3f}."
    )
    report.heading("Dream beside reality")
    folder = out / "evaluation"
    add_evaluation(report, json.loads((folder / FIGURES).read_text()), folder)
    report.heading("Training")
    logged = {name: read_scalars(out / name) for name in {curve[0] for curve in CURVES}}
    report.svg(
        *(
            line_chart(
                title, x, y, {n: logged[run][tag] for n, tag in tags.items() if tag in logged[run]}
            )
            for run, title, x, y, tags in CURVES
        )
    )
    report.heading("How long it took, and how to do it by hand")
    report.table(
        [{"stage": name, "seconds": f"{value:.0f}"} for name, value in summary["seconds"].items()]
    )
    report.code(commands)
    write_atomically(out / "report.html", report.html().encode())


def returns_chart(summary: dict[str, Any]) -> str:
    """Random, dream-trained and, where it is known, best possible mean returns as bars."""
    bars = {
        label: (summary[name], *summary[f"{name}_interval"])
        for label, name in (("random", "random_return"), ("dream-trained", "dream_agent_return"))
    }
    if (best := summary["optimum"]) is not None:
        bars["optimum"] = (best, best, best)
    return bar_chart("Mean return", "return of an episode", bars)
