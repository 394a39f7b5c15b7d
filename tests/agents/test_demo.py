"""The whole road on a tiny budget, what it leaves, and how it continues."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest

from worldflow import load_world
from worldflow.agents import stages
from worldflow.agents.demo import DemoConfig, optimum, road, summarize
from worldflow.agents.demo_report import returns_chart
from worldflow.agents.saved import AgentCard
from worldflow.agents.stages import RECORD, Stage, run_stages
from worldflow.cli import main
from worldflow.config import choices, load_config
from worldflow.envs.sources.catch import optimal_return
from worldflow.errors import ConfigError


def test_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my, demo (1)"
    assert main(["demo", "preset=tiny", f"out='{out}'"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["optimum"] == pytest.approx(optimal_return())
    assert summary["episodes"] == 4
    for name in ("random_return", "dream_agent_return"):
        low, high = summary[f"{name}_interval"]
        assert -1.0 <= low <= summary[name] <= high <= 1.0
    parts = {"collect", "pretrain", "evaluate", "train-agent", "evaluate-agent"}
    assert set(summary["seconds"]) == parts | {"total"}
    assert load_world(out / "world").spec.source["env_id"] == "worldflow/Catch-v0"
    card = AgentCard.load(out / "agent")
    assert card.world.path == str(out / "world")
    delivered = (out / "world" / "world.safetensors").read_bytes()
    assert card.world_sha256 == hashlib.sha256(delivered).hexdigest()
    with av.open(str(out / "dream_beside_reality.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) > 0
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert page.count("<svg") == 13
    assert "no data" not in page.split("Training</h2>")[0]
    assert "worldflow pretrain world=catch" in page
    assert "cp -r" in page

    capsys.readouterr()
    before = (out / "agent" / "agent.zip").stat().st_mtime_ns
    assert main(["demo", "preset=tiny", f"out='{out}'"]) == 0
    assert capsys.readouterr().out.count("done before") == len(parts)
    assert (out / "agent" / "agent.zip").stat().st_mtime_ns == before

    changed = ["demo", "preset=tiny", f"out='{out}'", 'evaluate_agent=["episodes=2"]']
    assert main(changed) == 2
    assert "was made with other settings" in capsys.readouterr().err


class Recorder:
    """Stands in for the commands: notes calls, and fails where told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.failing = ""
        monkeypatch.setattr(stages, "COMMANDS", {n: self.command(n) for n in ("a", "b")})
        monkeypatch.setattr(stages, "load_config", self.load_config)

    @staticmethod
    def load_config(name: str, schema: type, overrides: tuple[str, ...]) -> list[str]:
        if "wrong" in overrides:
            raise ConfigError("wrong")
        return list(overrides)

    def command(self, name: str) -> Any:
        recorder = self

        class Command:
            config = name

            def load(self) -> tuple[Any, type]:
                return self.run, list

            def run(self, config: list[str]) -> None:
                recorder.calls.append((name, config))
                if recorder.failing == name:
                    raise KeyboardInterrupt

        return Command()


def test_an_interrupted_stage_runs_again_and_a_finished_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    recorder.failing = "b"
    both = [Stage("a", ("x=1",)), Stage("b", ("y=2",))]
    with pytest.raises(KeyboardInterrupt):
        run_stages(both, tmp_path)
    first = json.loads((tmp_path / RECORD).read_text())
    assert first["a"]["done"]
    assert not first["b"]["done"]
    recorder.failing = ""
    seconds = run_stages(both, tmp_path)
    assert recorder.calls == [("a", ["x=1"]), ("b", ["y=2"]), ("b", ["y=2"])]
    assert seconds["b"] >= first["b"]["seconds"]
    with pytest.raises(ConfigError, match="a had x=1, now x=2"):
        run_stages([Stage("a", ("x=2",))], tmp_path)


def test_a_wrong_setting_of_the_last_stage_stops_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    with pytest.raises(ConfigError, match="wrong"):
        run_stages([Stage("a", ()), Stage("b", ("wrong",))], tmp_path)
    assert recorder.calls == []


def test_a_line_can_be_typed_into_a_shell() -> None:
    assert Stage("a", ("x=1", "y=[1, 2]")).line() == "worldflow a x=1 'y=[1, 2]'"
    odd = ("x='a b'", "y=$HOME", "z=a;b", "w=(1)")
    assert shlex.split(Stage("a", odd).line()) == ["worldflow", "a", *odd]


def test_what_follows_a_stage_belongs_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorder(monkeypatch)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages([Stage("a", (), finish=fail)], tmp_path)
    assert not json.loads((tmp_path / RECORD).read_text())["a"]["done"]
    done: list[str] = []
    for _ in range(2):
        run_stages([Stage("a", (), finish=lambda: done.append("a"))], tmp_path)
    assert done == ["a"]


ODD = ["a, b (c) [d] {e}", "it's", "back\\slash's", "a=b", '"quoted"', "über 50%", "null", "1"]


@pytest.mark.parametrize("name", [*ODD, ".", "/plain/path"])
def test_any_folder_can_be_named(name: str) -> None:
    out = Path(name)
    found = {}
    for stage in road(replace(load_config("demo", DemoConfig, []), out=name)):
        command = stages.COMMANDS[stage.command]
        found[stage.command] = load_config(command.config, command.load()[1], stage.overrides)
    assert found["collect"].out == str(out / "data")
    assert found["pretrain"].data.path == str(out / "data")
    assert found["pretrain"].out == str(out / "pretrain")
    for command in ("evaluate", "train-agent"):
        assert found[command].world.path == str(out / "world")
    assert found["evaluate"].data.path == str(out / "data")
    assert found["train-agent"].out == found["evaluate-agent"].agent.path == str(out / "agent")
    assert found["evaluate-agent"].out == str(out / "agent_evaluation.json")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_agent_learns_the_game_in_its_dream(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    assert main(["demo", f"out={out}"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["share_of_optimum"] >= 0.9
    assert summary["seconds"]["total"] <= 900


@pytest.mark.parametrize("name", choices("preset"))
def test_the_road_of_every_preset_is_valid(name: str) -> None:
    config = load_config("demo", DemoConfig, [f"preset={name}"])
    for stage in road(config):
        command = stages.COMMANDS[stage.command]
        load_config(command.config, command.load()[1], stage.overrides)


def test_optimum_is_known_for_catch_only() -> None:
    settings = {"drift": 0.0, "paddle_width": 2}
    assert optimum({"env_id": "worldflow/Catch-v0", "kwargs": settings}) == 1.0
    assert optimum({"env_id": "worldflow/Catch-v0", "frame_skip": 2}) is None
    assert optimum({"env_id": "worldflow/TakeCover-v0"}) is None


def test_summary_of_known_results() -> None:
    row = {"low": 0.0, "high": 1.0, "episodes": 3}
    results = [
        {"place": place, "policy": policy, "mean": mean, **row}
        for place, policy, mean in (
            ("dream", "random", 0.1),
            ("dream", "agent", 0.9),
            ("real", "random", -0.6),
            ("real", "agent", 0.5),
        )
    ]
    summary = summarize(results, 0.8)
    assert summary["random_return"] == -0.6
    assert summary["dream_agent_return"] == 0.5
    assert summary["dream_agent_return_in_dream"] == 0.9
    assert summary["share_of_optimum"] == pytest.approx(0.625)
    unknown = summarize(results, None)
    assert unknown["share_of_optimum"] is None
    assert "optimum" not in returns_chart(unknown)
    assert "optimum: 0.800" in returns_chart(summary)
