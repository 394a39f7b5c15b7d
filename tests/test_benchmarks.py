"""The benchmark commands run and say what is wrong; how fast anything is, is not tested."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldflow import cli
from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.storage import save_world
from worldflow.testing import tiny_world

ROOT = Path(__file__).resolve().parent.parent
TINY_TRAINING = (
    "world.context=1",
    "world.condition=8",
    "world.codec={channels: 2, widths: [8, 8, 8, 8]}",
    "world.flow.global_block.past={width: 16, depth: 2, heads: 2}",
    "world.flow.global_block.within={width: 8, depth: 1, heads: 2}",
    "world.flow.local={width: 8, depth: 1, heads: 2}",
    "world.denoiser.transformer={width: 16, depth: 1, heads: 2}",
    "training.codec.batch=4",
    "training.flow={batch: 2, clip: 3}",
)


def run_benchmark(script: str, *arguments: str) -> str:
    """Run a command: what it prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def figures_of(script: str, out: Path, *arguments: str) -> tuple[dict[str, Any], list[str]]:
    """Run a command with `out=`: its figures, and the headers of the tables that it prints."""
    lines = run_benchmark(script, *arguments, f"out={out}").splitlines()
    assert "torch" in lines[0]
    headers = [lines[i - 1] for i, line in enumerate(lines) if line.startswith("| ---")]
    figures = json.loads(out.read_text())
    assert all(math.isfinite(number) for number in _numbers(figures))
    assert [path.name for path in out.parent.iterdir() if "partial" in path.name] == []
    return figures, headers


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


