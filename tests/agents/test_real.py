"""Learning in a real environment: the same settings, and answers that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from worldflow.agents import train as train_module
from worldflow.agents.algorithms import AgentConfig, build
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.evaluate import (
    AgentPath,
    EvaluateAgentConfig,
    EvaluationWorld,
    evaluate_agent,
)
from worldflow.agents.evaluation_config import EvaluationConfig, StopConfig
from worldflow.agents.evaluation_history import EvaluationHistory
from worldflow.agents.evaluator import Evaluator
from worldflow.agents.places import Places
from worldflow.agents.rewards import RewardConfig
from worldflow.agents.saved import load_agent
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.cli import main as command_line
from worldflow.envs.sources import SourceConfig
from worldflow.envs.sources.catch import optimal_return
from worldflow.errors import ConfigError

Quick = Callable[..., TrainAgentConfig]
Side = Callable[[bool], SourceConfig]

REPLAY = {"learning_starts": 200, "batch_size": 32, "gradient_steps": 2}
LEARNING: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 64},
    "a2c": {},
    "dqn": REPLAY | {"target_update_interval": 100},
    "sac": REPLAY | {"tau": 0.05},
}


@pytest.mark.parametrize(
    ("algorithm", "observation"),
    [
        ("ppo", "frames"),
        ("a2c", "frames"),
        ("dqn", "frames"),
        ("sac", "latents"),
        pytest.param("sac", "frames", marks=pytest.mark.slow),  # three networks with an encoder
    ],
)
def test_it_learns_to_look(
    quick: Quick, side: Side, box_folder: Path, algorithm: str, observation: str
) -> None:
    """The best return is 4, that of the best blind policy 2: see `SideEnv`."""
    stop = StopConfig("real", threshold=3.6)
    config = quick(
        6000,
        world=box_folder if observation == "latents" else None,
        source=side(algorithm == "sac"),
        evaluation=EvaluationConfig(every=512, episodes=25, num_envs=25, dream=False, stop=stop),
        checkpoint_steps=6000,
    )
    settings = LEARNING[algorithm] | {"gamma": 0.5, "features_dim": 64}
    config.agent = AgentConfig(algorithm, observation, num_envs=8, hyperparameters=settings)
    last = EvaluationHistory(train_agent(config), 6000).rows[-1]
    assert last["mean"] >= 3.6
    assert last["steps"] < 6000


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "dqn"])
def test_the_defaults_solve_catch(tmp_path: Path, algorithm: str) -> None:
    """The best return is known exactly; the default settings come near it in 30,000 steps."""
    config = TrainAgentConfig(
        source=SourceConfig("worldflow/Catch-v0"),
        agent=AgentConfig(algorithm),
        total_steps=30_000,
        evaluation=EvaluationConfig(every=30_000, episodes=300, num_envs=50),
        out=str(tmp_path),
        progress=False,
    )
    mean = EvaluationHistory(train_agent(config), 40_000).rows[-1]["mean"]
    assert mean > optimal_return() - 0.1


@pytest.mark.parametrize(("observation", "frame_stack"), [("frames", 2), ("latents", 2)])
def test_the_same_agent_for_real(
    quick: Quick, tmp_path: Path, observation: str, frame_stack: int
) -> None:
    """`real=true` differs from a dream in nothing but where the steps are taken."""
    shared: dict[str, Any] = {"observation": observation, "frame_stack": frame_stack}
    dreamer = train_agent(quick(out="dream", **shared))
    player = train_agent(quick(out="real", real=True, **shared))
    (mine, card), (theirs, other) = (load_agent(out, "cpu") for out in (dreamer, player))
    assert mine.observation_space == theirs.observation_space
    assert card.agent == other.agent
    assert card.world == other.world
    assert card.source is None
    assert other.source == SourceConfig("worldflow/Catch-v0")
    found = evaluate_agent(
        EvaluateAgentConfig(AgentPath(str(player)), episodes=3, num_envs=2, progress=False)
    )
    assert [row.place for row in found] == ["dream", "dream", "real", "real"]


def test_an_agent_that_knows_no_world(quick: Quick, world_folder: Path, side: Side) -> None:
    out = train_agent(quick(world=None, source=SourceConfig("worldflow/Catch-v0")))
    settings = EvaluateAgentConfig(AgentPath(str(out)), episodes=3, num_envs=2, progress=False)
    with pytest.raises(ConfigError, match="dream=false"):
        evaluate_agent(settings)
    real = evaluate_agent(replace(settings, dream=False))
    assert [row.lengths for row in real] == [[7] * 3] * 2
    both = evaluate_agent(replace(settings, world=EvaluationWorld(str(world_folder))))
    assert both[2:] == real
    with pytest.raises(ConfigError, match="eyes=codec"):
        evaluate_agent(replace(settings, dream=False, eyes="codec"))
    config = quick(world=None, source=side(False), observation="latents", out="blind")
    with pytest.raises(ConfigError, match="world's encoder"):
        train_agent(config)
    assert not Path(config.out).exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "agent"
    for settings, message in (
        ([], "nothing to learn in"),
        (["source=catch", "real=true"], "set one of them"),
        (["source=catch", "agent=sac"], "agent=ppo, a2c, dqn"),
        (["source=catch", "agent=dqn", "agent.hyperparameters.n_steps=8"], "unknown key 'n_steps'"),
        (["source=nothing"], "choose one of catch, gym, takecover"),
    ):
        assert command_line(["train-agent", f"out={out}", *settings]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
@pytest.mark.parametrize("reward", [RewardConfig(scale=0.5), RewardConfig(normalize=True)])
def test_rewards_are_changed_for_the_learner_alone(
    side: Side, algorithm: str, reward: RewardConfig
) -> None:
    settings: dict[str, Any] = {"features_dim": 16, "gamma": 0.9}
    settings |= {"n_steps": 8, "batch_size": 16} if algorithm == "ppo" else {"buffer_size": 1000}
    agent = AgentConfig(
        algorithm, num_envs=2, frame_stack=2, reward=reward, hyperparameters=settings
    )
    venv = Places.of(DreamConfig(), side(False), False).training_env(agent)
    model = build(agent, venv, 0, "cpu", None)
    model.learn(64)
    assert model.ep_info_buffer is not None
    # returns of whole episodes, as the game gives them
    assert {float(entry["r"]) for entry in model.ep_info_buffer} <= {0.0, 1.0, 2.0, 3.0, 4.0}
    normalizer = model.get_vec_normalize_env()
    assert (normalizer is not None) == reward.normalize
    seen = np.unique(venv.step(np.array([0, 1]))[1])
    if reward.normalize:
        assert isinstance(normalizer, VecNormalize)
        assert normalizer.gamma == 0.9
        assert seen[seen > 0] == pytest.approx(normalizer.ret_rms.var**-0.5)
    else:
        assert set(seen.tolist()) <= {0.0, 0.5}
    if isinstance(model, OffPolicyAlgorithm):
        buffer = model.replay_buffer
        assert buffer is not None
        # what is stored is not normalised, as the statistics still change; its frames are turned
        assert set(np.unique(buffer.rewards[:32])) == {0.0, 1.0 if reward.normalize else 0.5}
        assert buffer.observations.shape[1:] == (2, 6, 64, 64)
    venv.close()


def test_processes_give_the_same_episodes(quick: Quick, tmp_path: Path) -> None:
    weights = []
    for processes in (False, True):
        config = quick(64, world=None, source=SourceConfig("worldflow/Catch-v0"))
        out = str(tmp_path / str(processes))
        folder = train_agent(replace(config, processes=processes, out=out))
        weights.append(load_agent(folder)[0].policy.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name
    config.agent = replace(config.agent, observation="latents")
    with pytest.raises(ConfigError, match="processes=true is for agents on frames"):
        train_agent(replace(config, processes=True, out=str(tmp_path / "latents")))
    with pytest.raises(ConfigError, match="processes=true gives each real environment"):
        train_agent(replace(quick(), processes=True))


def test_a_process_that_dies_is_named_and_the_evaluator_is_closed(
    quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is that of the step: closing what is dead does not hide it."""
    closed: list[Evaluator] = []
    close = Evaluator.close

    def noted(evaluator: Evaluator) -> None:
        closed.append(evaluator)
        close(evaluator)

    def killing(model: Any, config: Any, keeper: Any, history: Any) -> None:
        worker = model.get_env().unwrapped.processes[0]
        worker.kill()
        worker.join()
        learn(model, config, keeper, history)

    learn = train_module._learn
    monkeypatch.setattr(Evaluator, "close", noted)
    monkeypatch.setattr(train_module, "_learn", killing)
    evaluation = EvaluationConfig(every=16, episodes=1)
    config = quick(world=None, source=SourceConfig("worldflow/Catch-v0"), evaluation=evaluation)
    with pytest.raises((EOFError, BrokenPipeError, ConnectionResetError)):
        train_agent(replace(config, processes=True))
    assert len(closed) == 1
