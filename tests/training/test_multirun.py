"""Sweeps for real: each job is the run that the same settings give by themselves."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_runs import write_dataset

from worldflow.actions import ActionSpec
from worldflow.cli import USER_ERROR, main
from worldflow.storage import load_world

TINY = (
    "data.held_out=0.34",
    "world.context=1",
    "world.condition=8",
    "world.codec={channels: 2, widths: [8, 8, 8, 8]}",
    "world.flow.global_block.past={width: 16, depth: 1, heads: 2}",
    "world.flow.global_block.within={width: 8, depth: 1, heads: 2}",
    "world.flow.local={width: 8, depth: 1, heads: 2}",
    "world.denoiser.transformer={width: 16, depth: 1, heads: 2}",
    "training.codec={steps: 2, batch: 4, validate_every: 2}",
    "training.flow={steps: 2, batch: 2, clip: 3, validate_every: 2}",
)
AGENT = (
    "agent.observation=latents",  # frames of 32 x 32 are too small for the CNN
    "agent.num_envs=2",
    "agent.hyperparameters={n_steps: 4, batch_size: 8, features_dim: 8}",
    "total_steps=8",
    "progress=false",
)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    """Hydra sets handlers of the root logger, which would outlive the test's captured output."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    return tmp_path / "data"


def test_jobs_of_three_commands_each_in_a_folder_of_its_own(data: Path, tmp_path: Path) -> None:
    sweep, alone = tmp_path / "sweep", tmp_path / "alone"
    assert main(["pretrain", "-m", f"data={data}", "training.seed=0,1", f"out={sweep}", *TINY]) == 0
    assert main(["pretrain", f"data={data}", "training.seed=1", f"out={alone}", *TINY]) == 0
    worlds = [sweep / f"training.seed={seed}" / "world" for seed in (0, 1)]
    first, second = ((world / "world.safetensors").read_bytes() for world in worlds)
    assert second == (alone / "world" / "world.safetensors").read_bytes()
    assert first != second
    assert load_world(str(worlds[0])).config == load_world(str(worlds[1])).config

    both = f"world='{worlds[0]}','{worlds[1]}'"
    measured = tmp_path / "measured"
    sizes = ("clips=2", "horizon=2", "samples=1", "strips=1", "progress=false", "real=false")
    assert main(["evaluate", "-m", both, f"data={data}", f"out={measured}", *sizes]) == 0
    figures = [json.loads((measured / name / "evaluation.json").read_text()) for name in "01"]
    assert figures[0] != figures[1]

    agents = tmp_path / "agents"
    learn = ["train-agent", "--multirun", f"world={worlds[1]}", "seed=3,4", *AGENT]
    assert main([*learn, f"out={agents}"]) == 0
    assert sorted(path.name for path in agents.glob("seed=*")) == ["seed=3", "seed=4"]
    assert all((path / "agent.yaml").is_file() for path in agents.glob("seed=*"))


def test_a_failed_job_is_said_and_the_others_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    sources = f"data={tmp_path / 'nowhere'},{data}"
    assert main(["pretrain", "-m", sources, f"out={out}", *TINY]) == USER_ERROR
    assert (
        capsys.readouterr()
        .err.rstrip()
        .splitlines()[-1]
        .startswith(f"worldflow pretrain: {tmp_path / 'nowhere'} does not exist")
    )
    assert not (out / "0" / "world").exists()
    assert (out / "1" / "world" / "world.safetensors").is_file()


@pytest.mark.slow
def test_submitit_runs_jobs_of_two_tasks(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    out = tmp_path / "sweep"
    launcher = ("hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2")
    settings = (f"data={data}", "training.seed=0,1", f"out={out}", *TINY)
    assert main(["pretrain", "-m", *launcher, *settings]) == 0
    for seed in (0, 1):
        run = out / f"training.seed={seed}"
        assert (run / "world" / "world.safetensors").is_file()
        assert b'"ranks": 2' in (run / "checkpoint.safetensors").read_bytes().replace(b"\\", b"")
