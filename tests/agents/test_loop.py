"""The loop on Catch in small: what it makes, its budget, its explorer, and how it continues."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldflow import load_world
from worldflow.agents import loop as loop_module
from worldflow.agents.locks import held
from worldflow.agents.loop import Loop, train_loop
from worldflow.agents.loop_config import TrainLoopConfig
from worldflow.agents.loop_state import STAGES, STATE, LoopState
from worldflow.agents.saved import AgentCard, load_agent
from worldflow.agents.train import TrainAgentConfig
from worldflow.cli import main as command_line
from worldflow.config import load_config
from worldflow.data.episodes import EpisodeDataset
from worldflow.envs.policies import PolicyConfig
from worldflow.errors import ConfigError, DataError
from worldflow.held_out import split_of
from worldflow.training.curves import read_scalars

TINY = [
    "world.condition=8",
    "world.codec.channels=2",
    "world.codec.widths=[8, 8, 8, 8]",
    "world.flow.global_block.past={width: 16, depth: 1, heads: 2}",
    "world.flow.global_block.within={width: 8, depth: 1, heads: 2}",
    "world.flow.local={width: 8, depth: 1, heads: 2}",
    "world.denoiser.transformer={width: 16, depth: 1, heads: 2}",
    "training.codec.steps=3",
    "training.flow.steps=3",
    "finetune.steps=2",
    "agent.num_envs=2",
    "agent.hyperparameters.n_steps=8",
    "agent.hyperparameters.batch_size=16",
    "agent.hyperparameters.features_dim=16",
    "first_agent_steps=16",  # one rollout, as of all: a training that is killed begins anew
    "agent_steps=16",
    "explorer.steps=16",
    "evaluation.episodes=3",
    "evaluation.num_envs=2",
    "collection.first_steps=100",
    "collection.round_steps=40",
    "dream.horizon=5",
    "device=cpu",
    "progress=false",
]


def tiny(out: Path, *changes: str) -> TrainLoopConfig:
    config = load_config("train_loop", TrainLoopConfig, [*TINY, *changes, "out=x/y"])
    return replace(config, out=str(out))


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]


def state(out: Path) -> dict[str, Any]:
    return json.loads((out / STATE).read_text())


def weights(agent: Path) -> torch.Tensor:
    values = load_agent(agent, "cpu")[0].policy.state_dict().values()
    return torch.cat([value.flatten() for value in values])


def products(out: Path) -> dict[str, Any]:
    """All that a loop made and that must be the same however often it was interrupted."""
    found: dict[str, Any] = {}
    for pattern in ("data/**/*", "rounds/*/world/world/*", "*.json*", "report.html"):
        for path in out.glob(pattern):
            if path.is_file() and path.name != "card.md":  # which says how long it took
                found[str(path.relative_to(out))] = path.read_bytes()
    for path in out.glob("rounds/*/*/agent.zip"):
        found[str(path.relative_to(out))] = weights(path.parent).tolist()
    return found


@pytest.fixture(scope="module")
def acting() -> list[PolicyConfig]:
    """What collected in the rounds of `whole`."""
    return []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, acting: list[PolicyConfig]) -> Path:
    """A loop of two rounds with an explorer, run by its command and without interruption."""
    out = tmp_path_factory.mktemp("loops") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, acting)
        assert command_line(["train-loop", *TINY, *EXPLORING, f"out={out}"]) == 0
    return out


def watch(patch: pytest.MonkeyPatch, acting: list[PolicyConfig]) -> None:
    """Keep what collects in a list."""
    load = loop_module.load_player

    def keep(config: PolicyConfig) -> Any:
        acting.append(config)
        return load(config)

    patch.setattr(loop_module, "load_player", keep)


EXPLORING = ["real_steps=130", "explorer.bonus=0.5"]


def test_rounds_and_budget(whole: Path) -> None:
    dataset, told = EpisodeDataset(whole / "data"), state(whole)
    done = [entry for entry in told["rounds"] if entry["steps"]]
    assert all(entry["steps"] >= least for entry, least in zip(done, (100, 1), strict=True))
    assert sum(entry["steps"] for entry in done) == dataset.steps
    assert sum(entry["episodes"] for entry in done) == len(dataset)
    # the budget is reached by the last episode, and not before it
    assert dataset.steps >= 130 > dataset.steps - (int(dataset.lengths[-1]) - 1)
    first = done[0]["episodes"]
    before = int((dataset.lengths[:first] - 1).sum())
    assert before >= 100 > before - (int(dataset.lengths[first - 1]) - 1)
    returns = [float(dataset.steps_of(k).rewards.sum()) for k in range(first)]
    assert done[0]["mean_return"] == pytest.approx(np.mean(returns))


def test_the_curve(whole: Path) -> None:
    found = rows(whole)
    assert [(row["round"], row["place"]) for row in found] == [
        (-1, "real"), (0, "dream"), (0, "real"), (1, "dream"), (1, "real"),
    ]  # fmt: skip
    dataset, told = EpisodeDataset(whole / "data"), state(whole)
    assert found[0]["real_steps"] == 0 and found[-1]["real_steps"] == dataset.steps
    # real steps of judging are counted, apart
    real = [row for row in found if row["place"] == "real"]
    assert found[-1]["judging_steps"] == sum(row["env_steps"] for row in real)
    assert told["baseline_steps"] == real[0]["env_steps"]
    assert [row["imagined_steps"] for row in real] == [0, 16, 48]  # explorer and agent
    curves = read_scalars(whole / "tensorboard")
    steps, values = curves["loop/real_return"]
    assert steps.tolist() == [row["real_steps"] for row in real[1:]]
    assert values.tolist() == pytest.approx([row["mean"] for row in real[1:]])
    page = (whole / "report.html").read_text()
    assert page.count("<svg") == 1 and "no data" not in page
    assert f"{dataset.steps} real steps were learned from" in page and "optimum" in page


def test_worlds_go_on_from_each_other(whole: Path) -> None:
    worlds = [load_world(whole / f"rounds/{k:03d}/world/world") for k in range(2)]
    codecs = [torch.cat([p.flatten() for p in world.codec.parameters()]) for world in worlds]
    assert torch.equal(codecs[0], codecs[1])
    flows = [torch.cat([p.flatten() for p in world.flow.parameters()]) for world in worlds]
    assert not torch.equal(flows[0], flows[1])
    # two updates move them less than a new start would
    assert (flows[1] - flows[0]).norm() < 0.2 * flows[0].norm()
    dataset = EpisodeDataset(whole / "data")
    _, held = split_of(dataset, worlds[1].spec.held_out)
    assert worlds[1].spec.held_out.growing and worlds[0].spec.held_out.episodes < len(dataset)
    assert len(held) >= 2


def test_the_explorer_is_rewarded_for_novelty_and_collects(
    whole: Path, acting: list[PolicyConfig]
) -> None:
    told, earlier, now = state(whole), whole / "rounds/000", whole / "rounds/001"
    assert told["explorer"] == "rounds/001/explorer" and told["agent"] == "rounds/001/agent"
    explorer, agent = AgentCard.load(now / "explorer"), AgentCard.load(now / "agent")
    assert (explorer.world.bonus, agent.world.bonus) == (0.5, 0.0)
    # made of the agent of the round before, in that one's world
    assert explorer.initial_agent == agent.initial_agent == str(earlier / "agent")
    assert explorer.world.path == str(earlier / "world" / "world")
    assert agent.world.path == str(now / "world" / "world")
    _, shaping = read_scalars(now / "explorer" / "tensorboard")["dream/shaping"]
    assert (shaping > 0).all()
    assert "dream/shaping" not in read_scalars(now / "agent" / "tensorboard")
    assert AgentCard.load(earlier / "agent").initial_agent is None
    assert not (earlier / "explorer").exists()
    assert [config.agent for config in acting] == [None, str(now / "explorer")]
    assert [config.kind for config in acting] == ["random", "mixture"]
    assert acting[1].agent_probability == 0.7


def test_interrupted_at_each_boundary(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each stage's work and before it is noted, it ends with the same files."""
    out = tmp_path / "broken"
    killed: list[tuple[int, str]] = []
    advance = LoopState.advance

    def kill(state: LoopState) -> None:
        place = (state.number, state.stage)
        if place not in killed:
            killed.append(place)
            raise KeyboardInterrupt
        advance(state)

    monkeypatch.setattr(LoopState, "advance", kill)
    config = tiny(out, *EXPLORING)
    while True:
        try:
            train_loop(config)
            break
        except KeyboardInterrupt:
            told = state(out)
            assert (len(told["rounds"]) - 1, told["stage"]) == killed[-1]
    assert killed == [(number, stage) for number in range(2) for stage in STAGES]
    expected, found = products(whole), products(out)
    assert set(found) == set(expected)
    different = [name for name in expected if found[name] != expected[name]]
    assert not different


