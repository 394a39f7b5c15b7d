"""Scores of a real environment's transitions under a world, in `info`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from worldflow.envs.live_scores import LiveScores
from worldflow.envs.spaces import require_actions, require_frames
from worldflow.envs.transition import SCORES
from worldflow.envs.vector_rows import autoreset_mode, last_observations, reset_rows
from worldflow.world_model import WorldModel


class LikelihoodInfo(gym.Wrapper[np.ndarray, Any, np.ndarray, Any]):
    """A real env whose `info` has the scores that a dream's has.

    `log_likelihood`, `bits_per_dim`, `uncertainty` and `novelty` of the frame just returned, given
    the episode so far and the action, as floats; see docs/novelty.md. After `reset` they are NaN:
    nothing led to that frame.

    Args:
        env: observes frames (H, W, 3) uint8 of the world's frame shape, has the world's actions.
        world: a `WorldModel`, or the name or folder of one.
        window: `novelty` is that of so many last frames together.
        seed: of the noise on the latents; the seed of a reset starts it anew.
        prompt: what the episodes are about, for worlds that learned from captions. `novelty` is
            calibrated without one.

    Raises:
        ConfigError: the env observes something else, has other actions, the world was calibrated
            for no such window, or there is no encoder for the prompt.
        WorldFormatError: the world cannot be loaded or is not calibrated, or it learned with
            another encoder of text.
        DataError: a prompt for a world that learned from no captions, an empty or a too long one.

    >>> from worldflow.envs.sources.catch import CatchEnv
    >>> env = LikelihoodInfo(CatchEnv(), "catch")
    >>> _ = env.reset(seed=0)
    >>> env.step(1)[-1]["novelty"] < 4.0
    True
    """

    def __init__(
        self,
        env: gym.Env[np.ndarray, Any],
        world: str | Path | WorldModel,
        window: int = 1,
        seed: int = 0,
        prompt: str | None = None,
    ) -> None:
        super().__init__(env)
        self._scores = LiveScores(world, 1, window, seed, prompt)
        require_frames(env.observation_space, self.world)
        require_actions(env.action_space, self.world)

    @property
    def world(self) -> WorldModel:
        """The world that scores."""
        return self._scores.world

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; the scores are NaN."""
        frame, info = self.env.reset(seed=seed, options=options)
        self._scores.seed([seed])
        self._scores.reset(np.ones(1, np.bool_), frame[None])
        return frame, {**info, **dict.fromkeys(SCORES, float("nan"))}

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """A step of the env, with its scores."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        scores = self._scores.step(frame[None], np.asarray(action)[None], np.ones(1, np.bool_))
        info = {**info, **{name: float(values[0]) for name, values in scores.items()}}
        return frame, reward, terminated, truncated, info


class VectorLikelihoodInfo(VectorWrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Any]):
    """`LikelihoodInfo` for a vector env: arrays (num_envs,), with a mask `_name` each.

    Where a row's frame is that of a reset, the scores are NaN. In SAME_STEP mode those of an
    episode's last frame are in `infos["final_info"]`.

    Args:
        env: with any autoreset mode; its single spaces are as for `LikelihoodInfo`.
        world: a `WorldModel`, or the name or folder of one.
        window: `novelty` is that of so many last frames together.
        seed: of the noise on the latents; the seeds of a reset start it anew.
        prompt: what the episodes are about, in all rows.

    Raises:
        ConfigError: as for `LikelihoodInfo`, or the env does not say its autoreset mode.
        WorldFormatError: as for `LikelihoodInfo`.
        DataError: as for `LikelihoodInfo`.
    """

    def __init__(
        self,
        env: VectorEnv[np.ndarray, np.ndarray, Any],
        world: str | Path | WorldModel,
        window: int = 1,
        seed: int = 0,
        prompt: str | None = None,
    ) -> None:
        super().__init__(env)
        self._mode = autoreset_mode(env)
        self._scores = LiveScores(world, env.num_envs, window, seed, prompt)
        require_frames(env.single_observation_space, self.world)
        require_actions(env.single_action_space, self.world)
        self._ended = np.zeros(env.num_envs, np.bool_)

    @property
    def world(self) -> WorldModel:
        """The world that scores."""
        return self._scores.world

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes, in all rows or those of `options["reset_mask"]`; scores are NaN."""
        rows = reset_rows(options, self.num_envs)
        frames, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        if isinstance(seed, int | np.integer):
            seed = [int(seed)] * self.num_envs
        if seed is not None:  # rows that go on keep their noise
            self._scores.seed([s if on else None for s, on in zip(seed, rows, strict=True)])
        self._scores.reset(rows, frames)
        self._ended = self._ended & ~rows
        none = np.where(rows, np.nan, 0.0)
        return frames, {**infos, **_masked(dict.fromkeys(SCORES, none), rows)}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, Any, np.ndarray, np.ndarray, dict[str, Any]]:
        """A step of the env, with its scores."""
        frames, rewards, terminated, truncated, infos = self.env.step(actions)
        ended, everyone = terminated | truncated, np.ones(self.num_envs, np.bool_)
        resets = np.zeros_like(everyone)
        if self._mode == AutoresetMode.NEXT_STEP:
            resets = self._ended
        scores = self._scores.step(
            last_observations(self._mode, frames, ended, infos), actions, ~resets
        )
        infos = dict(infos)
        if self._mode == AutoresetMode.SAME_STEP and ended.any():
            resets = ended
            last = {name: np.where(ended, values, 0.0) for name, values in scores.items()}
            infos["final_info"] = {**infos.get("final_info", {}), **_masked(last, ended)}
            infos["_final_info"] = ended.copy()
            scores = {name: np.where(ended, np.nan, values) for name, values in scores.items()}
        self._scores.reset(resets, frames)
        self._ended = ended.copy()
        infos |= _masked(scores, everyone)
        return frames, rewards, terminated, truncated, infos


def _masked(scores: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Scores with the masks that a vector env's infos have; no array twice."""
    values = {name: array.copy() for name, array in scores.items()}
    return values | {f"_{name}": rows.copy() for name in scores}
