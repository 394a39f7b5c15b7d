"""`resume=FOLDER`: a run goes on with its own settings, where it is or in another folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.errors import ConfigError, DataError
from worldflow.saved_config import restore_config
from worldflow.storage import load_world
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