def test_a_finished_loop_does_nothing_and_a_larger_budget_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, acting = tmp_path / "loop", list[PolicyConfig]()
    watch(monkeypatch, acting)
    config = tiny(out, "real_steps=100", "keep_rounds=1")
    train_loop(config)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    train_loop(config)
    del before[out / STATE]  # written as it was
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(state(out)["rounds"]) == 2 and (out / "rounds" / "000").exists()
    train_loop(replace(config, real_steps=EpisodeDataset(out / "data").steps + 1))
    # without a bonus there is no explorer: the agent itself collects
    assert [config.agent for config in acting] == [None, str(out / "rounds/000/agent")]
    assert not list(out.glob("rounds/*/explorer"))
    assert [row["round"] for row in rows(out)] == [-1, 0, 0, 1, 1]
    assert not (out / "rounds" / "000").exists() and (out / "rounds" / "001").exists()
    with pytest.raises(ConfigError, match=r"begun with agent_steps=16, not 17"):
        train_loop(replace(config, agent_steps=17))
    begun = json.loads((out / STATE).read_text())  # as before there was a choice
    for name in ("dream.expected_ends", "agent.latent_network", "world.heads.termination_reads"):
        del begun["settings"][name]
    (out / STATE).write_text(json.dumps(begun))
    train_loop(config)
    with pytest.raises(ConfigError, match=r"begun with dream\.expected_ends=0\.0, not 1\.0"):
        train_loop(replace(config, dream=replace(config.dream, expected_ends=1.0)))
    (out / STATE).write_text("{}")
    with pytest.raises(DataError, match=r"loop\.json is damaged"):
        train_loop(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["real_steps=0"], "real_steps is 0"),
        (["collection.round_steps=0"], r"collection\.round_steps=0"),
        (["collection.agent_probability=2"], r"collection\.agent_probability is 2"),
        (["held_out=0.6"], "held_out is 0.6"),
        (["finetune.steps=0"], r"finetune\.steps=0"),
        (["dream.pessimism=-1"], r"dream\.pessimism=-1"),
        (["dream.horizon=0"], r"dream\.horizon=0"),
        (["explorer.bonus=-1"], r"explorer\.bonus=-1"),
        (["evaluation.episodes=0"], r"evaluation\.episodes is 0"),
        (["keep_rounds=0"], "keep_rounds is 0"),
        (["training.codec_mode=joint"], "use two-stage"),
        (["agent.observation=latents"], "use frames"),
        (["training.flow.part=heads"], "whole worlds; use all"),
        (["world.heads.termination_reads=episode"], "use frame or past"),
        (["world.denoiser.lookahead=1"], "step by step"),
        (["world.heads.reward=false"], "must not be false"),
        (["nonsense=1"], "unknown key"),
    ],
)
def test_wrong_settings(tmp_path: Path, changes: Sequence[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(tmp_path, *changes)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path / "lock") as mine:
        assert mine
        with pytest.raises(ConfigError, match="another process runs the loop"):
            train_loop(tiny(tmp_path))
    assert not (tmp_path / STATE).exists()


def test_agents_have_checkpoints_and_the_device_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainAgentConfig] = []

    def keep(config: TrainAgentConfig) -> Path:
        asked.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_module, "train_agent", keep)
    monkeypatch.setattr(loop_module, "pretrain", lambda _: None)
    for steps in (2, 200, 90_000):
        with pytest.raises(KeyboardInterrupt):
            train_loop(tiny(tmp_path / str(steps), f"first_agent_steps={steps}"))
    assert [config.checkpoint_steps for config in asked] == [1, 50, 10_000]
    assert {(config.device, config.world_device) for config in asked} == {("cpu", "cpu")}


