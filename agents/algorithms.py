"""The learning algorithms and their settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from worldflow.envs.spaces import OBSERVATIONS
from worldflow.errors import ConfigError

# Whose saved agents can act, however they were trained.
LOADABLE: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN}


@dataclass
class PPOConfig:
    """Settings of PPO, under Stable-Baselines3's names.

    Attributes:
        learning_rate: Adam's, falling linearly to zero where `anneal` is set.
        anneal: whether the learning rate falls over the run.
        n_steps: steps of each env in a rollout.
        batch_size: samples in a minibatch; divides n_steps * num_envs.
        n_epochs: passes over a rollout.
        gamma: discount.
        gae_lambda: bias against variance of the advantage.
        clip_range: clip of the probability ratio.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: clip of the gradient's norm.
        features_dim: width of the image encoder's output; on latents, of both hidden layers.
    """

    learning_rate: float = 1e-3
    anneal: bool = True
    n_steps: int = 64
    batch_size: int = 128
    n_epochs: int = 4
    gamma: float = 0.97
    gae_lambda: float = 0.8
    clip_range: float = 0.2
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    features_dim: int = 256


@dataclass
class AgentConfig:
    """An agent: algorithm and what it sees.

    Attributes:
        algorithm: "ppo".
        observation: what it sees of a world: "frames", with Stable-Baselines3's `CnnPolicy`, or
            "latents", with its `MlpPolicy` and without running the codec's decoder.
        num_envs: imagined episodes advanced together.
        frame_stack: frames that the agent sees at once; 1 where one frame tells all.
        hyperparameters: the algorithm's own settings.

    Raises:
        ConfigError: algorithm or observation is unknown, or a rollout does not split into
            minibatches.
    """

    algorithm: str = "ppo"
    observation: str = "frames"
    num_envs: int = 16
    frame_stack: int = 1
    hyperparameters: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        for name, known in (("algorithm", ALGORITHMS), ("observation", OBSERVATIONS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"agent.{name} is {value!r}; use one of {', '.join(known)}")
        for name in ("num_envs", "frame_stack"):
            if getattr(self, name) < 1:
                raise ConfigError(f"agent.{name} is {getattr(self, name)}; it must be at least 1")
        rollout = self.num_envs * self.hyperparameters.n_steps
        if rollout % self.hyperparameters.batch_size:
            raise ConfigError(
                f"agent.hyperparameters.batch_size is {self.hyperparameters.batch_size}; it must "
                f"divide a rollout of num_envs * n_steps = {rollout} samples"
            )


@dataclass
class LinearDecay:
    """A learning rate that falls from `start` to zero.

    A class and not a closure, since it is saved with the agent.
    """

    start: float

    def __call__(self, progress_remaining: float) -> float:
        """The rate with this share (1 to 0) of the run still to come."""
        return self.start * progress_remaining


def _ppo(config: PPOConfig) -> dict[str, Any]:
    rate = config.learning_rate
    return {
        "learning_rate": LinearDecay(rate) if config.anneal else rate,
        "n_steps": config.n_steps,
        "batch_size": config.batch_size,
        "n_epochs": config.n_epochs,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "clip_range": config.clip_range,
        "ent_coef": config.ent_coef,
        "vf_coef": config.vf_coef,
        "max_grad_norm": config.max_grad_norm,
    }


def _policy(observation: str, width: int) -> dict[str, Any]:
    """The network that fits what is seen, as arguments of an algorithm's constructor."""
    if observation == "frames":
        extractor = {"features_extractor_kwargs": {"features_dim": width}}
        return {"policy": "CnnPolicy", "policy_kwargs": extractor}
    return {"policy": "MlpPolicy", "policy_kwargs": {"net_arch": [width, width]}}


@dataclass(frozen=True)
class Algorithm:
    """A way to train.

    Attributes:
        learner: Stable-Baselines3's class.
        arguments: what its constructor takes, from our settings.
    """

    learner: type[BaseAlgorithm]
    arguments: Callable[[PPOConfig], dict[str, Any]]


ALGORITHMS = {"ppo": Algorithm(PPO, _ppo)}


def build(
    config: AgentConfig, venv: VecEnv, seed: int, device: str, tensorboard: Path | None
) -> BaseAlgorithm:
    """A new learner on `venv`, seeded, logging to the folder `tensorboard` if given."""
    algorithm = ALGORITHMS[config.algorithm]
    return algorithm.learner(
        env=venv,
        tensorboard_log=None if tensorboard is None else str(tensorboard),
        seed=seed,
        device=device,
        **_policy(config.observation, config.hyperparameters.features_dim),
        **algorithm.arguments(config.hyperparameters),
    )
