"""What PPO makes of the ends of imagined episodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from worldflow.agents.algorithms import AgentConfig, build
from worldflow.agents.hyperparameters import PPOConfig
from worldflow.agents.sb3 import ImaginedVecEnv, wrap
from worldflow.envs.imagination import Imagination
from worldflow.world_model import WorldModel

FOREVER = 1_000_000


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("ends", ["truncated", "terminated"])
def test_the_horizon_is_bootstrapped_and_an_end_is_not(
    scripted_world: Callable[..., WorldModel],
    monkeypatch: pytest.MonkeyPatch,
    frame_stack: int,
    ends: str,
) -> None:
    """A known answer: reward 1 a step, value 10 everywhere, every episode of one step."""
    world = scripted_world(1 if ends == "terminated" else FOREVER)  # step 1 rewards 1
    imagination = Imagination(world, 2, horizon=1)
    venv = wrap(ImaginedVecEnv(imagination), frame_stack)
    ppo = PPOConfig(n_steps=4, batch_size=8, n_epochs=1, gamma=0.9, features_dim=16)
    agent = AgentConfig(num_envs=2, frame_stack=frame_stack, hyperparameters=ppo)
    model = build(agent, venv, 0, "cpu", None)
    assert isinstance(model, PPO)
    valued: list[tuple[int, ...]] = []

    def ten(observation: torch.Tensor) -> torch.Tensor:
        valued.append(tuple(observation.shape))
        return torch.full((len(observation), 1), 10.0)

    monkeypatch.setattr(model.policy, "predict_values", ten)
    _, callback = model._setup_learn(8)
    assert model.env is not None
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=4)
    expected = 1.0 + 0.9 * 10.0 if ends == "truncated" else 1.0
    assert model.rollout_buffer.rewards == pytest.approx(np.full((4, 2), expected))
    last = [(2, 3 * frame_stack, 64, 64)]
    cut = [(1, 3 * frame_stack, 64, 64)] * 8 if ends == "truncated" else []
    assert valued == cut + last
