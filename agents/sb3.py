"""A Stable-Baselines3 `VecEnv` directly over a world model.

Stable-Baselines3 takes no Gymnasium `VectorEnv`, and its own vectorisers would run the world once a
row; this one runs it once for all rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from worldflow.envs.imagination import Imagination
from worldflow.envs.spaces import action_space
from worldflow.envs.transition import Transition


class ImaginedVecEnv(VecEnv):
    """The rows of an `Imagination` as Stable-Baselines3 environments.

    A row whose episode ended is reset in the same step. Its info then holds the last observation as
    `terminal_observation`, and `TimeLimit.truncated`, by which algorithms tell the horizon, where
    they bootstrap the value, from a true end. All infos hold the scores of the step's own frame,
    see `StarFlowWorldEnv`. `seed` and `set_options({"context": index})` act at the next `reset`.

    Args:
        imagination: the rollouts; `num_envs` rows, and what is observed of them.
    """

    def __init__(self, imagination: Imagination) -> None:
        # The base class asks for this attribute in its constructor.
        self.render_mode = "rgb_array"
        self.imagination = imagination
        self._actions: np.ndarray | None = None
        actions = action_space(imagination.world.action_spec)
        super().__init__(imagination.num_envs, imagination.observation_space, actions)

    def reset(self) -> np.ndarray:
        """Start an episode in every row; returns observations (B, ...)."""
        unknown = {key for options in self._options for key in options} - {"context"}
        if unknown:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known is ['context']")
        contexts = [options.get("context") for options in self._options]
        transition = self.imagination.reset(seeds=self._seeds, contexts=contexts)
        self.reset_infos = _infos(transition)
        self._reset_seeds()
        self._reset_options()
        return transition.observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions (B, ...) for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Imagine one frame; returns observations, rewards (B,) float32, dones (B,) bool, infos."""
        if self._actions is None:
            raise RuntimeError("call step_async before step_wait")
        last = self.imagination.step(self._actions)
        self._actions = None
        infos = _infos(last)
        dones = last.terminated | last.truncated
        observations = last.observations
        for row, info in enumerate(infos):
            info["TimeLimit.truncated"] = bool(last.truncated[row])
        if dones.any():
            fresh = self.imagination.reset(dones)
            fresh_infos = _infos(fresh)
            for row in np.flatnonzero(dones).tolist():
                infos[row]["terminal_observation"] = last.observations[row]
                self.reset_infos[row] = fresh_infos[row]
            observations = fresh.observations
        return observations, last.rewards.astype(np.float32), dones, infos

    def get_images(self) -> list[np.ndarray | None]:
        """The frames now shown, one a row."""
        return list(self.imagination.frames)

    def close(self) -> None:
        """Nothing to free."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of this object, which all rows share, once for each row asked for."""
        return [getattr(self, attr_name) for _ in self._rows(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refused: the rows are no objects of their own."""
        raise AttributeError(f"the rows of an ImaginedVecEnv share {attr_name!r}; set it directly")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **_: Any
    ) -> list[Any]:
        """Refused: the rows are no objects of their own."""
        raise AttributeError(f"the rows of an ImaginedVecEnv have no method {method_name!r}")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for each row asked for."""
        return [False for _ in self._rows(indices)]

    def _rows(self, indices: VecEnvIndices) -> Iterable[int]:
        return self._get_indices(indices)


def wrap(venv: VecEnv, frame_stack: int) -> VecEnv:
    """Add what every agent is trained with: episode statistics and stacked frames."""
    monitored = VecMonitor(venv)
    if frame_stack == 1:
        return monitored
    return VecFrameStack(monitored, frame_stack, channels_order="last")


def _infos(transition: Transition) -> list[dict[str, Any]]:
    """One dict a row: numbers, and the iterations as an array."""
    # by columns: to read single numbers out of arrays takes several times as long
    columns = [
        values.tolist() if values.ndim == 1 else list(values)
        for values in transition.scores.values()
    ]
    names = list(transition.scores)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
