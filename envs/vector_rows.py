"""What wrappers of vector envs must know of autoreset: whose frame is whose."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from worldflow.errors import ConfigError


def autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """The mode that a vector env says it has.

    Raises:
        ConfigError: it says none.
    """
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise ConfigError(
            f"{env} has autoreset_mode={mode!r} in its metadata; a wrapper that follows episodes "
            "needs a gymnasium.vector.AutoresetMode there"
        )
    return mode


def reset_rows(options: dict[str, Any] | None, num_envs: int) -> np.ndarray:
    """The rows that a reset with these options resets, (num_envs,) bool; the options stay."""
    mask = (options or {}).get("reset_mask")
    return np.ones(num_envs, np.bool_) if mask is None else np.array(mask, np.bool_)


def last_observations(
    mode: AutoresetMode, observations: np.ndarray, ended: np.ndarray, infos: dict[str, Any]
) -> np.ndarray:
    """What the step's transitions led to, (B, ...): not what a reset in the same step returned."""
    if mode != AutoresetMode.SAME_STEP or not ended.any():
        return observations
    result = observations.copy()
    for row in np.flatnonzero(ended).tolist():
        result[row] = infos["final_obs"][row]
    return result


class RowScores:
    """Reads a score of each row's transition from the infos of a vector env.

    Args:
        env: the vector env.
        key: of the score.

    Raises:
        ConfigError: the env does not say its autoreset mode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], key: str) -> None:
        self.mode, self.key = autoreset_mode(env), key
        self._ended = np.zeros(env.num_envs, np.bool_)

    def reset(self, rows: np.ndarray) -> None:
        """Episodes began in these rows."""
        self._ended = self._ended & ~rows

    def step(self, ended: np.ndarray, infos: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Scores (B,) of the transitions, and the rows (B,) in which there was one; 0 elsewhere.

        Raises:
            ConfigError: a row that moved has no score.
        """
        moved = np.ones(len(ended), np.bool_)
        if self.mode == AutoresetMode.NEXT_STEP:
            moved = ~self._ended
        self._ended = ended.copy()
        final = ended if self.mode == AutoresetMode.SAME_STEP else np.zeros_like(ended)
        scores = np.zeros(len(ended))
        for rows, source in ((moved & ~final, infos), (final, infos.get("final_info", {}))):
            if rows.any():
                scores[rows] = self._read(rows, source)
        return scores, moved

    def _read(self, rows: np.ndarray, infos: dict[str, Any]) -> np.ndarray:
        if self.key not in infos or not np.asarray(infos[f"_{self.key}"])[rows].all():
            raise missing_score(self.key, "VectorLikelihoodInfo")
        values = np.asarray(infos[self.key], np.float64)[rows]
        if np.isnan(values).any():
            raise undefined_score(self.key)
        return values


def missing_score(key: str, wrapper: str) -> ConfigError:
    """The error for an env whose infos lack a score."""
    return ConfigError(
        f"the env's info has no {key!r}: this wrapper goes around StarFlowWorld-v0, or around "
        f"{wrapper}(real_env, world) for a real env"
    )


def undefined_score(key: str) -> ConfigError:
    """The error for a score that is NaN after a step."""
    return ConfigError(
        f"{key!r} is NaN after a step: the world is not calibrated; run `worldflow calibrate` "
        "on it, with the data it learned from"
    )
