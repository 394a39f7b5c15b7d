"""Checkpoints: whole at any moment, restored bit for bit, and nothing is unpickled."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from worldflow.agents import checkpoints
from worldflow.agents.algorithms import ALGORITHMS, build
from worldflow.agents.checkpoints import BUFFER, last_checkpoint, restore, save_checkpoint
from worldflow.agents.evaluation_history import EVALUATIONS
from worldflow.agents.places import Places
from worldflow.agents.rewards import RewardConfig
from worldflow.agents.saved import load_agent
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.cli import main as command_line
from worldflow.envs.sources import SourceConfig
from worldflow.errors import ConfigError

Quick = Callable[..., TrainAgentConfig]
Side = Callable[[bool], SourceConfig]


def flat(value: Any) -> list[torch.Tensor]:
    """Every number of nested state dicts."""
    if isinstance(value, torch.Tensor):
        return [value.flatten().double()]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [tensor for entry in value for tensor in flat(entry)]
    return [torch.tensor([float(value)])] if isinstance(value, int | float) else []


def learned(model: BaseAlgorithm) -> torch.Tensor:
    """Weights and the states of all optimisers."""
    return torch.cat(flat(model.get_parameters()))


def settings(quick: Quick, side: Side, algorithm: str, **changes: Any) -> TrainAgentConfig:
    config = quick(world=None, algorithm=algorithm, source=side(algorithm == "sac"), **changes)
    config.agent.reward = RewardConfig(normalize=True)
    return config


@contextlib.contextmanager
def learner(config: TrainAgentConfig, seed: int = 0) -> Any:
    places = Places.of(config.world, config.source, config.real)
    venv = places.training_env(config.agent)
    yield build(config.agent, venv, seed, "cpu", None)
    venv.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_everything_learned_comes_back_bit_for_bit_and_unpickles_nothing(
    quick: Quick, side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    config = settings(quick, side, algorithm)
    with learner(config) as model, learner(config, seed=1) as other:
        model.learn(96)
        path = save_checkpoint(model, tmp_path)
        assert path == last_checkpoint(tmp_path)

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("something was unpickled")

        for module, name in ((pickle, "load"), (pickle, "loads"), (cloudpickle, "loads")):
            monkeypatch.setattr(module, name, refuse)
        assert not torch.equal(learned(other), learned(model))
        restore(other, path)
        assert torch.equal(learned(other), learned(model))
        for name in ("num_timesteps", "_n_updates", "_episode_num"):
            assert getattr(other, name) == getattr(model, name) > 0 or name == "_episode_num"
        statistics = [m.get_vec_normalize_env() for m in (model, other)]
        assert all(isinstance(env, VecNormalize) for env in statistics)
        for name in ("mean", "var", "count"):
            assert len({float(getattr(env.ret_rms, name)) for env in statistics}) == 1
        if isinstance(model, OffPolicyAlgorithm):
            assert isinstance(other, OffPolicyAlgorithm)
            mine, theirs = model.replay_buffer, other.replay_buffer
            assert mine is not None and theirs is not None
            assert (mine.pos, mine.full) == (theirs.pos, theirs.full) == (96 // 2 % 32, True)
            for name in BUFFER:
                assert np.array_equal(getattr(mine, name), getattr(theirs, name))
            assert mine.observations.any()
        if isinstance(model, SAC):
            assert torch.equal(model.log_ent_coef, other.log_ent_coef)


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_two_continuations_of_one_checkpoint_are_equal(
    quick: Quick, side: Side, tmp_path: Path, algorithm: str
) -> None:
    train_agent(settings(quick, side, algorithm, out="a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (
        load_agent(train_agent(settings(quick, side, algorithm, total_steps=80, out=out)), "cpu")[0]
        for out in ("a", "b")
    )
    assert first.num_timesteps == 80
    assert torch.equal(learned(first), learned(second))


def test_only_the_newest_buffer_is_kept_and_only_what_is_filled(quick: Quick, side: Side) -> None:
    out = train_agent(settings(quick, side, "dqn"))
    assert [p.name for p in sorted((out / "checkpoints").iterdir())] == [
        "000000000016.zip", "000000000032.npz", "000000000032.zip",
    ]  # fmt: skip
    with np.load(out / "checkpoints" / "000000000032.npz", allow_pickle=False) as arrays:
        assert arrays["observations"].shape == (16, 2, 3, 64, 64)


def test_a_kill_between_the_two_files_costs_nothing(
    quick: Quick, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = train_agent(settings(quick, side, "dqn", total_steps=16))
    save = checkpoints.save_weights

    def killed(model: BaseAlgorithm, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_weights", killed)
    with pytest.raises(KeyboardInterrupt):
        train_agent(settings(quick, side, "dqn", total_steps=32))
    assert {p.name for p in (out / "checkpoints").iterdir()} == {
        "000000000016.zip", "000000000016.npz", "000000000032.npz",
    }  # fmt: skip
    monkeypatch.setattr(checkpoints, "save_weights", save)
    train_agent(settings(quick, side, "dqn", total_steps=48))
    assert {p.name for p in (out / "checkpoints").iterdir()} == {
        "000000000016.zip", "000000000032.zip", "000000000048.zip", "000000000048.npz",
    }  # fmt: skip


def test_damaged_and_missing_files(quick: Quick, side: Side) -> None:
    out = train_agent(settings(quick, side, "dqn", total_steps=16))
    state = out / "checkpoints" / "000000000016.npz"
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="cannot be continued from"):
        train_agent(settings(quick, side, "dqn"))
    np.savez(state, state=np.array([print], dtype=object))  # would have to be unpickled
    with pytest.raises(ConfigError, match="cannot be continued from"):
        train_agent(settings(quick, side, "dqn"))
    state.unlink()
    with pytest.raises(ConfigError, match="can be played but not trained on"):
        train_agent(settings(quick, side, "dqn"))


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_killed_at_any_moment_the_same_command_goes_on(tmp_path: Path, algorithm: str) -> None:
    """A known answer: with a buffer that is never full, no transition is missing at the end."""
    total, out = 480, tmp_path / "agent"
    command = ["train-agent", f"agent={algorithm}", "source=catch", f"out={out}", "progress=false"]
    command += [f"total_steps={total}", "checkpoint_steps=32", "device=cpu", "agent.num_envs=2"]
    command += ["evaluation.every=64", "evaluation.episodes=2", "evaluation.keep=real"]
    small = {"features_dim": 16}
    if algorithm == "ppo":
        small |= {"n_steps": 8, "batch_size": 16, "n_epochs": 1}
    else:
        small |= {"learning_starts": 16, "batch_size": 8, "buffer_size": 1000, "train_freq": 8}
    command += [f"agent.hyperparameters.{name}={value}" for name, value in small.items()]
    process = subprocess.Popen([sys.executable, "-m", "worldflow", *command])
    try:
        deadline = time.monotonic() + 240
        while len(list((out / "checkpoints").glob("*.zip"))) < 3:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "agent.zip").exists()
    assert command_line(command) == 0
    model, card = load_agent(out, "cpu")
    assert card.steps == total
    steps = [line.split(",")[0] for line in (out / EVALUATIONS).read_text().splitlines()]
    assert steps == [f'{{"steps": {64 * k}' for k in range(1, 8)] + [f'{{"steps": {total}']
    assert card.kept_steps is not None and card.kept_steps % 32 == 0
    if isinstance(model, OffPolicyAlgorithm):
        with np.load(out / "checkpoints" / f"{total:012d}.npz", allow_pickle=False) as arrays:
            assert arrays["rewards"].shape == (total // 2, 2)
            assert arrays["observations"].any(axis=(1, 2, 3, 4)).all()
