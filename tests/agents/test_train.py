"""Training in the dream: it learns, it is seeded, it resumes, it overwrites nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from stable_baselines3.common.base_class import BaseAlgorithm

import worldflow.configs
from worldflow.agents import train
from worldflow.agents.algorithms import ALGORITHMS, AgentConfig
from worldflow.agents.checkpoints import last_checkpoint
from worldflow.agents.evaluate import EvaluateAgentConfig
from worldflow.agents.saved import AgentCard, latents_digest, load_agent, load_weights
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.cli import main as command_line
from worldflow.config import load_config
from worldflow.errors import ConfigError, WorldFormatError
from worldflow.storage import save_world
from worldflow.testing import tiny_world

Quick = Callable[..., TrainAgentConfig]


def weights(model: BaseAlgorithm) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.policy.state_dict().values()])


def test_an_agent_is_trained_saved_and_loaded(quick: Quick, capsys: pytest.CaptureFixture) -> None:
    config = quick(total_steps=30)  # rounded up to two rollouts of 16
    train.main(config)
    out = Path(config.out)
    assert "evaluate-agent" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {
        "agent.zip", "agent.yaml", "checkpoints", "tensorboard",
    }  # fmt: skip
    model, card = load_agent(out, device="cpu")
    weights_file = Path(config.world.path) / "world.safetensors"
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    agent = replace(config.agent, hyperparameters=config.agent.settings)
    latents = latents_digest(str(config.world.path))
    assert card == AgentCard(
        config.world, agent, 0, 32, digest, latents, evaluation=config.evaluation, kept_steps=32
    )
    assert [p.name for p in sorted((out / "checkpoints").iterdir())] == [
        "000000000016.zip", "000000000032.npz", "000000000032.zip",
    ]  # fmt: skip
    last = load_weights("ppo", out / "checkpoints" / "000000000032.zip", device="cpu")
    assert torch.equal(weights(model), weights(last))
    first = load_weights("ppo", out / "checkpoints" / "000000000016.zip", device="cpu")
    assert not torch.equal(weights(model), weights(first))
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(model.predict(frames, deterministic=True)[0],
                          last.predict(frames, deterministic=True)[0])  # fmt: skip
    assert model.lr_schedule(0.5) == pytest.approx(config.agent.settings.learning_rate / 2)
    events = list((out / "tensorboard").rglob("events*"))
    assert len(events) == 1


def test_tensorboard_shows_returns_and_novelty(quick: Quick) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train_agent(quick(out="board"))
    accumulator = EventAccumulator(str(next((out / "tensorboard").iterdir())))
    accumulator.Reload()
    tags = set(accumulator.Tags()["scalars"])
    assert {"rollout/ep_rew_mean", "train/loss", "dream/novelty", "dream/uncertainty"} <= tags


def test_same_seed_same_agent(quick: Quick) -> None:
    models = [
        load_agent(train_agent(quick(16, seed=seed, out=out)), "cpu")[0]
        for seed, out in ((1, "a"), (1, "b"), (2, "c"))
    ]
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_resume_does_the_remaining_steps(quick: Quick) -> None:
    out = train_agent(quick(16))
    assert last_checkpoint(out) == out / "checkpoints" / "000000000016.zip"
    before, _ = load_agent(out, "cpu")
    train_agent(quick(48, resume=True))
    after, card = load_agent(out, "cpu")
    assert card.steps == after.num_timesteps == 48
    assert not torch.equal(weights(before), weights(after))
    events = {path.stat().st_mtime_ns for path in out.rglob("events*")}
    train_agent(quick(48, resume=True))  # nothing remains
    assert load_agent(out, "cpu")[1].steps == 48
    assert events == {path.stat().st_mtime_ns for path in out.rglob("events*")}


def test_interrupted_training_leaves_what_resume_needs(
    quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick(48)
    rollouts = 0
    original = train.KeeperCallback._on_rollout_start

    def interrupt(callback: train.KeeperCallback) -> None:
        nonlocal rollouts
        original(callback)
        rollouts += 1
        if rollouts == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.KeeperCallback, "_on_rollout_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_agent(config)
    monkeypatch.setattr(train.KeeperCallback, "_on_rollout_start", original)
    out = Path(config.out)
    assert last_checkpoint(out) == out / "checkpoints" / "000000000032.zip"
    with pytest.raises(ConfigError, match=r"agent\.zip is missing"):
        load_agent(out)
    assert load_agent(train_agent(replace(config, resume=True)), "cpu")[1].steps == 48


def test_nothing_is_overwritten_or_mixed(quick: Quick) -> None:
    out = train_agent(quick(16))
    with pytest.raises(ConfigError, match="resume=true"):
        train_agent(quick(16, resume=False))
    with pytest.raises(ConfigError, match="seed=0, not 3"):
        train_agent(quick(32, resume=True, seed=3))
    with pytest.raises(ConfigError, match=r"agent\.frame_stack=1, not 2"):
        train_agent(quick(32, resume=True, frame_stack=2))
    with pytest.raises(ConfigError, match=r"hyperparameters\.n_epochs=1, not 2"):
        train_agent(quick(32, hyperparameters={"n_epochs": 2}))
    with pytest.raises(ConfigError, match=r"agent\.algorithm=ppo, not a2c"):
        train_agent(quick(32, algorithm="a2c"))
    with pytest.raises(ConfigError, match=r"source\.env_id=None, not worldflow"):
        train_agent(quick(32, real=True))
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="without checkpoints"):
        train_agent(quick(32))


def test_a_world_that_changed_is_not_resumed_in(quick: Quick, tmp_path: Path) -> None:
    save_world(tiny_world(), tmp_path / "mine", "a tiny world\n")
    train_agent(quick(16, world=tmp_path / "mine"))
    save_world(tiny_world(seed=5), tmp_path / "mine", "another\n")
    with pytest.raises(ConfigError, match="world_sha256="):
        train_agent(quick(32, resume=True, world=tmp_path / "mine"))


def test_progress_is_shown_from_where_it_stands(
    quick: Quick, capsys: pytest.CaptureFixture[str]
) -> None:
    train_agent(replace(quick(16), progress=True))
    assert "16/16" in capsys.readouterr().err
    train_agent(replace(quick(32, resume=True), progress=True))
    shown = capsys.readouterr().err
    assert "16/32" in shown
    assert "32/32" in shown
    assert "Warning" not in shown


def test_frame_stack_widens_what_the_agent_sees(quick: Quick) -> None:
    model, card = load_agent(train_agent(quick(16, frame_stack=2)), "cpu")
    assert card.agent.frame_stack == 2
    assert model.observation_space.shape == (6, 64, 64)


def test_damaged_weights_are_refused(quick: Quick) -> None:
    out = train_agent(quick(16))
    (out / "agent.zip").write_bytes(b"not a zip file")
    with pytest.raises(ConfigError, match="does not fit"):
        load_agent(out)


def test_missing_world_and_damaged_agents(quick: Quick, tmp_path: Path) -> None:
    config = quick(16)
    config.world.path = str(tmp_path / "nowhere")
    with pytest.raises(WorldFormatError, match="nowhere"):
        train_agent(config)
    assert not Path(config.out).exists()
    with pytest.raises(ConfigError, match=r"agent\.yaml is missing"):
        load_agent(tmp_path)
    (tmp_path / "agent.yaml").write_text("agnt: {}\n")
    with pytest.raises(ConfigError, match="agnt"):
        load_agent(tmp_path)
    (tmp_path / "agent.yaml").write_text("steps: [\n")
    with pytest.raises(ConfigError, match="not an agent's card"):
        load_agent(tmp_path)


def keys(node: object) -> object:
    """Names of the fields of a dataclass or of a mapping, nested."""
    if is_dataclass(node):
        return {field.name: keys(getattr(node, field.name)) for field in fields(node)}
    if isinstance(node, dict):
        return {name: keys(value) for name, value in node.items()}
    return None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_yaml_files_of_agents_are_the_defaults(algorithm: str) -> None:
    folder = Path(worldflow.configs.__path__[0]) / "agent"
    written = OmegaConf.to_container(OmegaConf.load(folder / f"{algorithm}.yaml"))
    default = AgentConfig(algorithm)
    assert written == asdict(replace(default, hyperparameters=default.settings))
    assert {path.stem for path in folder.iterdir()} == {*ALGORITHMS, "ppo_latents", "sac_latents"}


PPO = ["latent_network=shared", "num_envs=32", "frame_stack=4", "reward.normalize=true"]
PPO_NUMBERS = {"gamma": 0.99, "gae_lambda": 0.95, "n_steps": 64, "batch_size": 256}
SAC = ["frame_stack=3", "reward.scale=0.1"]
SAC_NUMBERS = {"gamma": 0.9, "gradient_steps": 8, "buffer_size": 50_000}


@pytest.mark.parametrize(
    ("algorithm", "words", "numbers"),
    [("ppo", PPO, PPO_NUMBERS | {"learning_rate": 5e-4}), ("sac", SAC, SAC_NUMBERS)],
)
def test_those_on_latents_are_the_same_with_other_settings(
    algorithm: str, words: list[str], numbers: dict[str, float]
) -> None:
    spelled = [f"agent={algorithm}", "agent.observation=latents"]
    spelled += [f"agent.{word}" for word in words]
    spelled += [f"agent.hyperparameters.{name}={value}" for name, value in numbers.items()]
    configs = [
        load_config("train_agent", TrainAgentConfig, [*said, "out=agent"])
        for said in ([f"agent={algorithm}_latents"], spelled)
    ]
    assert configs[0] == configs[1]


def test_yaml_files_name_every_setting_and_agree_with_the_dataclasses() -> None:
    folder = Path(worldflow.configs.__path__[0])
    for name, schema in (
        ("train_agent", TrainAgentConfig), ("evaluate_agent", EvaluateAgentConfig),
    ):  # fmt: skip
        node = OmegaConf.load(folder / f"{name}.yaml")
        if name == "train_agent":
            assert node.pop("defaults")[:2] == [{"source": None}, {"agent": "ppo"}]
            node.agent, node.source = OmegaConf.structured(AgentConfig), None
        written = OmegaConf.merge(OmegaConf.structured(schema), node)
        assert written == OmegaConf.structured(schema)
        assert keys(OmegaConf.to_container(node)) == keys(schema())


@pytest.mark.parametrize(
    "override", ["world.horizon=0", "world.temperature=-1", "seed=-1", "total_steps=0"]
)
def test_impossible_settings_are_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    out = tmp_path / "agent"
    assert command_line(["train-agent", "world=catch", f"out={out}", override]) == 2
    assert override.split("=")[0] in capsys.readouterr().err and not out.exists()


def test_a_training_of_before_there_were_prompts_and_a_digest_goes_on(quick: Quick) -> None:
    out = train_agent(quick(16))
    card = OmegaConf.load(out / "agent.yaml")
    del card["latents_sha256"], card["world"]["prompt"], card["world"]["guidance"]
    OmegaConf.save(card, out / "agent.yaml")
    again = train_agent(quick(32, resume=True))
    assert load_agent(again, "cpu")[1].steps == 32
