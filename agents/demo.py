"""`worldflow demo`: from a real game to an agent that learned it in a dream, with a report."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from worldflow.agents.demo_report import write_report
from worldflow.agents.stages import Stage, path_setting, run_stages
from worldflow.data.metadata import write_atomically
from worldflow.envs.sources import catch
from worldflow.evaluation.output import VIDEO
from worldflow.storage import load_world

WORLD = "world"


@dataclass
class DemoConfig:
    """Settings of `worldflow demo`: those of the commands it runs, without their folders.

    Attributes:
        collect: overrides of `worldflow collect`.
        pretrain: of `worldflow pretrain`.
        evaluate: of `worldflow evaluate`.
        train_agent: of `worldflow train-agent`.
        evaluate_agent: of `worldflow evaluate-agent`.
        out: folder of everything that is made.
    """

    collect: list[str] = MISSING
    pretrain: list[str] = MISSING
    evaluate: list[str] = MISSING
    train_agent: list[str] = MISSING
    evaluate_agent: list[str] = MISSING
    out: str = "runs/demo"


def road(config: DemoConfig) -> list[Stage]:
    """The commands of the demo, in order, with their folders filled in."""
    out = Path(config.out)
    data, run, agent, world = out / "data", out / "pretrain", out / "agent", out / WORLD

    def deliver() -> None:
        # Before the agent is trained, which remembers where its world is.
        shutil.copytree(run / "world", world, dirs_exist_ok=True)

    def stage(
        command: str,
        settings: list[str],
        paths: dict[str, Path],
        finish: Callable[[], None] | None = None,
    ) -> Stage:
        filled = (path_setting(key, path) for key, path in paths.items())
        return Stage(command, (*settings, *filled), finish)

    return [
        stage("collect", config.collect, {"out": data}),
        stage("pretrain", config.pretrain, {"data": data, "out": run}, finish=deliver),
        stage(
            "evaluate", config.evaluate, {"world": world, "data": data, "out": out / "evaluation"}
        ),
        stage("train-agent", config.train_agent, {"world": world, "out": agent}),
        stage(
            "evaluate-agent",
            config.evaluate_agent,
            {"agent": agent, "out": out / "agent_evaluation.json"},
        ),
    ]


def optimum(source: dict[str, Any]) -> float | None:
    """The best possible mean return in a source, where it is known: in Catch."""
    if source.get("env_id") != "worldflow/Catch-v0" or source.get("frame_skip", 1) != 1:
        return None
    settings = source.get("kwargs", {})
    return catch.optimal_return(**{k: v for k, v in settings.items() if k != "render_mode"})


def summarize(results: list[dict[str, Any]], best: float | None) -> dict[str, Any]:
    """The returns that matter, from the results of `worldflow evaluate-agent`.

    Returns:
        JSON-able; intervals are 95% bootstrap intervals of the means.
    """
    found = {(row["place"], row["policy"]): row for row in results}
    summary: dict[str, Any] = {"optimum": best}
    named = {
        "random_return": ("real", "random"),
        "dream_agent_return": ("real", "agent"),
        "dream_agent_return_in_dream": ("dream", "agent"),
    }
    for name, key in named.items():
        row = found[key]
        summary[name] = row["mean"]
        summary[f"{name}_interval"] = [row["low"], row["high"]]
        summary["episodes"] = row["episodes"]
    summary["share_of_optimum"] = None if best is None else summary["dream_agent_return"] / best
    return summary


def commands(stages: list[Stage], out: Path) -> list[str]:
    """What a user would type instead of `worldflow demo`."""
    lines = [stage.line() for stage in stages]
    lines.insert(2, shlex.join(("cp", "-r", str(out / "pretrain" / "world"), str(out / WORLD))))
    return lines


def main(config: DemoConfig) -> None:
    """The command `worldflow demo`."""
    out, stages = Path(config.out), road(config)
    seconds = run_stages(stages, out)
    world = load_world(out / WORLD)
    results = json.loads((out / "agent_evaluation.json").read_text())["results"]
    summary = summarize(results, optimum(world.spec.source))
    summary["seconds"] = seconds | {"total": sum(seconds.values())}
    shutil.copy2(out / "evaluation" / VIDEO, out / VIDEO)
    write_report(out, summary, commands(stages, out))
    text = json.dumps(summary, indent=2) + "\n"
    write_atomically(out / "summary.json", text.encode())
    print(text, end="")
    print(f"open {out / 'report.html'}")
