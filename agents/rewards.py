"""What is done to rewards before an agent learns from them; its returns are reported without it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from worldflow.agents.dreams import DreamConfig
from worldflow.envs.novelty_wrappers import NOVELTY_LIMIT
from worldflow.envs.vector_rows import undefined_score
from worldflow.errors import ConfigError


@dataclass
class RewardConfig:
    """How rewards reach the learner.

    Attributes:
        scale: a constant factor.
        normalize: divide rewards by a running standard deviation of the discounted return
            (Stable-Baselines3's `VecNormalize`); the mean is kept, so that signs are.
        clip: limit of the absolute value of a normalised reward.

    Raises:
        ConfigError: a number is not positive, or both kinds of scaling are asked for.
    """

    scale: float = 1.0
    normalize: bool = False
    clip: float = 10.0

    def __post_init__(self) -> None:
        for name in ("scale", "clip"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"agent.reward.{name} is {getattr(self, name)}; it must be positive and finite"
                )
        if self.normalize and self.scale != 1.0:
            raise ConfigError(
                f"agent.reward.normalize=true makes agent.reward.scale={self.scale} void: set one"
            )


class ScaledReward(VecEnvWrapper):
    """Rewards times a constant."""

    def __init__(self, venv: VecEnv, scale: float) -> None:
        super().__init__(venv)
        self._scale = scale

    def reset(self) -> VecEnvObs:
        """As the env beneath."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """As the env beneath, with its rewards scaled."""
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, (rewards * self._scale).astype(np.float32), dones, infos


class Shaping(VecEnvWrapper, ABC):
    """Rewards with something added, which infos have as `shaping`: of all such wrappers, the sum.

    Stable-Baselines3's environments cannot be wrapped in Gymnasium's wrappers.
    """

    def reset(self) -> VecEnvObs:
        """As the env beneath."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """As the env beneath, with other rewards."""
        observations, rewards, dones, infos = self.venv.step_wait()
        change = self._change(dones, infos)
        infos = [
            info | {"shaping": info.get("shaping", 0.0) + value}
            for info, value in zip(infos, change.tolist(), strict=True)
        ]
        return observations, (rewards + change).astype(np.float32), dones, infos

    @abstractmethod
    def _change(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """What is added to the rewards of a step, (B,)."""


class NoveltyShaping(Shaping):
    """rewards + factor * min(novelty, limit), of a dream's frames.

    The formula of `NoveltyReward` (factor > 0) and `PessimisticReward` (factor < 0).

    Args:
        venv: with `novelty` in its infos, that of the step's own frame also where it was reset.
        factor: reward for one standard deviation.
        limit: of the novelty that counts.

    Raises:
        ConfigError: in a step, novelty is NaN, since the world is not calibrated.
    """

    def __init__(self, venv: VecEnv, factor: float, limit: float) -> None:
        super().__init__(venv)
        self._factor, self._limit = factor, limit

    def _change(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        novelty = np.array([info["novelty"] for info in infos])
        if np.isnan(novelty).any():
            raise undefined_score("novelty")
        return self._factor * np.minimum(novelty, self._limit)


class ExpectedEnds(Shaping):
    """rewards + worth * ([the episode ended] - p), p the probability with which the end was drawn.

    A control variate: whatever the worth, what is added has mean zero given the past and the
    action, so that no policy's expected return changes. Where it is about what a state is worth,
    the learner no longer waits for the draw: a step that nearly ended the episode is as bad as one
    that may have. Only a world that says p can do this; a real game shows the draw alone.

    (Up to `agent.reward.clip`, where that cuts a normalised reward, and to DQN's loss, which is no
    mean's. Infos have what was added in their `shaping`.)

    Args:
        venv: with `termination_probability` in its infos, see `ImaginedVecEnv`.
        worth: of a state, in units of reward: about r / (1 - gamma (1 - h)) where a step gives r
            and ends the episode with probability h.
    """

    def __init__(self, venv: VecEnv, worth: float) -> None:
        super().__init__(venv)
        self._worth = worth

    def _change(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        expected = np.array([info["termination_probability"] for info in infos])
        ended = dones & ~np.array([info["TimeLimit.truncated"] for info in infos])
        return self._worth * (ended - expected)


def shape_rewards(venv: VecEnv, dream: DreamConfig) -> VecEnv:
    """Add the bonus, the penalty and the expected ends of a dream, if any.

    They belong around what records returns, which are reported without them.
    """
    if dream.bonus:
        venv = NoveltyShaping(venv, dream.bonus, NOVELTY_LIMIT)
    if dream.pessimism:
        venv = NoveltyShaping(venv, -dream.pessimism, math.inf)
    if dream.expected_ends:
        venv = ExpectedEnds(venv, dream.expected_ends)
    return venv


def change_rewards(venv: VecEnv, config: RewardConfig, gamma: float) -> VecEnv:
    """Add what the settings ask for.

    It belongs around all other wrappers: Stable-Baselines3 stores what `VecNormalize` was given.

    Args:
        venv: the environment as the agent sees it.
        config: what to do.
        gamma: the agent's discount.
    """
    if config.scale != 1.0:
        venv = ScaledReward(venv, config.scale)
    if config.normalize:
        venv = VecNormalize(
            venv, norm_obs=False, norm_reward=True, clip_reward=config.clip, gamma=gamma
        )
    return venv


def reward_state(venv: VecEnv | None) -> dict[str, float] | None:
    """The statistics that rewards are normalised by, JSON-able; None where they are not."""
    if not isinstance(venv, VecNormalize):
        return None
    found = venv.ret_rms
    return {"mean": float(found.mean), "var": float(found.var), "count": float(found.count)}


def restore_rewards(venv: VecEnv | None, state: dict[str, float] | None) -> None:
    """Put back what `reward_state` gave."""
    if isinstance(venv, VecNormalize):
        assert state is not None  # the settings are the same as when it was saved
        found = venv.ret_rms
        found.mean, found.var = np.array(state["mean"]), np.array(state["var"])
        found.count = state["count"]
