"""The wrappers of `novelty_wrappers` for vector envs, with the same formulas row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from worldflow.envs.novelty_wrappers import (
    NOVELTY_LIMIT,
    check_calibrated,
    check_scale,
    check_score,
    novelty_limit,
)
from worldflow.envs.vector_rows import RowScores, autoreset_mode, reset_rows
from worldflow.errors import ConfigError

Seeds = int | Sequence[int | None] | None
Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class _ScoredReward(VectorWrapper[np.ndarray, Any, np.ndarray, Any, Any]):
    """rewards + factor * min(score, limit), where a row made a step."""

    def __init__(
        self, env: VectorEnv[np.ndarray, Any, Any], factor: float, score: str, limit: float
    ) -> None:
        super().__init__(env)
        check_scale(abs(factor), limit)
        check_score(score)
        check_calibrated(env, score)
        self._factor, self._limit = factor, limit
        self._scores = RowScores(env, score)

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes, in all rows or those of `options["reset_mask"]`."""
        self._scores.reset(reset_rows(options, self.num_envs))
        return self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]

    def step(self, actions: Any) -> Step:
        """A step with other rewards; a row that only reset keeps its reward of 0."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        scores, moved = self._scores.step(terminated | truncated, infos)
        change = self._factor * np.minimum(scores, self._limit)
        rewards = np.asarray(rewards, np.float64) + np.where(moved, change, 0.0)
        return observations, rewards, terminated, truncated, infos


class VectorNoveltyReward(_ScoredReward):
    """See `NoveltyReward`: rewards + scale * min(novelty, limit).

    Args:
        env: a vector env with `novelty` in its infos.
        scale: reward for one standard deviation.
        limit: of the novelty that is rewarded.

    Raises:
        ConfigError: scale or limit is not positive; later, a step has no novelty in its infos.
    """

    def __init__(
        self,
        env: VectorEnv[np.ndarray, Any, Any],
        scale: float = 0.01,
        limit: float = NOVELTY_LIMIT,
    ) -> None:
        super().__init__(env, scale, "novelty", limit)


class VectorPessimisticReward(_ScoredReward):
    """See `PessimisticReward`: rewards - scale * min(score, limit).

    Args:
        env: a vector env with the score in its infos.
        scale: lambda, reward lost for one unit of the score.
        score: "novelty" (standard deviations), or any other of `SCORES`.
        limit: of the score that is punished.

    Raises:
        ConfigError: an argument is out of range; later, a step has no such score in its infos.
    """

    def __init__(
        self,
        env: VectorEnv[np.ndarray, Any, Any],
        scale: float = 0.1,
        score: str = "novelty",
        limit: float = math.inf,
    ) -> None:
        super().__init__(env, -scale, score, limit)
        check_scale(scale, limit)


class VectorNoveltyTruncation(VectorWrapper[np.ndarray, Any, np.ndarray, Any, Any]):
    """See `NoveltyTruncation`: a row is truncated if its novelty > max_novelty.

    A row that this wrapper truncates must be reset, and only an env that resets no row by itself
    lets others do that. So the env's mode is DISABLED, and this wrapper's SAME_STEP: it resets at
    once what ended, for whatever reason, and has the last observation in `infos["final_obs"]`, its
    info in `infos["final_info"]`. The dream can also truncate by itself, in any mode: give
    `max_novelty` to `StarFlowWorld-v0`.

    Args:
        env: a vector env in DISABLED mode, with `novelty` in its infos.
        max_novelty: the limit in standard deviations; or
        p_value: the limit as the share of held-out real frames that lie beyond it.
        consecutive: so many steps in a row must lie beyond it.

    Raises:
        ConfigError: another autoreset mode, not one limit of the two, or one out of range; later, a
            step has no novelty in its infos.
        WorldFormatError: the world is not calibrated.
    """

    def __init__(
        self,
        env: VectorEnv[np.ndarray, Any, Any],
        max_novelty: float | None = None,
        p_value: float | None = None,
        consecutive: int = 1,
    ) -> None:
        super().__init__(env)
        mode = autoreset_mode(env)
        if mode != AutoresetMode.DISABLED:
            raise ConfigError(
                f"the env resets its rows by itself ({mode}), so that a row truncated here would "
                "go on; make it with autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED"
            )
        self.max_novelty = novelty_limit(max_novelty, p_value, consecutive)
        check_calibrated(env, "novelty")
        self.consecutive = consecutive
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self._scores = RowScores(env, "novelty")
        self._beyond = np.zeros(env.num_envs, np.int64)

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes, in all rows or those of `options["reset_mask"]`."""
        self._beyond[reset_rows(options, self.num_envs)] = 0
        return self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]

    def step(self, actions: Any) -> Step:
        """A step that may truncate rows, and resets all that ended."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        scores, _ = self._scores.step(terminated | truncated, infos)
        self._beyond = np.where(scores > self.max_novelty, self._beyond + 1, 0)
        truncated = truncated | ((self._beyond >= self.consecutive) & ~terminated)
        ended = terminated | truncated
        if not ended.any():
            return observations, rewards, terminated, truncated, infos
        # some envs write into the arrays that they returned
        rewards, terminated, last = rewards.copy(), terminated.copy(), observations.copy()
        infos = _copied(infos)
        self._beyond[ended] = 0
        observations, fresh = self.env.reset(options={"reset_mask": ended.copy()})
        final = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended).tolist():
            final[row] = last[row].copy()
        merged = _merged(infos, fresh, ended)
        merged["final_obs"], merged["_final_obs"] = final, ended.copy()
        merged["final_info"], merged["_final_info"] = _only(infos, ended), ended.copy()
        return observations, rewards, terminated, truncated, merged


def _copied(infos: dict[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, dict) else np.array(v) for k, v in infos.items()}


def _only(infos: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Infos of these rows alone: the masks of the others are taken away."""
    return {
        key: _only(value, rows)
        if isinstance(value, dict)
        else (value & rows if key.startswith("_") else value.copy())
        for key, value in infos.items()
    }


def _merged(infos: dict[str, Any], fresh: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """`infos`, with those of a reset in the rows that were reset; masks follow."""
    result = _only(infos, ~rows)
    for key, value in fresh.items():
        if isinstance(value, dict):
            result[key] = _merged(infos.get(key, {}), value, rows)
        elif key in result:
            result[key][rows] = value[rows]
        else:
            result[key] = np.array(value)
            if key.startswith("_"):
                result[key] &= rows
    return result
