"""What a sweep asks Hydra for, and what is refused before a job starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from worldflow.agents.train import TrainAgentConfig
from worldflow.cli import COMMANDS, USER_ERROR, main
from worldflow.envs.collect import CollectConfig
from worldflow.errors import ConfigError
from worldflow.sweep_plan import JOB_FOLDER, plan_sweep
from worldflow.training.pretrain import PretrainConfig


def pretrain(*overrides: str) -> list[str]:
    return plan_sweep("pretrain", PretrainConfig, overrides)


def folder(plan: list[str], key: str = "subdir") -> str:
    """The last one of Hydra's settings `hydra.sweep.KEY`, which is what counts."""
    return [text for text in plan if text.startswith(f"hydra.sweep.{key}=")][-1].partition("=")[2]


def test_short_forms_are_written_out() -> None:
    plan = pretrain("data=a/b,'c d'", "from=w,runs/training.seed=1/world", "codec=two-stage,joint")
    assert "data.path='a/b','c d'" in plan
    assert "initial_world='w,runs/training.seed=1/world'" in plan  # no list, but a path
    assert "training.codec_mode='two-stage','joint'" in plan
    plan = plan_sweep("evaluate", COMMANDS["evaluate"].load()[1], ["world=a,b", "data=d", "out=x"])
    assert "world.path='a','b'" in plan  # of this command `world` is no group


def test_groups_and_ranges_are_listed() -> None:
    plan = pretrain("data=d", "world=catch,small", "training.seed=range(0,3)")
    assert "world=catch,small" in plan
    assert "training.seed=0,1,2" in plan


def test_new_keys_of_free_mappings_are_added() -> None:
    plan = plan_sweep("collect", CollectConfig, ["source.kwargs.drift=0.1,0.2", "steps=5"])
    assert "++source.kwargs.drift=0.1,0.2" in plan
    assert "steps=5" in plan


def test_jobs_have_folders_named_after_what_is_swept() -> None:
    plan = pretrain("data=d", "world=catch,small", "training.seed=0,1", "out=runs/x")
    assert folder(plan, "dir") == "runs/x"
    named = "'world=${hydra.runtime.choices.world},training.seed=${training.seed}'"
    assert folder(plan) == named
    assert f"out={JOB_FOLDER}" in plan
    assert folder(pretrain("data=d", "codec=two-stage,joint")) == (
        "'training.codec_mode=${training.codec_mode}'"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ("data=a/b,c/d",),
        ("data=d", "world.codec.widths=[8,8,8,8],[16,16,16,16]"),
        ("data=d",),
        ("data=d", f"from={'a' * 120},{'b' * 120}", f"data.imported={'c' * 60},{'d' * 60}"),
    ],
)
def test_jobs_are_numbered_where_values_make_no_name(overrides: tuple[str, ...]) -> None:
    assert folder(pretrain(*overrides, "out=x")) == "'${hydra.job.num}'"


def test_the_default_folder_is_that_of_the_command_or_of_hydra() -> None:
    assert folder(pretrain("data=d"), "dir") == "runs/pretrain"
    plan = plan_sweep("train_agent", TrainAgentConfig, ["world=w", "seed=0,1"])
    assert not [text for text in plan if text.startswith("hydra.sweep.dir=")]
    own = pretrain("data=d", "hydra.sweep.dir=mine", "hydra/launcher=basic")
    assert folder(own, "dir") == "mine"
    assert "hydra/launcher=basic" in own


@pytest.mark.parametrize(
    "out",
    [
        "x${training.seed}",
        "x/${hydra:job.num}",
        "x/${hydra:runtime.choices.world}_${training.seed}",
        "a,b,c,d",
    ],
)
def test_an_own_pattern_for_folders_is_kept(out: str) -> None:
    swept = [] if "," in out else ["training.seed=0,1"]
    plan = pretrain("data=d", *swept, f"out={out}")
    assert f"out={out}" in plan
    assert HydraConfig.instance().cfg is None  # nothing of the check is left


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.sed=0,1"], "did you mean 'training.seed'?"),
        (["training.seed=0,many"], "training.seed='many'"),
        (["world.sigma=0.3,-1"], "world.sigma is -1.0; it must be positive"),
        (["training.seed=0,0"], "holds a value twice"),
        (["training.seed=0,1", "out=a,b"], "two jobs would write to"),
        (["training.seed=0,1", "out=x${world.sigma}"], "two jobs would write to"),
        (["world.sigma=0.1,0.10", "out=x${world.sigma}"], "holds a value twice"),
        (["training.seed=0,1", "hydra.sweep.subdir=x"], "two jobs would write to"),
        (["training.seed=interval(0,9)", "out=x${training.seed}"], "put ${hydra:job.num}"),
        (["hydra/sweeper=basic", "hydra.sweep.subdir=x"], "put ${hydra:job.num}"),
        (["world=small,some/path"], "mixes files of configs/world/ (base, catch, "),
        (["world=small,smal"], "mixes"),
        (["training=defaul,other"], "unknown choice"),
        (["training=glob(*)"], "list the values"),
        (["out=x", "hydra.sweep.dir=y"], "give one"),
        (["hydra/launcher=nowhere"], "hydra/launcher/nowhere"),
        (["~out"], "write key=value"),
    ],
)
def test_wrong_sweeps_are_refused_before_a_job_starts(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pretrain("data=d", *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_jobs_that_nobody_knows_beforehand_are_numbered() -> None:
    plan = pretrain("data=d", "world.sigma=interval(0.1,0.5)", "out=x")
    assert folder(plan) == "'${hydra.job.num}'"
    assert "world.sigma=interval(0.1,0.5)" in plan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "inspect", "-m", "src=a,b"], "run it once for each"),
        (["pretrain", "-m", "--cfg", "data=a,b"], "leave out --multirun"),
        (["pretrain", "data=d", "training.seed=1,2"], "--multirun runs a job for each"),
        (["evaluate", "--multirun", "seed=0,1", "data=d", "out=x"], "missing value: world.path"),
    ],
)
def test_user_errors_of_sweeps(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == USER_ERROR
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_processes_of_torchrun_do_not_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["pretrain", "-m", "data=d", "training.seed=0,1", f"out={tmp_path}"]) == USER_ERROR
    assert "torchrun" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
