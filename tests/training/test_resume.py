"""`resume=FOLDER`: a run goes on with its own settings, where it is or in another folder."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import tiny_pretraining, write_dataset

from worldflow import cli
from worldflow.actions import ActionSpec
from worldflow.config import flatten
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.saved_config import differences, restore_config
from worldflow.storage import load_world
from worldflow.training import pretrain
from worldflow.training import resume as resuming
from worldflow.training.checkpoint import Progress, read_progress
from worldflow.training.flow_stage import FlowStage
from worldflow.training.pretrain import PretrainConfig, main


def interrupt(config: PretrainConfig, step: int) -> None:
    """Run until the flow's update `step`, and stop there as Ctrl-C does."""
    whole = FlowStage.update

    def update(self: FlowStage, at: int) -> dict[str, torch.Tensor]:
        if at == step:
            raise KeyboardInterrupt
        return whole(self, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlowStage, "update", update)
        with pytest.raises(KeyboardInterrupt):
            main(config)


def resume(*overrides: object) -> Path:
    return main(restore_config("pretrain", PretrainConfig, [str(text) for text in overrides]))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_world(folder).state_dict()


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    return tiny_pretraining(tmp_path / "data", tmp_path / "run")


@pytest.fixture
def expected(config: PretrainConfig, tmp_path: Path) -> dict[str, torch.Tensor]:
    return weights(main(replace(config, out=str(tmp_path / "whole"))))


