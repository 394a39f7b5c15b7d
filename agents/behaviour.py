"""What an agent does while it is judged: how often which action, and how sure its policy is.

A policy that collapsed to one action, held in every state, shows here before it shows in a return.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from worldflow.actions import ActionSpec

# An action counts as at a limit within this share of the range.
MARGIN = 0.01


def policy_entropy(model: BaseAlgorithm, observations: np.ndarray) -> np.ndarray | None:
    """Entropy of the policy in each state, (B,) float64 in nats; None where it has none (DQN).

    Exact for PPO and A2C (on continuous actions that of the Gaussian before it is clipped to the
    limits, which may be negative); for SAC minus the log-density of one drawn action, scaled to
    -1..1, whose mean over states is unbiased.

    Args:
        model: the agent.
        observations: (B, ...), as it is given them to act.
    """
    policy = model.policy
    seen = policy.obs_to_tensor(observations)[0]
    with torch.no_grad():
        if isinstance(policy, ActorCriticPolicy):
            entropy = policy.get_distribution(seen).entropy()
            assert entropy is not None  # only squashed Gaussians have none
        elif isinstance(model, SAC):
            entropy = -model.actor.action_log_prob(seen)[1]
        else:
            return None
    return entropy.double().cpu().numpy().reshape(len(observations))


class Behaviour:
    """Gathers what an agent does over some episodes.

    Args:
        model: the agent.
        spec: its actions.
    """

    def __init__(self, model: BaseAlgorithm, spec: ActionSpec) -> None:
        self._model, self._spec = model, spec
        self._actions: list[np.ndarray] = []
        self._entropies: list[np.ndarray] = []

    def watch(self, observations: np.ndarray, actions: np.ndarray) -> None:
        """Add the actions (B, ...) taken on observations (B, ...)."""
        self._actions.append(np.array(actions))
        entropy = policy_entropy(self._model, observations)
        if entropy is not None:
            self._entropies.append(entropy)

    def summary(self) -> dict[str, Any]:
        """JSON-able figures over all that was watched.

        `policy_entropy`: mean over states, in nats; None for DQN. On discrete actions
        `action_frequencies`, by action, and `action_entropy` of these frequencies, in nats: 0 where
        one action is always taken. On continuous ones `action_mean`, `action_std` by dimension,
        and `action_at_limits`, the share within a hundredth of the range of either limit.
        """
        actions = np.concatenate(self._actions)
        entropy = float(np.concatenate(self._entropies).mean()) if self._entropies else None
        figures: dict[str, Any] = {"policy_entropy": entropy}
        if self._spec.kind == "box":
            low, high = np.array(self._spec.low), np.array(self._spec.high)
            margin = MARGIN * (high - low)
            edge = (actions <= low + margin) | (actions >= high - margin)
            figures["action_mean"] = actions.mean(axis=0, dtype=np.float64).tolist()
            figures["action_std"] = actions.std(axis=0, dtype=np.float64).tolist()
            figures["action_at_limits"] = edge.mean(axis=0, dtype=np.float64).tolist()
            return figures
        counts = np.bincount(actions.reshape(-1).astype(np.int64), minlength=max(self._spec.n, 1))
        share = counts / counts.sum()
        taken = share[share > 0]
        figures["action_frequencies"] = share.tolist()
        figures["action_entropy"] = float(-(taken * np.log(taken)).sum()) + 0.0  # no minus zero
        return figures
