"""What an agent does: figures with known answers, and a collapse that shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC

from worldflow.actions import ActionSpec
from worldflow.agents.algorithms import AgentConfig, build
from worldflow.agents.behaviour import Behaviour, policy_entropy
from worldflow.agents.places import for_agent
from worldflow.agents.sb3 import ImaginedVecEnv
from worldflow.envs.imagination import Imagination
from worldflow.testing import tiny_world

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
BOX = ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 10.0))


def model_of(algorithm: str, spec: ActionSpec | None = None) -> PPO | SAC:
    agent = AgentConfig(algorithm, num_envs=2, hyperparameters={"features_dim": 16})
    venv = for_agent(ImaginedVecEnv(Imagination(tiny_world(spec), 2)), agent)
    model = build(agent, venv, 0, "cpu", None)
    assert isinstance(model, PPO | SAC)
    return model


def test_entropy_of_known_policies() -> None:
    model = model_of("ppo")
    head = model.policy.action_net
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.log(torch.tensor([0.5, 0.25, 0.25])))
    found = policy_entropy(model, FRAMES)
    assert found == pytest.approx(np.full(5, 1.5 * np.log(2)))
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, 100.0, 0.0]))
    assert policy_entropy(model, FRAMES) == pytest.approx(np.zeros(5))
    gaussian = model_of("ppo", BOX)
    with torch.no_grad():
        gaussian.policy.log_std.fill_(np.log(0.5))
    wanted = 2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.5))
    assert policy_entropy(gaussian, FRAMES) == pytest.approx(np.full(5, wanted))


def test_entropy_of_sac_is_that_of_a_squashed_gaussian() -> None:
    model = model_of("sac", BOX)
    assert isinstance(model, SAC)
    with torch.no_grad():  # mean 0 and log std -3: tanh is nearly the identity
        for layer in (model.actor.mu, model.actor.log_std):
            layer.weight.zero_()
            layer.bias.zero_()
        model.actor.log_std.bias.fill_(-3.0)
    torch.manual_seed(0)
    found = policy_entropy(model, np.repeat(FRAMES, 400, axis=0))
    assert found is not None
    wanted = 2 * (0.5 * np.log(2 * np.pi * np.e) - 3.0)
    assert found.mean() == pytest.approx(wanted, abs=0.1)


def test_a_collapse_shows() -> None:
    model = model_of("ppo")
    with torch.no_grad():
        model.policy.action_net.bias.copy_(torch.tensor([0.0, 100.0, 0.0]))
    behaviour = Behaviour(model, ActionSpec("discrete", n=3))
    behaviour.watch(FRAMES, model.predict(FRAMES, deterministic=True)[0])
    assert behaviour.summary() == {
        "policy_entropy": pytest.approx(0.0),
        "action_frequencies": [0.0, 1.0, 0.0],
        "action_entropy": 0.0,
    }


def test_frequencies_over_several_steps() -> None:
    behaviour = Behaviour(model_of("ppo"), ActionSpec("discrete", n=3))
    behaviour.watch(FRAMES, np.array([0, 0, 1, 1, 1]))
    behaviour.watch(FRAMES[:3], np.array([0, 0, 1]))
    found = behaviour.summary()
    assert found["action_frequencies"] == [0.5, 0.5, 0.0]
    assert found["action_entropy"] == pytest.approx(np.log(2))
    assert 0.0 < found["policy_entropy"] <= np.log(3)


def test_continuous_actions() -> None:
    behaviour = Behaviour(model_of("ppo", BOX), BOX)
    actions = np.array([[-1.0, 5.0], [1.0, 5.0], [0.0, 9.95], [0.0, 0.05]], np.float32)
    behaviour.watch(FRAMES[:4], actions)
    found = behaviour.summary()
    assert found["action_mean"] == pytest.approx([0.0, 5.0])
    assert found["action_std"] == pytest.approx(actions.astype(np.float64).std(axis=0).tolist())
    assert found["action_at_limits"] == [0.5, 0.5]
