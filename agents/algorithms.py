"""The learning algorithms: what each needs, and how it is made from its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from worldflow.actions import ActionSpec
from worldflow.agents.hyperparameters import (
    A2CConfig,
    DQNConfig,
    Hyperparameters,
    PPOConfig,
    ReplayConfig,
    SACConfig,
)
from worldflow.agents.latent_network import SharedTokens
from worldflow.agents.rewards import RewardConfig
from worldflow.config import typed_settings
from worldflow.envs.spaces import OBSERVATIONS
from worldflow.errors import ConfigError

FLAT, SHARED = "flat", "shared"


@dataclass
class AgentConfig:
    """An agent: algorithm and what it sees.

    Attributes:
        algorithm: "ppo", "a2c", "dqn" or "sac".
        observation: what it sees: "frames", with Stable-Baselines3's `CnnPolicy`, or "latents" of a
            world, with its `MlpPolicy` and, in a dream, without running the codec's decoder.
        num_envs: episodes advanced together.
        frame_stack: frames that the agent sees at once; 1 where one frame tells all.
        reward: what is done to rewards before the agent learns from them.
        hyperparameters: the algorithm's own settings: an instance of its dataclass in
            `worldflow.agents.hyperparameters`, or a mapping, which becomes one; None for defaults.
            Which dataclass it is depends on `algorithm`, so read `settings`.
        latent_network: what reads latents: "flat", two hidden layers over all of them at once, or
            "shared", see `worldflow.agents.latent_network.SharedTokens`, before one.

    Raises:
        ConfigError: a setting is unknown or outside its range, or a rollout of PPO does not split
            into minibatches.
    """

    algorithm: str = "ppo"
    observation: str = "frames"
    num_envs: int = 16
    frame_stack: int = 1
    reward: RewardConfig = field(default_factory=RewardConfig)
    hyperparameters: Any = None
    latent_network: str = FLAT

    def __post_init__(self) -> None:
        choices: dict[str, Collection[str]] = {
            "algorithm": ALGORITHMS,
            "observation": OBSERVATIONS,
            "latent_network": (FLAT, SHARED),
        }
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"agent.{name} is {value!r}; use one of {', '.join(known)}")
        if self.latent_network != FLAT and self.observation != "latents":
            raise ConfigError(
                f"agent.latent_network={self.latent_network} reads latents, and the agent sees "
                f"{self.observation}: set agent.observation=latents, or leave it out"
            )
        for name in ("num_envs", "frame_stack"):
            if getattr(self, name) < 1:
                raise ConfigError(f"agent.{name} is {getattr(self, name)}; it must be at least 1")
        if isinstance(self.hyperparameters, Mapping):
            self.hyperparameters = typed_settings(
                ALGORITHMS[self.algorithm].settings, self.hyperparameters, "agent.hyperparameters"
            )
        settings = self.settings
        if isinstance(settings, PPOConfig):
            rollout = self.num_envs * settings.n_steps
            if rollout % settings.batch_size:
                raise ConfigError(
                    f"agent.hyperparameters.batch_size is {settings.batch_size}; it must divide a "
                    f"rollout of num_envs * n_steps = {rollout} samples"
                )

    @property
    def settings(self) -> Hyperparameters:
        """The algorithm's own settings, defaults included.

        Raises:
            ConfigError: they are those of another algorithm.
        """
        schema = ALGORITHMS[self.algorithm].settings
        found = schema() if self.hyperparameters is None else self.hyperparameters
        if type(found) is not schema:
            raise ConfigError(
                f"agent.hyperparameters is a {type(found).__name__}, but agent.algorithm="
                f"{self.algorithm} takes a {schema.__name__}"
            )
        return found


@dataclass
class LinearDecay:
    """A learning rate that falls in a line from `start` to `end`.

    A class and not a closure, since it is saved with the agent.
    """

    start: float
    end: float = 0.0

    def __call__(self, progress_remaining: float) -> float:
        """The rate with this share (1 to 0) of the run still to come."""
        return self.end + (self.start - self.end) * progress_remaining


def _rate(config: Hyperparameters) -> float | LinearDecay:
    if not config.anneal:
        return config.learning_rate
    return LinearDecay(config.learning_rate, config.anneal_to * config.learning_rate)


def _named(config: Hyperparameters, *names: str) -> dict[str, Any]:
    """Settings that have the same name and meaning in Stable-Baselines3."""
    return {name: getattr(config, name) for name in ("gamma", *names)}


def _ppo(config: PPOConfig) -> dict[str, Any]:
    names = ("n_steps", "batch_size", "n_epochs", "gae_lambda", "clip_range")
    return _named(config, *names, "ent_coef", "vf_coef", "max_grad_norm")


def _a2c(config: A2CConfig) -> dict[str, Any]:
    names = ("n_steps", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm")
    return _named(config, *names, "normalize_advantage")


def _replay(config: ReplayConfig, *names: str) -> dict[str, Any]:
    common = ("buffer_size", "learning_starts", "batch_size", "train_freq", "gradient_steps")
    return _named(config, *common, "tau", "target_update_interval", *names)


def _dqn(config: DQNConfig) -> dict[str, Any]:
    exploration = ("exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
    return _replay(config, *exploration, "max_grad_norm")


def _sac(config: SACConfig) -> dict[str, Any]:
    learned = f"auto_{config.initial_ent_coef}"
    return _replay(config) | {
        "ent_coef": learned if config.ent_coef is None else config.ent_coef,
        "target_entropy": "auto" if config.target_entropy is None else config.target_entropy,
    }


@dataclass(frozen=True)
class Algorithm:
    """A way to train.

    Attributes:
        learner: Stable-Baselines3's class.
        settings: dataclass of its settings.
        arguments: what its constructor takes, from our settings.
        actions: the kinds of actions it can take, see `worldflow.actions.ActionSpec`.
    """

    learner: type[BaseAlgorithm]
    settings: type[Hyperparameters]
    arguments: Callable[[Any], dict[str, Any]]
    actions: tuple[str, ...]


DISCRETE = ("discrete", "none")  # "none" is one action for Gymnasium
ALGORITHMS = {
    "ppo": Algorithm(PPO, PPOConfig, _ppo, (*DISCRETE, "box")),
    "a2c": Algorithm(A2C, A2CConfig, _a2c, (*DISCRETE, "box")),
    "dqn": Algorithm(DQN, DQNConfig, _dqn, DISCRETE),
    "sac": Algorithm(SAC, SACConfig, _sac, ("box",)),
}
# Whose saved agents can act, however they were trained.
LOADABLE: dict[str, type[BaseAlgorithm]] = {
    name: algorithm.learner for name, algorithm in ALGORITHMS.items()
}


def check_actions(algorithm: str, spec: ActionSpec) -> None:
    """Refuse an algorithm that cannot take these actions.

    Raises:
        ConfigError: it cannot; the message names those that can.
    """
    if spec.kind in ALGORITHMS[algorithm].actions:
        return
    able = [name for name, other in ALGORITHMS.items() if spec.kind in other.actions]
    kind = "continuous (box)" if spec.kind == "box" else "discrete"
    raise ConfigError(
        f"agent={algorithm} cannot take the {kind} actions of this environment; use one of "
        f"agent={', '.join(able)}"
    )


def _policy(config: AgentConfig) -> dict[str, Any]:
    """The network that fits what is seen, as arguments of an algorithm's constructor."""
    width = config.settings.features_dim
    if config.observation == "latents":
        if config.latent_network == FLAT:
            return {"policy": "MlpPolicy", "policy_kwargs": {"net_arch": [width, width]}}
        reader = {
            "net_arch": [width],
            "features_extractor_class": SharedTokens,
            "features_extractor_kwargs": {"features_dim": width},
        }
        return {"policy": "MlpPolicy", "policy_kwargs": reader}
    network: dict[str, Any] = {"features_extractor_kwargs": {"features_dim": width}}
    if config.algorithm == "sac":
        # Stable-Baselines3's default behind a CNN is no hidden layer: a critic that adds a term of
        # the state and one of the action, and so prefers the same action everywhere.
        network["net_arch"] = [width, width]
    return {"policy": "CnnPolicy", "policy_kwargs": network}


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
        learning_rate=_rate(config.settings),
        **_policy(config),
        **algorithm.arguments(config.settings),
    )
