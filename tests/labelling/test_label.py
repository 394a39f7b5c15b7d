"""`worldflow data label` on tiny worlds and datasets: what is written, resumed and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from worldflow.actions import ActionSpec
from worldflow.cli import main as cli
from worldflow.config import compose_config, load_config
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.data.splitting import split
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.simulate import clip_noise
from worldflow.labelling.label import LabelConfig, label
from worldflow.labelling.posterior import action_posterior
from worldflow.storage import load_world, save_world
from worldflow.testing import tiny_world
from worldflow.world_spec import HeldOut

SIZE = 32
DISCRETE = ActionSpec("discrete", n=3)
BOX = ActionSpec("box", low=(-1.0,), high=(1.0,))
LENGTHS = [5, 3, 1, 6]

Run = Callable[..., tuple[EpisodeDataset, dict[str, Any]]]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., None]:
    """Makes the world `w` and the dataset `src`, of which episode 1 does not know its actions."""

    def both(
        spec: ActionSpec = DISCRETE,
        held: ActionSpec | None = None,
        size: int = SIZE,
        fps: float = 8,
    ) -> None:
        world = tiny_world(spec, SIZE)
        if spec.kind == "discrete":  # alike enough for more than one to stay possible
            world.conditioning.table.weight *= 0.3
        world.spec = replace(world.spec, held_out=HeldOut(0.5, 0, len(LENGTHS)))
        save_world(world, tmp_path / "w", "card")
        held = held or spec
        metadata = DatasetMetadata(
            {"videos": "x"}, held, (size, size, 3), fps, 7, {"by": "hand"}, lossy="h264 video"
        )
        writer, rng = EpisodeWriter(tmp_path / "src", metadata), np.random.default_rng(0)
        for index, length in enumerate(LENGTHS):
            frames = rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8)
            actions = np.zeros((length, *held.shape), held.dtype)
            known = np.full(length, index != 1)
            if index != 1 and held.kind != "none":
                actions[1:] = 1
            rewards = rng.random(length, dtype=np.float32)
            ended = np.arange(length) == length - 1
            writer.add(index, Episode(frames, actions, rewards, ended, known, index, index == 0))

    return both


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def command(*overrides: str) -> tuple[EpisodeDataset, dict[str, Any]]:
        given = [f"src={tmp_path / 'src'}", f"world={tmp_path / 'w'}", f"out={tmp_path / 'out'}"]
        settings = ["progress=false", "batch=2", "candidates=8", "rounds=2", *overrides]
        return label(load_config("data_label", LabelConfig, [*given, *settings]))

    return command


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_labelled_dataset(make: Callable[..., None], run: Run, tmp_path: Path) -> None:
    make()
    labelled, figures = run("threshold=0.8")
    source = EpisodeDataset(tmp_path / "src")
    metadata = labelled.metadata
    assert replace(metadata, collect={"by": "hand"}) == source.metadata
    assert metadata.collect["source"] == {"by": "hand"}
    assert metadata.collect["labelled"]["by"]["beam"] == 4
    world, certain = load_world(tmp_path / "w"), 0
    assert labelled.lengths.tolist() == LENGTHS
    for index in range(len(LENGTHS)):
        before, after = source.read(index), labelled.read(index)
        for name in ("frames", "rewards", "terminated"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
        assert (before.seed, before.truncated) == (after.seed, after.truncated)
        frames = torch.from_numpy(before.frames)[None]
        found = action_posterior(world, frames, [clip_noise(0, index)], beam=4, delay=1)
        posterior = found.log_posterior[0].exp().numpy()
        labels = load_file(tmp_path / "out" / "labels" / f"{index:06d}.safetensors")
        assert labels["posterior"].shape == (LENGTHS[index], 3)
        np.testing.assert_allclose(labels["posterior"], posterior, atol=1e-4)
        assert labels["posterior"].dtype == labels["entropy"].dtype == np.float32
        entropy = -(posterior * np.log(posterior)).sum(1)
        np.testing.assert_allclose(labels["entropy"], entropy, atol=1e-3)
        spread = np.ptp(found.log_likelihood[0].numpy(), axis=1)
        np.testing.assert_allclose(labels["spread"], spread, atol=1e-2)
        known = posterior.max(1) >= 0.8
        np.testing.assert_array_equal(after.known[1:], known[1:])
        expected = np.where(known, posterior.argmax(1), 0)
        np.testing.assert_array_equal(after.actions[1:], expected[1:])
        assert after.actions[0] == 0 and after.known[0] == before.known[0]
        certain += int(known[1:].sum())
    assert 0 < certain < 11
    assert figures["transitions"] == 11 and figures["labelled"] == pytest.approx(certain / 11)
    assert figures["truth"]["transitions"] == 9  # those of episode 1 are not known
    assert (tmp_path / "out" / "reliability.png").is_file()
    assert json.loads((tmp_path / "out" / "labelling.json").read_text()) == figures


def test_recorded_actions_are_not_looked_at(
    make: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    """The same video without its actions, of kind "none", has the same labels."""
    make()
    with_truth, figures = run()
    (tmp_path / "src").rename(tmp_path / "old")
    make(held=ActionSpec("none"))
    without, bare = run(f"out={tmp_path / 'bare'}")
    assert without.action_spec == DISCRETE and bare["truth"] is None and figures["truth"]
    for index in range(len(LENGTHS)):
        one, two = with_truth.read(index), without.read(index)
        np.testing.assert_array_equal(one.actions, two.actions)
        np.testing.assert_array_equal(one.known[1:], two.known[1:])


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    make: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    make()
    run()
    out = tmp_path / "out"
    before = contents(out)
    untouched = (out / "episodes" / "000001.safetensors").stat().st_mtime_ns
    (out / "episodes" / "000000.safetensors").unlink()
    (out / "labels" / "000003.safetensors").unlink()
    run()
    assert contents(out) == before
    assert (out / "episodes" / "000001.safetensors").stat().st_mtime_ns == untouched


def test_a_finished_run_infers_nothing(
    make: Callable[..., None], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    _, first = run()
    monkeypatch.setattr("worldflow.labelling.label.padded_draws", None)
    assert run()[1] == first


@pytest.mark.parametrize(
    "override", ["beam=8", "seed=1", "temper=0.5", "threshold=0.1", "world=w2"]
)
def test_a_run_with_other_settings_is_refused(
    override: str, make: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    make()
    save_world(tiny_world(DISCRETE, SIZE, seed=1), tmp_path / "w2", "card")
    run()
    override = override.replace("w2", str(tmp_path / "w2"))
    with pytest.raises(DataError, match=r"'collect'.*same settings"):
        run(override)


def test_a_retrained_world_does_not_continue_the_run(
    make: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    make()
    run()
    save_world(tiny_world(DISCRETE, SIZE, seed=1), tmp_path / "w", "card")
    with pytest.raises(DataError, match="same settings"):
        run()


def test_only_held_out_episodes(make: Callable[..., None], run: Run, tmp_path: Path) -> None:
    make()
    labelled, figures = run("held_out_only=true")
    held_out = split(LENGTHS, 0.5, 0)[1]
    assert [int(path.stem) for path in labelled.paths] == held_out.tolist()
    assert figures["episodes"] == len(held_out) == 2
    assert labelled.lengths.tolist() == [LENGTHS[i] for i in held_out]


def test_a_temper_changes_how_sure_labels_are_but_not_their_order(
    make: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    make()
    run()
    run("temper=0.5", f"out={tmp_path / 'half'}")
    exact = load_file(tmp_path / "out" / "labels" / "000003.safetensors")
    half = load_file(tmp_path / "half" / "labels" / "000003.safetensors")
    np.testing.assert_array_equal(exact["log_posterior"], half["log_posterior"])
    expected = np.sqrt(exact["posterior"])
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(half["posterior"], expected, rtol=1e-4)


def test_a_prior_and_noise_samples_reach_the_posterior(
    make: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    make()
    run("prior=[0.7,0.2,0.1]", "noise_samples=2", "beam=1", "delay=0")
    world, source = load_world(tmp_path / "w"), EpisodeDataset(tmp_path / "src")
    frames = torch.from_numpy(source.read(3).frames)[None]
    found = action_posterior(
        world, frames, [clip_noise(0, 3)], prior=(0.7, 0.2, 0.1), beam=1, noise_samples=2
    )
    labels = load_file(tmp_path / "out" / "labels" / "000003.safetensors")
    np.testing.assert_allclose(labels["posterior"], found.log_posterior[0].exp(), atol=1e-4)
    np.testing.assert_allclose(labels["posterior"][0], [0.7, 0.2, 0.1], atol=1e-6)


def test_box_actions(make: Callable[..., None], run: Run, tmp_path: Path) -> None:
    make(BOX)
    labelled, figures = run("threshold=0.3")
    assert labelled.action_spec == BOX
    labels = load_file(tmp_path / "out" / "labels" / "000003.safetensors")
    assert labels["action"].shape == (6, 1) and (labels["entropy"] < 0.05).all()
    episode = labelled.read(3)
    known = 1 - np.exp(labels["entropy"]) >= 0.3
    assert len(set(known[1:].tolist())) == 2
    np.testing.assert_array_equal(episode.known[1:], known[1:])
    expected = np.where(known[:, None], labels["action"], 0)
    np.testing.assert_array_equal(episode.actions[1:], expected[1:])
    assert figures["truth"]["transitions"] == 9
    with pytest.raises(ConfigError, match="noise_samples=2"):
        run("noise_samples=2", f"out={tmp_path / 'other'}")


def test_what_does_not_fit_is_named(make: Callable[..., None], run: Run, tmp_path: Path) -> None:
    make(size=16)
    with pytest.raises(DataError, match=r"frame_shape \(16, 16, 3\).*\(32, 32, 3\)"):
        run()
    make_again = tmp_path / "src"
    make_again.rename(tmp_path / "small")
    make(fps=30.0)
    with pytest.raises(DataError, match="fps 30 is not the world's 8"):
        run()
    assert not (tmp_path / "out").exists()


def test_a_world_without_actions_labels_nothing(make: Callable[..., None], run: Run) -> None:
    make(ActionSpec("none"))
    with pytest.raises(DataError, match="nothing to choose between"):
        run()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("threshold=1.1", r"threshold=1\.1"),
        ("temper=-1", "temper=-1"),
        ("batch=0", "batch=0"),
        ("seed=-1", "seed=-1"),
    ],
)
def test_bad_settings_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("data_label", LabelConfig, ["src=a", "world=b", "out=c", override])


def test_the_yaml_fits_its_dataclass_and_sets_every_field() -> None:
    node = compose_config("data_label", LabelConfig, [])
    assert set(LabelConfig.__dataclass_fields__) == set(node)
    written = load_config("data_label", LabelConfig, ["src=a", "world=b", "out=c"])
    assert written == LabelConfig(src="a", world=written.world, out="c")


def test_the_command_line(
    make: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    arguments = [str(tmp_path / "src"), f"world={tmp_path / 'w'}", f"out={tmp_path / 'out'}"]
    assert cli(["data", "label", *arguments, "progress=false"]) == 0
    said = capsys.readouterr().out
    assert "4 episodes" in said and "of 11 labelled" in said and "accuracy" in said
    assert len(EpisodeDataset(tmp_path / "out")) == len(LENGTHS)
    assert cli(["data", "label", *arguments, "beam=0"]) == 2
    assert "beam=0" in capsys.readouterr().err


def test_kill_9_at_any_moment_loses_nothing_and_labels_nothing_twice(
    make: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    """And what was killed is no dataset until the same command has brought it to its end."""
    make()
    source, out = EpisodeDataset(tmp_path / "src"), tmp_path / "out"
    writer = EpisodeWriter(tmp_path / "src", source.metadata)
    for index in range(len(LENGTHS), 12):
        writer.add(index, source.read(index % len(LENGTHS)))
    command = [sys.executable, "-m", "worldflow", "data", "label", str(tmp_path / "src")]
    command += [f"world={tmp_path / 'w'}", f"out={out}", "batch=2", "progress=false"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    seen: dict[Path, int] = {}
    for labelled in (1, 5):

        def reached(labelled: int = labelled) -> bool:
            return len(list(out.glob("episodes/*.safetensors"))) >= labelled

        process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        while process.poll() is None and not reached():
            time.sleep(0.0005)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(path.stat().st_mtime_ns == when for path, when in seen.items())
        seen = {path: path.stat().st_mtime_ns for path in out.glob("episodes/*.safetensors")}
        assert labelled <= len(seen) < 12
        with pytest.raises(DataError, match="a labelling that did not come to its end"):
            EpisodeDataset(out)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in what was killed: their number decides how sums are rounded
    try:
        for folder in (out, tmp_path / "whole"):
            run("candidates=64", "rounds=3", f"out={folder}")
    finally:
        torch.set_num_threads(threads)
    assert all(path.stat().st_mtime_ns == when for path, when in seen.items())
    assert len(EpisodeDataset(out)) == 12
    before, after = contents(tmp_path / "whole"), contents(out)
    assert before.pop("labelling.json") != after.pop("labelling.json")  # it names the folder
    assert after == before


def test_parts_of_a_recording_stay_parts_of_it(
    make: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    make()
    source = EpisodeDataset(tmp_path / "src")
    writer = EpisodeWriter(tmp_path / "src", source.metadata)
    for index in (1, 3):
        writer.add(index, replace(source.read(index), recording="a.mp4"))
    labelled, _ = run("held_out_only=false")
    assert [labelled.recording_of(k) for k in range(4)] == [None, "a.mp4", None, "a.mp4"]
