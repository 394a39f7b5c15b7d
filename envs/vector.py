"""`StarFlowWorld-v0` as a vector environment: one forward of the world for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldflow.envs.imagination import Imagination
from worldflow.envs.rendering import Window, tile
from worldflow.envs.spaces import action_space
from worldflow.envs.star_flow_world import RENDER_MODES, check_options, check_render_mode
from worldflow.envs.starts import Start
from worldflow.envs.transition import Transition
from worldflow.flow.guidance import Guidance
from worldflow.world_model import WorldModel

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class StarFlowWorldVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` imagined episodes, advanced together; see `StarFlowWorldEnv` for `info`.

    Every row has its own random numbers: what it returns depends on its own seed, actions and
    resets and on `num_envs`, not on what the other rows do.

    Args:
        num_envs: rows.
        world: the name or the folder of a world, or a `WorldModel`; a str where the `spec` is to be
            written as JSON.
        horizon: steps after which an episode is truncated.
        temperature: factor on the noise of every imagined frame; 1 is the model's distribution.
        render_mode: None, "rgb_array" or "human" (all rows in one window).
        observation: "frames" or "latents", as for the single env.
        novelty_window: as for the single env.
        max_novelty: as for the single env.
        initial_frames: as for the single env.
        prompt: as for the single env.
        guidance: as for the single env.
        guidance_over: as for the single env.
        max_episode_steps: Gymnasium's own time limit; the smaller of it and `horizon` counts.
        autoreset_mode: an `AutoresetMode` or its value. NEXT_STEP: the step after an episode's end
            ignores the row's action and returns the reset observation with reward 0. SAME_STEP: the
            observation after the reset is returned at once, the last one in `infos["final_obs"]`
            and its scores in `infos["final_info"]`. DISABLED: the caller resets rows by
            `options["reset_mask"]`.

    Raises:
        ValueError: an argument is out of range.
        WorldFormatError: the world cannot be loaded.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": list(RENDER_MODES),
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int,
        world: str | Path | WorldModel,
        horizon: int = 1000,
        temperature: float = 1.0,
        render_mode: str | None = None,
        observation: str = "frames",
        novelty_window: int = 1,
        max_novelty: float | None = None,
        initial_frames: str | Path | np.ndarray | None = None,
        prompt: str | None = None,
        guidance: float = 0.0,
        guidance_over: str = "text",
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        check_render_mode(render_mode)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        limit = horizon if max_episode_steps is None else min(horizon, max_episode_steps)
        start = Start(initial_frames, prompt, Guidance(guidance, guidance_over))
        self.imagination = Imagination(
            world, num_envs, limit, temperature, observation, novelty_window, max_novelty, start
        )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": self.world.spec.fps,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_observation_space = self.imagination.observation_space
        self.single_action_space = action_space(self.world.action_spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._window: Window | None = None

    @property
    def world(self) -> WorldModel:
        """The world model that is played."""
        return self.imagination.world

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start episodes in all rows, or in those of `options["reset_mask"]`.

        Args:
            seed: an int gives row i the seed `seed + i`; or one entry a row; None goes on with each
                row's own stream.
            options: `context`, one index or one a row, chooses the starting contexts;
                `reset_mask`, (num_envs,) bool, the rows to reset.

        Raises:
            ValueError: an unknown option, or one of the wrong length, type or range.
        """
        seeds: Sequence[int | None] | None
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            seeds = range(int(seed), int(seed) + self.num_envs)
        else:
            seeds = seed
        options = check_options(options, {"context", "reset_mask"})
        rows = self._reset_mask(options.get("reset_mask"))
        context = options.get("context")
        one_for_all = context is None or np.ndim(context) == 0
        contexts = [context] * self.num_envs if one_for_all else context
        transition = self.imagination.reset(rows, seeds, contexts)
        self._show()
        return transition.observations, self._infos(transition, rows)

    def step(self, actions: np.ndarray) -> Step:
        """Imagine the next frame of every row.

        Args:
            actions: (num_envs, ...), one action a row.

        Raises:
            ResetNeeded: before the first reset; in DISABLED mode also after a row's episode ended.
            ValueError: an action does not fit the action space.
        """
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            outcome = self._same_step(actions)
        elif self.autoreset_mode == AutoresetMode.NEXT_STEP:
            outcome = self._next_step(actions)
        else:
            transition = self.imagination.step(actions)
            outcome = self._outcome(transition, self._infos(transition))
        self._show()
        return outcome

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One (H, W, 3) uint8 frame a row for "rgb_array"; "human" shows all and returns None.

        Raises:
            ResetNeeded: nothing was reset yet.
        """
        if self.render_mode is None:
            gym.logger.warn("render does nothing: the env was made without a render_mode")
            return None
        if self.render_mode == "human":
            self._show()
            return None
        return tuple(self.imagination.frames)

    def close_extras(self) -> None:
        """Close the window, if any."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _next_step(self, actions: np.ndarray) -> Step:
        ended = self.imagination.needs_reset & self.imagination.started
        transition = self.imagination.step(actions, skip=ended)
        if ended.any():
            fresh = self.imagination.reset(ended)
            transition = replace(transition, observations=fresh.observations)
        return self._outcome(transition, self._infos(transition))

    def _same_step(self, actions: np.ndarray) -> Step:
        last = self.imagination.step(actions)
        ended = last.terminated | last.truncated
        if not ended.any():
            return self._outcome(last, self._infos(last))
        fresh = self.imagination.reset(ended)
        scores = {
            name: np.where(_over(ended, values), fresh.scores[name], values)
            for name, values in last.scores.items()
        }
        transition = replace(last, observations=fresh.observations, scores=scores)
        infos = self._infos(transition)
        final = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended).tolist():
            final[row] = last.observations[row].copy()
        infos["final_obs"], infos["_final_obs"] = final, ended.copy()
        infos["final_info"], infos["_final_info"] = self._infos(last, ended), ended.copy()
        return self._outcome(transition, infos)

    @staticmethod
    def _outcome(transition: Transition, infos: dict[str, Any]) -> Step:
        return (
            transition.observations,
            transition.rewards,
            transition.terminated,
            transition.truncated,
            infos,
        )

    def _infos(self, transition: Transition, rows: np.ndarray | None = None) -> dict[str, Any]:
        """The scores with their masks; zeros in rows that are masked out."""
        rows = np.ones(self.num_envs, dtype=bool) if rows is None else rows
        infos: dict[str, Any] = {}
        for name, values in transition.scores.items():
            infos[name] = np.where(_over(rows, values), values, 0)
            infos[f"_{name}"] = rows.copy()
        return infos

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        shape = (self.num_envs,)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != shape:
            raise ValueError(f"options['reset_mask'] must be a numpy bool array of shape {shape}")
        if not mask.any():
            raise ValueError("options['reset_mask'] must select at least one row")
        return mask

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        if self._window is None:
            self._window = Window("StarFlowWorld", self.world.spec.fps)
        self._window.show(tile(self.imagination.frames))


def _over(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A mask of rows, (B,), shaped to broadcast over `values` (B, ...)."""
    return rows.reshape(-1, *[1] * (values.ndim - 1))
