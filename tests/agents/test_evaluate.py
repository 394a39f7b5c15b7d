"""Evaluation: figures with known answers, one report for dream and reality."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.agents import evaluate
from worldflow.agents.evaluate import (
    AgentPath,
    EvaluateAgentConfig,
    EvaluationWorld,
    evaluate_agent,
)
from worldflow.agents.play import Played
from worldflow.agents.reality import codec_eyes, make_real
from worldflow.agents.summary import FOOTER, Summary, table
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.errors import ConfigError, WorldFormatError
from worldflow.storage import save_world
from worldflow.testing import tiny_world

Quick = Callable[..., TrainAgentConfig]


def settings(agent: Path, **changes: object) -> EvaluateAgentConfig:
    return EvaluateAgentConfig(
        **{"agent": AgentPath(str(agent)), "episodes": 5, "num_envs": 3, "progress": False}
        | changes  # type: ignore[arg-type]
    )


def test_four_plays_in_one_report(quick: Quick, capsys: pytest.CaptureFixture) -> None:
    out = train_agent(quick(16))
    evaluate.main(settings(out))
    printed = capsys.readouterr().out
    named = ("dream random", "dream agent", "real random", "real agent", "95% interval", FOOTER)
    for name in named:
        assert name in printed
    report = json.loads((out / "evaluation.json").read_text())
    assert report["settings"]["episodes"] == 5
    results = {(row["place"], row["policy"]): row for row in report["results"]}
    assert len(results) == 4
    for (place, _), row in results.items():
        assert len(row["returns"]) == len(row["lengths"]) == row["episodes"] == 5
        assert row["mean"] == pytest.approx(np.mean(row["returns"]))
        assert row["low"] <= row["mean"] <= row["high"]
        if place == "real":  # Catch: seven steps to the ground
            assert row["lengths"] == [7] * 5
            assert set(row["returns"]) <= {-1.0, 1.0}
        else:
            assert max(row["lengths"]) <= 5  # the horizon of the training


def test_same_seed_same_figures_for_any_number_of_rows_in_reality(quick: Quick) -> None:
    out = train_agent(quick(16))
    first, again = (evaluate_agent(settings(out)) for _ in range(2))
    assert first == again
    real = evaluate_agent(settings(out, dream=False, num_envs=2))
    assert real == first[2:]


def test_the_world_of_the_dream_can_be_changed(quick: Quick, tmp_path: Path) -> None:
    out = train_agent(quick(16))
    other = tmp_path / "other"
    save_world(tiny_world(seed=5), other, "another\n")
    world = EvaluationWorld(path=str(other), horizon=2, temperature=0.5)
    dream = evaluate_agent(settings(out, real=False, world=world))
    assert [row.place for row in dream] == ["dream", "dream"]
    assert max(dream[0].lengths) <= 2


def test_stacked_agents_and_codec_eyes(quick: Quick) -> None:
    out = train_agent(quick(16, frame_stack=2))
    real = evaluate_agent(settings(out, dream=False, eyes="codec", deterministic=False))
    assert [row.episodes for row in real] == [5, 5]
    world = tiny_world()
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    seen = codec_eyes(world)(frames)
    assert seen.shape == frames.shape
    assert seen.dtype == np.uint8
    assert not np.array_equal(seen, frames)


def test_summary_of_known_returns() -> None:
    played = Played(np.array([1.0, -1.0, 1.0, 1.0]), np.array([7, 7, 7, 3]))
    summary = Summary.of("real", "agent", played)
    assert summary.mean == 0.5
    assert summary.std == pytest.approx(1.0)
    assert summary.mean_length == 6.0
    assert -0.5 <= summary.low < 0.5 < summary.high == 1.0
    alone = Summary.of("real", "agent", Played(np.array([2.0]), np.array([4])))
    assert (alone.std, alone.low, alone.high) == (0.0, 2.0, 2.0)
    lines = table([summary, alone]).splitlines()
    assert "0.50" in lines[1]
    assert "[2.00, 2.00]" in lines[2]
    assert len({len(line) for line in lines}) == 1


def test_the_agents_own_world_may_not_change_unnoticed(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_world(tiny_world(), "mine", "a tiny world\n")
    out = train_agent(quick(16, world="mine"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # the agent knows its world from anywhere
    before = evaluate_agent(settings(out, real=False))
    save_world(tiny_world(seed=5), tmp_path / "mine", "another\n")
    with pytest.raises(ConfigError, match=r"mine has changed.*world="):
        evaluate_agent(settings(out, real=False))
    told = EvaluationWorld(path=str(tmp_path / "mine"))
    after = evaluate_agent(settings(out, real=False, world=told))
    assert [row.episodes for row in after] == [5, 5]
    assert after != before
    (tmp_path / "mine").rename(tmp_path / "gone")
    with pytest.raises(WorldFormatError, match="mine"):
        evaluate_agent(settings(out, real=False))


def test_the_real_game_has_the_limit_of_the_recorded_one(quick: Quick, tmp_path: Path) -> None:
    world = tiny_world()
    world.spec.source["max_episode_steps"] = 3
    save_world(world, tmp_path / "short", "Catch, cut\n")
    out = train_agent(quick(16, world=tmp_path / "short"))
    assert [row.lengths for row in evaluate_agent(settings(out, dream=False))] == [[3] * 5] * 2


def test_a_world_from_before_max_episode_steps_opens_its_game() -> None:
    world = tiny_world()
    world.spec.source.update(
        {"env_id": "worldflow/Catch-v0", "fps": None, "frame_size": 64, "frame_skip": 1}
    )
    world.spec.source["kwargs"] = {}
    make_real(world, 1, "frames").close()


def test_agents_that_draw_do_so_alike_whatever_is_played_before(quick: Quick) -> None:
    out = train_agent(quick(16))
    both = evaluate.evaluate_agent(settings(out, deterministic=False))
    alone = evaluate.evaluate_agent(settings(out, deterministic=False, dream=False))
    assert [row.returns for row in both if row.place == "real"] == [row.returns for row in alone]


def test_bad_settings(quick: Quick, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed is -1; it must be at least 0"):
        settings(tmp_path, seed=-1)
    for name, changes in {
        "episodes": {"episodes": 0}, "num_envs": {"num_envs": 0}, "eyes": {"eyes": "sharp"},
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            EvaluateAgentConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"agent\.yaml"):
        evaluate_agent(settings(tmp_path))
    out = train_agent(quick(16))
    with pytest.raises(ConfigError, match="nothing to play"):
        evaluate_agent(settings(out, dream=False, real=False))
    boxed = tmp_path / "boxed"
    save_world(tiny_world(ActionSpec("box", low=(-1.0,), high=(1.0,))), boxed, "boxed\n")
    with pytest.raises(ConfigError, match="own world"):
        evaluate_agent(settings(out, world=EvaluationWorld(path=str(boxed))))
    with pytest.raises(ConfigError, match="actions"):
        make_real(tiny_world(ActionSpec("discrete", n=4)), 1, "frames")
    with pytest.raises(ConfigError, match="frames"):
        make_real(tiny_world(frame_size=48), 1, "frames")
    video_only = tiny_world()
    video_only.spec.source.clear()
    with pytest.raises(ConfigError, match="real=false"):
        make_real(video_only, 1, "frames")
