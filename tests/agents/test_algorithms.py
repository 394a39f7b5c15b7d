"""The learners: what they learn, and which network fits what they see."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN

from worldflow.actions import ActionSpec
from worldflow.agents.algorithms import (
    ALGORITHMS,
    AgentConfig,
    LinearDecay,
    build,
    check_actions,
)
from worldflow.agents.hyperparameters import PPOConfig
from worldflow.agents.latent_network import SharedTokens
from worldflow.agents.places import for_agent
from worldflow.agents.rewards import RewardConfig
from worldflow.agents.sb3 import ImaginedVecEnv, wrap
from worldflow.envs.imagination import Imagination
from worldflow.envs.spaces import OBSERVATIONS
from worldflow.envs.transition import Transition
from worldflow.errors import ConfigError
from worldflow.testing import tiny_world

# Enough of each to find the one action that is rewarded.
REPLAY = {
    "learning_starts": 128,
    "batch_size": 32,
    "gradient_steps": 2,
    "target_update_interval": 64,
}
LEARNING: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 64},
    "a2c": {},
    "dqn": REPLAY,
    "sac": REPLAY | {"target_update_interval": 1, "tau": 0.05, "learning_rate": 3e-3},
}


@pytest.mark.parametrize(
    ("algorithm", "observation", "reader"),
    [
        # three networks with an encoder each
        pytest.param(*pair, "flat", marks=pytest.mark.slow if pair == ("sac", "frames") else ())
        for pair in itertools.product(ALGORITHMS, OBSERVATIONS)
    ]
    + [(algorithm, "latents", "shared") for algorithm in ALGORITHMS],
)
def test_it_learns_what_the_dream_rewards(
    monkeypatch: pytest.MonkeyPatch, algorithm: str, observation: str, reader: str
) -> None:
    """A known answer: only action 2 is rewarded; on continuous ones, the larger the better."""
    boxed = algorithm == "sac"
    spec = ActionSpec("box", low=(-2.0,), high=(2.0,)) if boxed else ActionSpec("discrete", n=3)
    imagination = Imagination(tiny_world(spec), 8, horizon=4, observation=observation)
    step = imagination.step

    def rewarding(actions: np.ndarray, skip: np.ndarray | None = None) -> Transition:
        rewards = actions[:, 0] if boxed else actions == 2
        return replace(step(actions, skip), rewards=rewards.astype(np.float64))

    monkeypatch.setattr(imagination, "step", rewarding)
    settings = LEARNING[algorithm] | {"features_dim": 32, "gamma": 0.5}
    agent = AgentConfig(
        algorithm, observation, num_envs=8, hyperparameters=settings, latent_network=reader
    )
    model = build(agent, for_agent(ImaginedVecEnv(imagination), agent), 0, "cpu", None)
    model.learn(1024)
    actions, _ = model.predict(imagination.reset().observations, deterministic=True)
    if boxed:
        assert (actions > 1.5).all()
    else:
        assert actions.tolist() == [2] * 8


@pytest.mark.parametrize(
    ("observation", "reader", "policy", "extractor", "hidden"),
    [
        ("frames", "flat", ActorCriticCnnPolicy, NatureCNN, []),
        ("latents", "flat", ActorCriticPolicy, FlattenExtractor, [24, 24]),
        ("latents", "shared", ActorCriticPolicy, SharedTokens, [24]),
    ],
)
@pytest.mark.parametrize("frame_stack", [1, 3])
def test_the_network_fits_what_is_seen(
    observation: str,
    reader: str,
    policy: type,
    extractor: type,
    hidden: list[int],
    frame_stack: int,
) -> None:
    imagination = Imagination(tiny_world(), 2, observation=observation)
    venv = wrap(ImaginedVecEnv(imagination), frame_stack)
    ppo = PPOConfig(n_steps=8, batch_size=16, features_dim=24)
    agent = AgentConfig(
        observation=observation,
        latent_network=reader,
        num_envs=2,
        frame_stack=frame_stack,
        hyperparameters=ppo,
    )
    network = build(agent, venv, 0, "cpu", None).policy
    assert type(network) is policy
    assert type(network.features_extractor) is extractor
    assert network.net_arch == hidden or network.net_arch == {"pi": hidden, "vf": hidden}
    wanted = (16, 2 * frame_stack) if observation == "latents" else (3 * frame_stack, 64, 64)
    assert network.observation_space.shape == wanted


def test_a_shared_network_finds_a_thing_wherever_it_is() -> None:
    space = spaces.Box(-np.inf, np.inf, (4, 6), np.float32)
    network, chance = SharedTokens(space, 8), torch.Generator().manual_seed(0)
    thing, nothing = torch.randn(6, generator=chance), torch.randn(6, generator=chance)
    latents = nothing.repeat(4, 4, 1)  # (B, N, C): row k has the thing in token k
    latents[range(4), range(4)] = thing
    found = network.token(latents)
    for k in range(4):
        assert torch.equal(found[k, k], found[0, 0])
        assert torch.equal(found[k, (k + 1) % 4], found[0, 1])
    features = network(latents)  # and it knows where
    assert features.shape == (4, 8) and not torch.allclose(features[0], features[1])


def test_a_shared_network_reads_latents_only() -> None:
    with pytest.raises(ConfigError, match=r"agent\.latent_network=shared reads latents"):
        AgentConfig(latent_network="shared")
    with pytest.raises(ConfigError, match=r"latents are \(N, C\)"):
        SharedTokens(spaces.Box(0, 255, (64, 64, 3), np.uint8), 8)


def test_a_critic_on_frames_weighs_state_and_action_together() -> None:
    spec = ActionSpec("box", low=(-1.0,), high=(1.0,))
    agent = AgentConfig("sac", num_envs=2, hyperparameters={"features_dim": 24})
    venv = for_agent(ImaginedVecEnv(Imagination(tiny_world(spec), 2)), agent)
    model = build(agent, venv, 0, "cpu", None)
    assert isinstance(model, SAC)
    widths = [m.in_features for m in model.critic.qf0 if isinstance(m, torch.nn.Linear)]
    assert widths == [25, 24, 24]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "td3"}, r"agent\.algorithm is 'td3'; use one of ppo, a2c, dqn, sac"),
        ({"observation": "pixels"}, r"agent\.observation is 'pixels'; use one of frames, latents"),
        ({"num_envs": 3}, "batch_size"),
        ({"frame_stack": 0}, "frame_stack"),
        ({"hyperparameters": {"n_step": 3}}, "unknown key 'n_step'; did you mean 'n_steps'"),
        ({"hyperparameters": {"n_steps": "many"}}, r"hyperparameters\.n_steps='many'"),
        ({"hyperparameters": {"gamma": 1.5}}, r"hyperparameters\.gamma is 1\.5"),
        ({"hyperparameters": {"learning_rate": 0.0}}, r"learning_rate is 0\.0"),
        ({"hyperparameters": {"ent_coef": -1.0}}, r"ent_coef is -1\.0"),
        ({"algorithm": "sac", "hyperparameters": {"initial_ent_coef": 0.0}}, "initial_ent_coef"),
        ({"algorithm": "dqn", "hyperparameters": {"buffer_size": 0}}, "buffer_size is 0"),
        ({"algorithm": "dqn", "hyperparameters": {"learning_starts": -1}}, "learning_starts"),
        ({"algorithm": "dqn", "hyperparameters": PPOConfig()}, "takes a DQNConfig"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgentConfig(**settings)


def test_bad_rewards() -> None:
    for settings, message in (
        ({"scale": 0.0}, r"reward\.scale is 0\.0"),
        ({"clip": -1.0}, r"reward\.clip is -1\.0"),
        ({"scale": 2.0, "normalize": True}, "set one"),
    ):
        with pytest.raises(ConfigError, match=message):
            RewardConfig(**settings)


def test_an_algorithm_that_cannot_take_the_actions_says_which_can() -> None:
    box, discrete = ActionSpec("box", low=(-1.0,), high=(1.0,)), ActionSpec("discrete", n=2)
    with pytest.raises(ConfigError, match=r"agent=sac .*discrete.*agent=ppo, a2c, dqn$"):
        check_actions("sac", discrete)
    with pytest.raises(ConfigError, match=r"agent=dqn .*continuous.*agent=ppo, a2c, sac$"):
        check_actions("dqn", box)
    for name in ("ppo", "a2c"):
        check_actions(name, box)
        check_actions(name, discrete)


def test_the_learning_rate_falls_to_what_is_asked() -> None:
    decay = LinearDecay(0.5, 0.1)
    assert [decay(1.0), decay(0.5), decay(0.0)] == pytest.approx([0.5, 0.3, 0.1])
    venv = for_agent(ImaginedVecEnv(Imagination(tiny_world(), 2)), AgentConfig(num_envs=2))
    for settings, end in (({"anneal_to": 0.25}, 0.25), ({"anneal": False}, 1.0)):
        agent = AgentConfig(num_envs=2, hyperparameters={"learning_rate": 1.0, **settings})
        assert build(agent, venv, 0, "cpu", None).lr_schedule(0.0) == end
