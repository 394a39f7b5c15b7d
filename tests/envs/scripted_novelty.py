"""Envs whose novelty is a script, for tests of the wrappers that read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class ScriptedNovelty(gym.Env[np.ndarray, np.int64]):
    """Step k of each episode has reward k, novelty `script[k - 1]`, uncertainty ten times that.

    It terminates after the script's last step. Observations count: 100 * episode + step.

    Args:
        script: of every episode.
        keys: which scores `info` has.
    """

    def __init__(
        self, script: Sequence[float], keys: Sequence[str] = ("novelty", "uncertainty")
    ) -> None:
        self.script, self.keys = script, keys
        self.observation_space = gym.spaces.Box(0, np.inf, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.episode, self.age = -1, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.age = 0 if seed is not None else self.episode + 1, 0
        return self._observe(), dict.fromkeys(self.keys, float("nan"))

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        novelty = float(self.script[self.age])
        self.age += 1
        scores = {"novelty": novelty, "uncertainty": 10.0 * novelty}
        info = {key: scores[key] for key in self.keys}
        return self._observe(), float(self.age), self.age == len(self.script), False, info

    def _observe(self) -> np.ndarray:
        return np.array([100 * self.episode + self.age], np.float32)


def scripted_batch(mode: AutoresetMode, *scripts: Sequence[float], **kwargs: Any) -> SyncVectorEnv:
    """A row for each script."""
    makers = [lambda script=script: ScriptedNovelty(script, **kwargs) for script in scripts]
    return SyncVectorEnv(makers, autoreset_mode=mode)
