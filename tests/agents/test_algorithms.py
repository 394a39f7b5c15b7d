"""The learners: what they learn, and which network fits what they see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN

from worldflow.agents.algorithms import AgentConfig, PPOConfig, build
from worldflow.agents.sb3 import ImaginedVecEnv, wrap
from worldflow.envs.imagination import Imagination
from worldflow.envs.spaces import OBSERVATIONS
from worldflow.envs.transition import Transition
from worldflow.errors import ConfigError
from worldflow.testing import tiny_world


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_ppo_learns_what_the_dream_rewards(
    monkeypatch: pytest.MonkeyPatch, observation: str
) -> None:
    """A known answer: only action 2 is rewarded."""
    imagination = Imagination(tiny_world(), 8, horizon=4, observation=observation)
    step = imagination.step

    def rewarding(actions: np.ndarray, skip: np.ndarray | None = None) -> Transition:
        return replace(step(actions, skip), rewards=(actions == 2).astype(np.float64))

    monkeypatch.setattr(imagination, "step", rewarding)
    venv = wrap(ImaginedVecEnv(imagination), 1)
    ppo = PPOConfig(n_steps=16, batch_size=64, n_epochs=4, features_dim=32)
    agent = AgentConfig(observation=observation, num_envs=8, hyperparameters=ppo)
    model = build(agent, venv, 0, "cpu", None)
    model.learn(1024)
    actions, _ = model.predict(imagination.reset().observations, deterministic=True)
    assert actions.tolist() == [2] * 8


@pytest.mark.parametrize(
    ("observation", "policy", "extractor", "hidden"),
    [
        ("frames", ActorCriticCnnPolicy, NatureCNN, []),
        ("latents", ActorCriticPolicy, FlattenExtractor, [24, 24]),
    ],
)
@pytest.mark.parametrize("frame_stack", [1, 3])
def test_the_network_fits_what_is_seen(
    observation: str, policy: type, extractor: type, hidden: list[int], frame_stack: int
) -> None:
    imagination = Imagination(tiny_world(), 2, observation=observation)
    venv = wrap(ImaginedVecEnv(imagination), frame_stack)
    ppo = PPOConfig(n_steps=8, batch_size=16, features_dim=24)
    agent = AgentConfig(
        observation=observation, num_envs=2, frame_stack=frame_stack, hyperparameters=ppo
    )
    network = build(agent, venv, 0, "cpu", None).policy
    assert type(network) is policy
    assert type(network.features_extractor) is extractor
    assert network.net_arch == hidden or network.net_arch == {"pi": hidden, "vf": hidden}
    wanted = (16, 2 * frame_stack) if observation == "latents" else (3 * frame_stack, 64, 64)
    assert network.observation_space.shape == wanted


def test_bad_settings() -> None:
    for settings, message in (
        ({"algorithm": "dqn"}, r"agent\.algorithm is 'dqn'; use one of ppo"),
        ({"observation": "pixels"}, r"agent\.observation is 'pixels'; use one of frames, latents"),
        ({"num_envs": 3}, "batch_size"),
        ({"frame_stack": 0}, "frame_stack"),
    ):
        with pytest.raises(ConfigError, match=message):
            AgentConfig(**settings)  # type: ignore[arg-type]
