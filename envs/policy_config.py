"""The settings of what acts while episodes are collected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldflow.errors import ConfigError

KINDS = ("random", "agent", "mixture")


@dataclass
class PolicyConfig:
    """What acts.

    Args:
        kind: "random", "agent" or "mixture" (one of the two for each whole episode).
        sticky: random: probability of repeating the last action instead of drawing a new one.
        weights: random: how often each of the discrete actions is drawn, relative to the others;
            None: all alike. For games in which even play by chance never meets a reward.
        agent: folder that `worldflow train-agent` wrote, or a `.zip` file that an algorithm of
            Stable-Baselines3 saved. Such files hold pickled Python objects: load no stranger's.
        algorithm: what saved a `.zip` file: "ppo", "a2c", "dqn" or "sac"; None for a folder, which
            says it itself.
        agent_probability: mixture: probability that an episode is the agent's.

    Raises:
        ConfigError: an unknown kind, no probability, weights that give none, or a missing agent.
    """

    kind: str = "random"
    sticky: float = 0.5
    weights: list[float] | None = None
    agent: str | None = None
    algorithm: str | None = None
    agent_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"policy.kind is {self.kind!r}; use one of {', '.join(KINDS)}")
        for name in ("sticky", "agent_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"policy.{name} is {getattr(self, name)}; it must be 0 to 1")
        if self.weights is not None:
            if not _are_weights(self.weights):
                raise ConfigError(
                    f"policy.weights is {self.weights}; it must be finite numbers that are not "
                    "negative, one for each action, with a positive sum"
                )
            if self.kind == "agent":
                raise ConfigError(
                    f"policy.weights={self.weights} with policy.kind=agent: nothing is drawn by "
                    "chance; use the kinds random or mixture"
                )
        if (self.kind == "random") != (self.agent is None):
            raise ConfigError(
                f"policy.kind={self.kind} with policy.agent={self.agent}: an agent's folder "
                "or .zip file belongs to the kinds agent and mixture, and only to these"
            )
        plain = self.agent is not None and self.agent.endswith(".zip")
        if plain != (self.algorithm is not None):
            raise ConfigError(
                f"policy.agent={self.agent} with policy.algorithm={self.algorithm}: a .zip file "
                "needs its algorithm (ppo, a2c, dqn, sac), and nothing else takes one"
            )


def _are_weights(weights: list[float]) -> bool:
    """Whether they become probabilities when divided by their sum."""
    found = np.asarray(weights, np.float64)
    return bool(np.isfinite(found).all() and (found >= 0.0).all() and found.sum() > 0.0)