def refusal(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> str:
    """Run a command in this process, which is faster; what it says when it refuses."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
    assert capsys.readouterr().out == ""
    assert isinstance(stopped.value.code, str)  # printed on stderr, with exit status 1
    return stopped.value.code


def test_step_prints_all_tables(tmp_path: Path) -> None:
    save_world(tiny_world(), tmp_path / "world", "card")
    sizes = ("rows=[1,3]", "steps=3", "paired_steps=2", "warmup=1")
    lengths = ("long_steps=16", "memory_steps=4")
    figures, headers = figures_of(
        "step.py", tmp_path / "step.json", f"world={tmp_path / 'world'}", *sizes, *lengths
    )
    assert len(headers) == 7
    env_steps = figures["env_steps"]
    assert [(row["rows"], row["sampler"]) for row in env_steps] == [
        (1, "jacobi"),
        (1, "sequential"),
        (3, "jacobi"),
        (3, "sequential"),
    ]
    for row in env_steps:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert all(1 <= passes <= 16 for passes in row["passes"])
    assert env_steps[1]["passes"] == env_steps[3]["passes"] == [16, 16, 16]
    for name in ("speedup", "parts", "floor"):
        assert [row["rows"] for row in figures[name]] == [1, 3]
        assert all(value > 0 for row in figures[name] for value in row.values())
    step, once = figures["operations"]
    assert step["flow_gflop"] > once["flow_gflop"] > 0
    assert step["decoder_gflop"] == once["decoder_gflop"] > 0
    assert step["denoiser_and_heads_gflop"] == once["denoiser_and_heads_gflop"] > 0
    early, late, fresh = figures["long_dream"]["rows"]
    assert (early["steps"], late["steps"], fresh["steps"]) == ("10 to 12", "13 to 15", "10 to 12")
    assert early["passes"] == fresh["passes"]  # one seed: the same dream
    assert [row["after_steps"] for row in figures["memory"]] == [2, 4]
    assert all(row["resident_mib"] > 1 for row in figures["memory"])


def test_train_prints_all_tables(tmp_path: Path) -> None:
    out = tmp_path / "train.json"
    figures, headers = figures_of("train.py", out, "updates=2", "warmup=1", *TINY_TRAINING)
    assert len(headers) == 4
    assert [row["frames_per_update"] for row in figures["updates"]] == [4, 6]
    assert [row["part"] for row in figures["parts"]["flow"]] == [
        "batch preparation",
        "flow forward and backward",
        "denoiser and heads forward and backward",
        "clipping and optimizer",
    ]
    assert all(row["ms"] > 0 for rows in figures["parts"].values() for row in rows)
    assert figures["score_target"][0]["ratio_to_none"] == 1.0
    assert len(figures["score_target"]) == 3


def test_data_prints_all_tables(tmp_path: Path) -> None:
    sizes = ("episodes=2", "frames=6", "large=[64,96]", "rounds=2", "reads=2")
    updates = ("updates=1", "warmup=1")
    figures, headers = figures_of(
        "data.py", tmp_path / "data.json", *sizes, *updates, *TINY_TRAINING
    )
    assert len(headers) == 3
    assert [row["recordings"] for row in figures["imported"]] == [
        "store, 64 x 64",
        "npz, 64 x 64",
        "hdf5, 64 x 64",
        "minari, JPEG, 64 x 64",
        "video, FFV1, 64 x 64",
        "video, H.264, 64 x 64",
        "lerobot, AV1, 64 x 64",
        "video, FFV1, 64 x 96",
        "video, H.264, 64 x 96",
        "lerobot, AV1, 64 x 96",
    ]
    for name in ("consumed", "read"):
        assert [row["stage"] for row in figures[name]] == ["codec", "flow"]
        assert all(row["frames_per_second"] > 0 for row in figures[name])
    for row in figures["imported"]:
        assert row["frames_per_second"] > 0
        assert row["times_codec"] > 0 < row["times_flow"]


def test_data_measures_given_recordings(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (6, 80, 72, 3), dtype=np.uint8)
    for name in ("a", "b"):
        np.savez(folder / f"{name}.npz", frames=frames)
    sizes = ("rounds=1", "reads=1", "updates=1", "warmup=0")
    figures, headers = figures_of(
        "data.py", tmp_path / "data.json", f"data={folder}", *sizes, *TINY_TRAINING
    )
    assert len(headers) == 3
    assert [row["recordings"] for row in figures["imported"]] == ["npz"]


def write_episodes(folder: Path) -> None:
    """Twenty short episodes of noise with two actions."""
    spec, rng = ActionSpec("discrete", n=2), np.random.default_rng(0)
    writer = EpisodeWriter(folder, DatasetMetadata({}, spec, (64, 64, 3), 8.0, 0, {}))
    for index in range(20):
        episode = Episode(
            frames=rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8),
            actions=rng.integers(0, 2, 6),
            rewards=np.zeros(6, np.float32),
            terminated=np.zeros(6, np.bool_),
            known=np.arange(6) > 0,
            seed=index,
            truncated=True,
        )
        writer.add(index, episode)


def test_joint_compares_both_ways_of_training(tmp_path: Path) -> None:
    write_episodes(tmp_path / "data")
    steps = ("training.codec.steps=2", "training.flow.steps=2", "training.joint.steps=2")
    clips = ("training.joint.batch=2", "training.joint.clip=3", "clips=2", "samples=1")
    words = (f"data={tmp_path / 'data'}", *TINY_TRAINING, *steps, *clips)
    run_benchmark("joint.py", *words, f"out={tmp_path / 'out'}")
    rows = json.loads((tmp_path / "out/joint.json").read_text())["rows"]
    assert [row["codec"] for row in rows] == ["two-stage", "joint"]
    for row in rows:
        bits = {
            name: value["mean"] for name, value in row["estimates"].items() if "PSNR" not in name
        }
        assert len(bits) == 3 < len(row["estimates"])
        total = bits.pop("bits per dimension")
        assert total == pytest.approx(sum(bits.values()), rel=1e-3)
        assert row["seconds of training"] > 0


def test_label_gain_compares_three_worlds(tmp_path: Path) -> None:
    write_episodes(tmp_path / "data")
    steps = ("training.codec.steps=2", "training.flow.steps=2", f"data={tmp_path / 'data'}")
    cli.run("pretrain", [*TINY_TRAINING, *steps, f"out={tmp_path / 'run'}"])
    few = "[training.flow.steps=2,training.flow.clip=3,training.flow.batch=2,world.context=1]"
    settings = [word for word in TINY_TRAINING if word.startswith("world.")]
    pretraining = f"pretrain=[{','.join(json.dumps(word) for word in settings)},{few[1:]}"
    out = run_benchmark(
        "label_gain.py",
        f"data={tmp_path / 'data'}",
        f"world={tmp_path / 'run/world'}",
        pretraining,
        "label=[beam=1,delay=0,threshold=0]",
        f"out={tmp_path / 'out'}",
    )
    figures = json.loads((tmp_path / "out/label_gain.json").read_text())
    names = [row["actions in training"] for row in figures["nll"]]
    assert names == ["few true", "few true, others inferred", "all true"]
    assert (figures["few"], figures["others"], figures["labelled"]) == (2, 16, 1.0)
    assert 0.0 < figures["right"] < 1.0  # guesses, of a world that learned nothing
    known = {
        name: [made.steps_of(k).known[1:].all() for k in range(count)]
        for name, count in (("few", 2), ("unlabelled", 16), ("inferred", 18), ("all", 18))
        if (made := EpisodeDataset(tmp_path / "out" / name))
    }
    assert not any(known["unlabelled"]) and all(known["few"] + known["inferred"] + known["all"])
    # after two updates an action has hardly an effect yet; the data of the first world are others
    assert figures["nll"][0]["NLL"] != figures["nll"][2]["NLL"]
    assert "were labelled" in out


def test_dream_table_is_made_of_its_cells(tmp_path: Path) -> None:
    world = tiny_world()
    save_world(world, tmp_path / "world", "card")
    rollout = "agent.hyperparameters={n_steps: 8, batch_size: 16, n_epochs: 1, features_dim: 16}"
    few = ["agent.num_envs=2", rollout, "world.horizon=5", "total_steps=16", "evaluation.every=0"]
    words = (
        f"world={tmp_path / 'world'}",
        f"train=[{','.join(json.dumps(word) for word in [*few, 'progress=false'])}]",
        "temperatures=[1.0]",
        "variants=[neither,truncation]",
        "seeds=2",
        "real=false",
        "episodes=2",
        f"out={tmp_path / 'out'}",
    )
    out = run_benchmark("dream_table.py", *words, "cells=[random,t1_neither_*]")
    assert json.loads((tmp_path / "out/table.json").read_text())["missing"] == [
        "t1_truncation_s0",
        "t1_truncation_s1",
    ]
    assert "truncation" not in out
    out = run_benchmark("dream_table.py", *words)
    assert out == (tmp_path / "out/table.md").read_text()
    figures = json.loads((tmp_path / "out/table.json").read_text())
    assert [row["variant"] for row in figures["rows"]] == [None, "neither", "truncation"]
    assert figures["missing"] == [] and figures["comparisons"][0]["difference"]["count"] == 2
    assert run_benchmark("dream_table.py", *words, "report_only=true") == out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["world=catch", "out=nowhere", "report_only=true"], "nowhere has no finished cell"),
        (["world=catch", "out=nowhere", "cells=[t9*]"], "t9* names none of random"),
        (["world=catch", "out=nowhere", "train=[real=true]"], "real is the grid's own"),
    ],
)
def test_dream_table_names_bad_settings(
    words: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert problem in refusal("dream_table.py", monkeypatch, capsys, *words)


def test_presets_prints_all_tables(tmp_path: Path) -> None:
    chosen = ("presets=[catch,small]", "frame_sizes=[64,64]", "timed=[catch]")
    figures, headers = figures_of(
        "presets.py", tmp_path / "presets.json", *chosen, "check_clip=3", "repeats=1"
    )
    assert len(headers) == 4
    assert [row["preset"] for row in figures["parameters"]] == ["catch", "small"]
    for row in figures["parameters"]:
        parts = [value for key, value in row.items() if isinstance(value, float) and key != "all"]
        assert sum(parts) == pytest.approx(row["all"])
    assert [row["precision"] for row in figures["checks"]] == ["fp32"] * 2 + ["bf16"] * 2 + ["fp32"]
    for row in figures["checks"]:
        # the smallest of worlds, where what is not counted weighs most
        assert row["computed_to_measured"] == pytest.approx(1.0, abs=0.25)
    small, fp32 = figures["memory"][1], figures["checks"][0]
    assert small["a_clip_checkpointed"] < small["a_clip"]
    assert fp32["seconds"] > 0
    assert [row["update_s_measured"] == "not run" for row in figures["times"]] == [False, True]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["presets=[tiny]", "frame_sizes=[64]"],
            "no tiny; there are base, catch, large, multi, small, translation",
        ),
        (["presets=[small]"], "equally many"),
        (["timed=[catch]"], "timed=['catch']"),
        (["repeats=0"], "repeats=0"),
        (["out=nowhere/presets.json"], "out=nowhere/presets.json"),
    ],
)
def test_presets_names_bad_settings(
    words: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert problem in refusal("presets.py", monkeypatch, capsys, *words)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["world=atlantis"], "no world 'atlantis'"),
        (["wrold=x"], "wrold"),
        (["world=catch", "steps=many"], "steps"),
        (["world=catch", "rows=[0]"], "rows=[0]"),
        (["world=catch", "long_steps=5"], "long_steps=5"),
        (["world=catch", "out=nowhere/step.json"], "out=nowhere/step.json"),
        ([], "world"),
    ],
)
def test_step_names_bad_settings(
    words: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert problem in refusal("step.py", monkeypatch, capsys, *words)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["updtes=3"], "did you mean 'updates'"),
        (["updates=0"], "updates=0"),
        (["out=nowhere/train.json"], "out=nowhere/train.json"),
    ],
)
def test_train_names_bad_settings(
    words: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert problem in refusal("train.py", monkeypatch, capsys, *words)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["frmes=3"], "did you mean 'frames'"),
        (["episodes=1"], "episodes=1"),
        (["updates=0"], "updates=0"),
        (["large=[240]"], "large=[240]"),
        (["data=nowhere"], "nowhere does not exist"),
        (["out=nowhere/data.json"], "out=nowhere/data.json"),
    ],
)
def test_data_names_bad_settings(
    words: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert problem in refusal("data.py", monkeypatch, capsys, *words)
