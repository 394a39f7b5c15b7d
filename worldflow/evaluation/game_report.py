"""The sections of an evaluation's page about a world beside its real game."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldflow.evaluation.association import estimate_text
from worldflow.pictures.plots import scatter_chart
from worldflow.pictures.report import Report

DECISIONS = "decisions"  # a picture, without `.png`
RANKINGS = {"by_return": "return", "by_info": "the info"}


def add_game(report: Report, game: dict[str, Any], settings: dict[str, Any], folder: Path) -> None:
    """Append decision fidelity, and dreamed against real returns.

    Args:
        report: the page.
        game: `game` of `evaluation.json`: `reason`, or `looked_at`, `decisions` and `compare`.
        settings: of the evaluation.
        folder: where the pictures lie.
    """
    if "reason" in game:
        report.heading("Beside the real game")
        report.text(game["reason"])
        return
    _add_decisions(report, game, settings["decisions"], folder)
    _add_comparison(report, game["compare"], settings["compare"])


def game_lines(game: dict[str, Any]) -> list[str]:
    """What the command prints of these sections."""
    if "reason" in game:
        return [game["reason"]]
    lines = []
    if (found := game["decisions"]) is not None:
        fidelity = found["by_return"]
        lines = [
            f"controllability {estimate_text(found['controllability'])}",
            f"decisions, Spearman {estimate_text(fidelity['spearman'])}, top-1 "
            f"{estimate_text(fidelity['top_1'])}",
        ]
    compared = game["compare"]
    names = ("pearson", "spearman")
    values = ", ".join(f"{name} {estimate_text(compared[name])}" for name in names)
    return [*lines, f"returns of {len(compared['agents'])} agents, dream and reality: {values}"]


def _add_decisions(
    report: Report, game: dict[str, Any], settings: dict[str, Any], folder: Path
) -> None:
    report.heading("Decisions")
    found = game["decisions"]
    if found is None:
        report.text(
            f"At none of {game['looked_at']} moments did {settings['plans']} plans of "
            f"{settings['horizon']} steps differ in their real return: there is nothing to rank."
        )
        return
    fidelity = found["by_return"]
    chance = (
        f"Reality's mean is over {found['continuations']} continuations with different chance."
        if found["has_chance"]
        else "The real game's chance cannot be drawn anew in the middle of an episode, so reality "
        "is one continuation, the one that the episode's seed holds."
    )
    report.text(
        "Protocol. A moment is drawn uniformly from an episode of random, sticky play in the real "
        f"game and reached again by replaying seed and actions. {settings['plans']} plans of "
        f"{settings['horizon']} random actions (repeated with probability {settings['sticky']:g}) "
        f"are carried out from it. {chance} Moments at which all plans have the same real return "
        f"decide nothing and are left out: {fidelity['decided']} of {game['looked_at']} are used. "
        f"The dream starts from the last {settings['given']} real frames and dreams each plan "
        f"{settings['dreams']} times, with the same noise under every plan; its outcome is the "
        "mean over these of the sum of rewards, each times the probability that the dream still "
        "runs. Spearman is the mean over moments of the rank correlation of both outcomes (real "
        "ones share ranks, dreamed ones hardly do, so that the most it can be is below 1); pairs "
        "in order the share of plans with different real outcomes that the dream has in order; "
        "top-1 how often the dream's best plan is one of reality's best; gain what the "
        "dream's best plan "
        "gains in reality over a random plan, as a share of what reality's best one gains. Ceiling "
        "is the same with single dreams in the place of reality, their returns rounded to the "
        "steps of real ones: what this world would have if reality were as random as its dreams. "
        "Intervals are over moments, each of its own episode."
    )
    rows = []
    for key, name in RANKINGS.items():
        if (figures := found[key]) is None:
            continue
        label = f"{name} {settings['info']}" if key == "by_info" else name
        rows.append(_fidelity_row(f"real {label}", figures))
        if figures["ceiling"] is not None:
            rows.append(_fidelity_row("ceiling", figures["ceiling"]))
    report.table(rows)
    report.text(
        "Controllability is the sum of |dream(b) - real(a)|^2 - |dream(a) - real(a)|^2 over all "
        "ordered pairs of plans and all steps, over the same of reality as a simulator of itself "
        "(|real(b) - real(a)|^2 where it has no chance). 0: actions change nothing, or nothing "
        "right; 1: as much as in the game. Controllability: "
        f"{estimate_text(found['controllability'])}."
    )
    real, dreamed = (np.array(found[n]) for n in ("real_returns", "dreamed_returns"))
    points = [
        _points((values - values.mean(axis=1, keepdims=True)).ravel()) for values in (dreamed, real)
    ]
    report.svg(
        scatter_chart(
            "Returns of plans, less the mean of their moment",
            "dreamed",
            "real",
            {"a plan": (points[0], points[1])},
        )
    )
    report.picture(
        (folder / f"{DECISIONS}.png").read_bytes(),
        "the first moment: its best and its worst plan in reality, and dreams of both; black after "
        "the real end",
    )


def _fidelity_row(name: str, figures: dict[str, Any]) -> dict[str, str]:
    return {
        "ranked by": name,
        "moments": f"{figures['decided']}",
        "Spearman": estimate_text(figures["spearman"]),
        "of at most": estimate_text(figures["cap"]),
        "pairs in order": estimate_text(figures["concordance"]),
        "top-1": estimate_text(figures["top_1"]),
        "top-1 of a random plan": estimate_text(figures["chance"]),
        "gain": estimate_text(figures["gain"]),
    }


def _add_comparison(report: Report, found: dict[str, Any], settings: dict[str, Any]) -> None:
    report.heading("Agents in dream and reality")
    report.text(
        f"Each policy plays {settings['episodes']} seeded episodes in the dream, cut after "
        f"{found['horizon']} steps, and as many in the real game, cut at the same frame. A "
        "dream starts after the world's given frames, and its return lacks their rewards. Random "
        "policies repeat their last action with the probability in their name; agents "
        + ("take their most probable action. " if settings["deterministic"] else "draw. ")
        + f"Over policies, Pearson {estimate_text(found['pearson'])}, Spearman "
        f"{estimate_text(found['spearman'])}; intervals are over episodes."
    )
    report.svg(
        scatter_chart(
            "Mean returns",
            "dreamed",
            "real",
            {
                agent["name"]: (_point(agent["dream"]), _point(agent["real"]))
                for agent in found["agents"]
            },
            diagonal=True,
        )
    )
    report.table(
        [
            {
                "policy": agent["name"],
                "dreamed return": estimate_text(agent["dream"]),
                "real return": estimate_text(agent["real"]),
            }
            for agent in found["agents"]
        ]
    )


def _point(estimate: dict[str, float]) -> np.ndarray:
    """(1, 3): value, low, high."""
    return np.array([[estimate[name] for name in ("mean", "low", "high")]])


def _points(values: np.ndarray) -> np.ndarray:
    """(n, 3): values without intervals."""
    return np.repeat(values[:, None], 3, axis=1)