def test_a_run_goes_on_with_its_own_settings(
    config: PretrainConfig, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    interrupt(config, step=3)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    folder = resume(f"resume={moved}")
    assert folder == moved / "world"
    torch.testing.assert_close(weights(folder), expected, atol=0, rtol=0)


def test_it_goes_on_elsewhere_and_leaves_what_it_came_from(
    config: PretrainConfig, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    interrupt(config, step=3)
    bucket, out = tmp_path / "run", tmp_path / "here"
    before = {p: p.read_bytes() for p in bucket.rglob("*") if p.is_file()}
    folder = resume(f"resume={bucket}", f"out={out}")
    torch.testing.assert_close(weights(folder), expected, atol=0, rtol=0)
    assert {p: p.read_bytes() for p in bucket.rglob("*") if p.is_file()} == before
    assert (out / "report.html").is_file()
    figures = (out / "metrics.jsonl").read_text()
    assert figures == (tmp_path / "whole/metrics.jsonl").read_text()


def test_recordings_under_relative_paths_go_on_from_another_folder(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw recordings, `data=`, `data.imported=`, `from=` and `out=` relative to one folder."""
    steps = ["training.codec.steps=2", "training.flow={steps: 2, batch: 2, clip: 3}"]
    small = ["world.context=1", "world.codec={channels: 2, widths: [8, 8, 8, 8]}"]
    data = ["data=raw", "data.imported=imported", "data.size=32", "data.held_out=0.34"]
    base = main(replace(config, out=str(tmp_path / "base")))
    store = EpisodeDataset(tmp_path / "data")
    (tmp_path / "raw").mkdir()
    for index in range(len(store)):
        episode = store.read(index)
        np.savez(
            tmp_path / f"raw/{index}.npz",
            frames=episode.frames,
            actions=episode.actions,
            rewards=episode.rewards,
            terminated=episode.terminated,
        )
    assert base == tmp_path / "base/world"
    (tmp_path / "elsewhere").mkdir()
    for name, more in (("plain", small), ("finetuned", ["from=base/world", *config_of(base)])):
        monkeypatch.chdir(tmp_path)
        assert cli.main(["pretrain", *data, *steps, *more, f"out={name}"]) == 0
        first = weights(tmp_path / name / "world")
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert cli.main(["pretrain", f"resume=../{name}"]) == 0
        torch.testing.assert_close(weights(tmp_path / name / "world"), first, atol=0, rtol=0)
        assert not list((tmp_path / "elsewhere").iterdir())
    (tmp_path / "raw").rename(tmp_path / "moved")  # the data are mounted at another place
    assert cli.main(["pretrain", "resume=../plain", "data=../moved"]) == 0


def test_a_run_killed_while_it_imports_goes_on(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "open_dataset", lambda *_, **__: exit_now())
        with pytest.raises(KeyboardInterrupt):
            main(config)
    assert load_world(resume(f"resume={tmp_path / 'run'}")).spec.held_out.episodes == 6


def test_sweeps_do_not_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "-m", f"resume={tmp_path}", "training.seed=0,1"]) == 2
    assert "leave out --multirun" in capsys.readouterr().err


def exit_now() -> None:
    raise KeyboardInterrupt


def config_of(world: Path) -> list[str]:
    """The settings of a world, as overrides."""
    settings = flatten(asdict(load_world(world).config))
    return [f"world.{key}={'null' if v is None else v}" for key, v in settings.items()]


def test_a_copy_that_has_gone_on_is_not_fetched_again(
    config: PretrainConfig, tmp_path: Path
) -> None:
    interrupt(config, step=3)
    folder = resume(f"resume={tmp_path / 'run'}", f"out={tmp_path / 'here'}")
    for path in (tmp_path / "run").glob("*.safetensors"):
        path.unlink()
    again = resume(f"resume={tmp_path / 'run'}", f"out={tmp_path / 'here'}")
    torch.testing.assert_close(weights(again), weights(folder), atol=0, rtol=0)


def test_what_contradicts_the_run_is_said_and_changes_nothing(
    config: PretrainConfig, tmp_path: Path
) -> None:
    interrupt(config, step=3)
    saved = (tmp_path / "run/config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"training\.seed was 0 and is 1"):
        resume(f"resume={tmp_path / 'run'}", "training.seed=1")
    assert (tmp_path / "run/config.yaml").read_bytes() == saved


def test_a_setting_that_a_run_of_before_does_not_name_had_its_default(
    config: PretrainConfig,
    expected: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt(config, step=3)

    def of_before(path: Path) -> Progress:
        progress = read_progress(path)
        settings = json.loads(progress.fingerprint)
        del settings["world"]["heads"]["termination_reads"], settings["data"]["growing"]
        del settings["training"]["flow"]["part"], settings["training"]["flow"]["rare"]
        return replace(progress, fingerprint=json.dumps(settings))

    monkeypatch.setattr(resuming, "read_progress", of_before)
    message = r"world\.heads\.termination_reads was frame and is past"
    with pytest.raises(ConfigError, match=message):
        resume(f"resume={tmp_path / 'run'}", "world.heads.termination_reads=past")
    folder = resume(f"resume={tmp_path / 'run'}")
    torch.testing.assert_close(weights(folder), expected, atol=0, rtol=0)


def test_differences_are_by_name_and_what_is_not_named_has_its_default() -> None:
    saved = {"flow": {"depth": 2, "shape": (1, 2)}, "gone": 1, "same": None}
    wanted = {"flow": {"depth": 3, "shape": [1, 2], "part": "all", "rare": 0.5}, "same": None}
    defaults = {"flow": {"depth": 9, "part": "all", "rare": 0.0}, "unheard": 4}
    assert differences(saved, wanted, defaults) == {
        "flow.depth": (2, 3),
        "flow.rare": (0.0, 0.5),
        "gone": (1, None),
    }
    assert not differences(wanted, {"flow": {**wanted["flow"], "rare": 0.5}}, {"same": None})


def test_what_the_result_does_not_depend_on_may_change(
    config: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(config, step=3)
    resume(f"resume={tmp_path / 'run'}", "training.activation_checkpointing=true")
    said = "training.activation_checkpointing was False and is True"
    assert said in capsys.readouterr().out


def test_what_cannot_be_resumed(config: PretrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run.*No such file"):
        resume(f"resume={tmp_path / 'none'}")
    folder = tmp_path / "run"
    interrupt(config, step=3)
    with pytest.raises(ConfigError, match="world=small: the run"):
        resume(f"resume={folder}", "world=small")
    with pytest.raises(ConfigError, match=r"unknown key 'training.sed'.*training.seed"):
        resume(f"resume={folder}", "training.sed=1")
    (folder / "checkpoint.safetensors").unlink()
    with pytest.raises(DataError, match=r"has no checkpoint.safetensors"):
        resume(f"resume={folder}", f"out={tmp_path / 'elsewhere'}")
    (folder / "config.yaml").write_text("training: {seed: [")
    with pytest.raises(ConfigError, match=r"config.yaml is damaged"):
        resume(f"resume={folder}")
