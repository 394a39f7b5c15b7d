"""A training that starts from another agent's network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worldflow.agents.algorithms import ALGORITHMS
from worldflow.agents.saved import AgentCard, load_agent
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.errors import ConfigError
from worldflow.storage import save_world
from worldflow.testing import tiny_world

Quick = Callable[..., TrainAgentConfig]
STILL = {"learning_rate": 1e-30}  # no weight moves


def weights(folder: Path) -> torch.Tensor:
    values = load_agent(folder, "cpu")[0].policy.state_dict().values()
    return torch.cat([value.flatten() for value in values])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_starts_where_the_other_ended(
    quick: Quick, box_folder: Path, world_folder: Path, algorithm: str
) -> None:
    world = box_folder if algorithm == "sac" else world_folder
    first = train_agent(quick(32, algorithm=algorithm, world=world, out="first"))
    config = quick(
        16, algorithm=algorithm, world=world, out="second", seed=1, hyperparameters=STILL
    )
    second = train_agent(replace(config, initial_agent=str(first)))
    card = AgentCard.load(second)
    assert card.initial_agent == str(first) and card.steps == 16
    other = train_agent(replace(config, out=f"{config.out}_new"))
    targets = algorithm in ("dqn", "sac")  # moved to the others' by averages
    close = torch.allclose(weights(first), weights(second), atol=0.05 if targets else 1e-6)
    assert close and not torch.allclose(weights(first), weights(other), atol=0.05)
    if not targets:
        assert load_agent(second, "cpu")[0].num_timesteps == 16  # learning counts anew


def test_in_another_world_and_continued(quick: Quick, tmp_path: Path) -> None:
    """An agent on frames goes on in another world; killed there, it does so from its checkpoint."""
    save_world(tiny_world(seed=5), tmp_path / "other", "another tiny world\n")
    first = train_agent(quick(16, out="first"))
    config = replace(quick(16, out="second", world=tmp_path / "other"), initial_agent=str(first))
    out = train_agent(config)
    half = weights(out)
    train_agent(replace(config, total_steps=48))  # two rollouts more; the last has rate 0
    assert not torch.equal(half, weights(out)) and AgentCard.load(out).steps == 48
    with pytest.raises(ConfigError, match="begun with initial_agent="):
        train_agent(replace(config, total_steps=64, initial_agent=None))


def test_refused(quick: Quick, tmp_path: Path) -> None:
    first = train_agent(quick(16, out="first"))

    def start(message: str, agent: Path = first, **changes: object) -> None:
        config = quick(16, out=message[:9], **changes)
        with pytest.raises(ConfigError, match=message):
            train_agent(replace(config, initial_agent=str(agent)))

    start("holds no finished agent", tmp_path / "nowhere")
    start(r"agent\.algorithm=ppo, this training a2c", algorithm="a2c")
    start(r"agent\.frame_stack=1, this training 2", frame_stack=2)
    start("built otherwise", hyperparameters={"features_dim": 8})
    (first / "agent.zip").write_bytes(b"no zip file")
    start("built otherwise")
    save_world(tiny_world(seed=5), tmp_path / "other", "another tiny world\n")
    latents = train_agent(quick(16, out="latents", observation="latents"))
    start("latents of another codec", latents, observation="latents", world=tmp_path / "other")