def test_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="agent=sac cannot take"):
        Loop(load_config("train_loop", TrainLoopConfig, ["agent=sac", f"out={tmp_path}/loop"]))
    assert not (tmp_path / "loop").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_killed_at_any_moment(whole: Path, tmp_path: Path) -> None:
    """Its process is killed again and again, wherever it is; the same command ends the same."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "worldflow", "train-loop", *TINY, *EXPLORING, f"out={out}"]
    generator, kills = np.random.default_rng(0), 0
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before, until = _done(out), time.monotonic() + 300
        while _done(out) == before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        # a stage is done: somewhere in the next ones, at the latest when the loop is
        time.sleep(generator.uniform(0.0, 4.0))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 2
    subprocess.run(command, check=True, capture_output=True)
    expected, found = products(whole), products(out)
    assert set(found) == set(expected)
    assert not [name for name in expected if found[name] != expected[name]]


def _done(out: Path) -> tuple[int, str] | None:
    """Round and stage that come next; None before there is a loop."""
    if not (out / STATE).exists():
        return None
    told = state(out)
    return len(told["rounds"]), told["stage"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_learns_to_play(tmp_path: Path) -> None:
    """From 1,000 real steps, with a world and an agent that are not tiny: better than chance."""
    changes = [
        "real_steps=1000",
        "collection.first_steps=600",
        "collection.round_steps=400",
        "training.codec.steps=300",
        "training.flow.steps=900",
        "finetune.steps=300",
        "first_agent_steps=10000",
        "agent_steps=6000",
        "progress=false",
        f"out={tmp_path / 'loop'}",
    ]
    out = train_loop(load_config("train_loop", TrainLoopConfig, changes))
    real = [row for row in rows(out) if row["place"] == "real"]
    assert real[-1]["low"] > real[0]["high"]  # 95% intervals of agent and chance
    assert real[-1]["mean"] > 0.0
