"""The settings of each learning algorithm, under Stable-Baselines3's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldflow.errors import ConfigError

POSITIVE = {"n_steps", "batch_size", "n_epochs", "buffer_size", "train_freq", "gradient_steps"}
POSITIVE |= {"target_update_interval", "features_dim"}
SHARES = {"gamma", "gae_lambda", "tau", "exploration_fraction", "exploration_initial_eps"}
SHARES |= {"exploration_final_eps", "anneal_to"}


@dataclass
class Hyperparameters:
    """What all algorithms have.

    Attributes:
        learning_rate: the optimiser's, at the start.
        anneal: whether the learning rate falls linearly over `total_steps`.
        anneal_to: where it falls to, as a share of `learning_rate`.
        gamma: discount.
        features_dim: width of the image encoder's output; on latents, of the hidden layers.

    Raises:
        ConfigError: a number is outside its range.
    """

    learning_rate: float = 1e-3
    anneal: bool = True
    anneal_to: float = 0.0
    gamma: float = 0.97
    features_dim: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            self._check(name, value)

    def _check(self, name: str, value: Any) -> None:
        where = f"agent.hyperparameters.{name} is {value}; it must be"
        if name in POSITIVE and value < 1:
            raise ConfigError(f"{where} at least 1")
        if name in SHARES and not 0.0 <= value <= 1.0:
            raise ConfigError(f"{where} 0 to 1")
        if name in ("learning_rate", "initial_ent_coef") and not value > 0.0:
            raise ConfigError(f"{where} above 0")
        if name == "ent_coef" and value is not None and not value >= 0.0:
            raise ConfigError(f"{where} at least 0")


@dataclass
class PPOConfig(Hyperparameters):
    """Settings of PPO.

    Attributes:
        n_steps: steps of each env in a rollout.
        batch_size: samples in a minibatch; divides n_steps * num_envs.
        n_epochs: passes over a rollout.
        gae_lambda: bias against variance of the advantage.
        clip_range: clip of the probability ratio.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: clip of the gradient's norm.
    """

    n_steps: int = 64
    batch_size: int = 128
    n_epochs: int = 4
    gae_lambda: float = 0.8
    clip_range: float = 0.2
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


@dataclass
class A2CConfig(Hyperparameters):
    """Settings of A2C, with RMSProp.

    Attributes:
        n_steps: steps of each env in a rollout, of which each makes one update.
        gae_lambda: bias against variance of the advantage.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: clip of the gradient's norm.
        normalize_advantage: whether advantages are normalised over a rollout.
    """

    n_steps: int = 8
    gae_lambda: float = 0.9
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    normalize_advantage: bool = False


@dataclass
class ReplayConfig(Hyperparameters):
    """What algorithms with a replay buffer have.

    Attributes:
        buffer_size: transitions that are kept, over all envs; the oldest give way. Each holds two
            observations: 25 kB on frames of 64 x 64, times `frame_stack`.
        learning_starts: steps, over all envs, before the first update.
        batch_size: transitions in an update.
        train_freq: steps of each env between two rounds of updates.
        gradient_steps: updates in a round.
        tau: share of the learned weights in an update of the target's.
        target_update_interval: DQN: steps, over all envs, between two updates of the target; SAC:
            gradient steps.
    """

    buffer_size: int = 20_000
    learning_starts: int = 1000
    batch_size: int = 64
    train_freq: int = 1
    gradient_steps: int = 4
    tau: float = 1.0
    target_update_interval: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_starts < 0:
            raise ConfigError(
                f"agent.hyperparameters.learning_starts is {self.learning_starts}; it must not be "
                "negative"
            )


@dataclass
class DQNConfig(ReplayConfig):
    """Settings of DQN (a target network, one-step targets, epsilon-greedy).

    Attributes:
        exploration_fraction: share of `total_steps` over which epsilon falls.
        exploration_initial_eps: epsilon at the start.
        exploration_final_eps: epsilon from then on.
        max_grad_norm: clip of the gradient's norm.
    """

    exploration_fraction: float = 0.3
    exploration_initial_eps: float = 1.0
    exploration_final_eps: float = 0.05
    max_grad_norm: float = 10.0


@dataclass
class SACConfig(ReplayConfig):
    """Settings of SAC.

    Attributes:
        ent_coef: weight of the entropy; learned, towards `target_entropy`, if None.
        initial_ent_coef: where the learned weight starts. Stable-Baselines3's own 1 outweighs
            rewards of that size for thousands of updates.
        target_entropy: nats, of the learned weight; minus the dimensions of the actions if None.
    """

    batch_size: int = 128
    tau: float = 0.01
    target_update_interval: int = 1
    ent_coef: float | None = None
    initial_ent_coef: float = 0.1
    target_entropy: float | None = None
