"""Novelty as a bonus, a penalty and a limit, for dreams and for real envs (docs/novelty.md).

They read what `StarFlowWorld-v0`, or `LikelihoodInfo` around a real env, has put into `info`.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from worldflow.envs.transition import SCORES
from worldflow.envs.vector_rows import missing_score, undefined_score
from worldflow.errors import ConfigError
from worldflow.novelty import novelty_of
from worldflow.world_model import WorldModel

# Frames that have nothing to do with the world reach hundreds of standard deviations; a bonus for
# them would drown every reward.
NOVELTY_LIMIT = 10.0


class NoveltyReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A bonus for strange frames: reward + scale * min(novelty, limit).

    Args:
        env: with `novelty` in its info.
        scale: reward for one standard deviation.
        limit: of the novelty that is rewarded.

    Raises:
        ConfigError: scale or limit is not positive; later, a step has no novelty in its info.
        WorldFormatError: the dreamed world was calibrated before novelty had its present unit.
    """

    def __init__(
        self, env: gym.Env[Any, Any], scale: float = 0.01, limit: float = NOVELTY_LIMIT
    ) -> None:
        RecordConstructorArgs.__init__(self, scale=scale, limit=limit)
        gym.Wrapper.__init__(self, env)
        check_scale(scale, limit)
        check_calibrated(env, "novelty")
        self.scale, self.limit = scale, limit

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A step whose reward has the bonus."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        bonus = self.scale * min(_score(info, "novelty"), self.limit)
        return observation, float(reward) + bonus, terminated, truncated, info


class PessimisticReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A penalty where the world is not to be trusted: reward - scale * min(score, limit).

    After MOPO (Yu et al. 2020, 2005.13239), whose penalty is an estimate of the model's error.

    Args:
        env: with the score in its info.
        scale: lambda, reward lost for one unit of the score.
        score: "novelty" (standard deviations), or any other of `SCORES`, as "uncertainty" (nats).
        limit: of the score that is punished.

    Raises:
        ConfigError: an argument is out of range; later, a step has no such score in its info.
        WorldFormatError: as `NoveltyReward`, where novelty is the score.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        scale: float = 0.1,
        score: str = "novelty",
        limit: float = math.inf,
    ) -> None:
        RecordConstructorArgs.__init__(self, scale=scale, score=score, limit=limit)
        gym.Wrapper.__init__(self, env)
        check_scale(scale, limit)
        check_score(score)
        check_calibrated(env, score)
        self.scale, self.score, self.limit = scale, score, limit

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A step whose reward has the penalty."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        penalty = self.scale * min(_score(info, self.score), self.limit)
        return observation, float(reward) - penalty, terminated, truncated, info


class NoveltyTruncation(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Ends an episode where the world is left: truncated if novelty > max_novelty.

    Args:
        env: with `novelty` in its info.
        max_novelty: the limit in standard deviations; or
        p_value: the limit as the share of held-out real frames that lie beyond it.
        consecutive: so many steps in a row must lie beyond it.

    Raises:
        ConfigError: not one limit of the two, or one out of range; later, a step has no novelty in
            its info.
        WorldFormatError: the world is not calibrated.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        max_novelty: float | None = None,
        p_value: float | None = None,
        consecutive: int = 1,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, max_novelty=max_novelty, p_value=p_value, consecutive=consecutive
        )
        gym.Wrapper.__init__(self, env)
        self.max_novelty = novelty_limit(max_novelty, p_value, consecutive)
        check_calibrated(env, "novelty")
        self.consecutive = consecutive
        self._beyond = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and to count."""
        self._beyond = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step that may truncate; an episode that terminated in it is not truncated too."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        beyond = _score(info, "novelty") > self.max_novelty
        self._beyond = self._beyond + 1 if beyond else 0
        if self._beyond >= self.consecutive and not terminated:
            truncated = True
        return observation, reward, terminated, truncated, info


def check_scale(scale: float, limit: float) -> None:
    """Raises ConfigError unless both are positive and the scale is finite."""
    if not 0.0 < scale < math.inf or not limit > 0.0:
        raise ConfigError(f"scale={scale} must be positive and finite, limit={limit} positive")


def check_calibrated(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any], score: str) -> None:
    """Raises WorldFormatError if the score is novelty and a dream's world has no table of it."""
    world = getattr(env.unwrapped, "world", None)  # of a dream; a real env's was asked before
    if score == "novelty" and isinstance(world, WorldModel):  # Box2D's envs have another `world`
        world.calibration.require("dreamed")


def check_score(score: str) -> None:
    """Raises ConfigError unless it is one of `SCORES`."""
    if score not in SCORES:
        raise ConfigError(f"score={score!r} is unknown; use one of {', '.join(SCORES)}")


def novelty_limit(max_novelty: float | None, p_value: float | None, consecutive: int) -> float:
    """The limit in standard deviations.

    Raises:
        ConfigError: both or none is given, or one is out of range.
    """
    if consecutive < 1:
        raise ConfigError(f"consecutive={consecutive} must be at least 1")
    if (max_novelty is None) == (p_value is None):
        raise ConfigError("give one limit, max_novelty=... or p_value=...")
    if p_value is not None:
        try:
            return novelty_of(p_value)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    assert max_novelty is not None
    if not max_novelty > 0.0:
        raise ConfigError(f"max_novelty={max_novelty} must be positive")
    return max_novelty


def _score(info: dict[str, Any], key: str) -> float:
    if key not in info:
        raise missing_score(key, "LikelihoodInfo")
    value = float(info[key])
    if math.isnan(value):
        raise undefined_score(key)
    return value
