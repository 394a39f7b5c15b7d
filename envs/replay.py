"""The real game from one moment on, again and again: starts that are found again by replaying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldflow.envs.policies import RandomPolicy
from worldflow.envs.sources import FrameSource
from worldflow.errors import ConfigError, DataError

LONGEST = 2000  # steps of a random episode in which a start is looked for


@dataclass(frozen=True)
class Start:
    """A moment of an episode, which is replayed from its seed.

    Attributes:
        seed: of the reset.
        frames: the episode up to this moment, (T, H, W, 3) uint8.
        actions: (T, ...), the first one unused.
    """

    seed: int
    frames: np.ndarray
    actions: np.ndarray


@dataclass(frozen=True)
class Continuation:
    """What a plan led to: T steps, fewer than the plan has where the episode ended.

    Attributes:
        frames: (T, H, W, 3) uint8.
        rewards: (T,).
        value: what the environment's info said last, NaN if nothing was asked for.
    """

    frames: np.ndarray
    rewards: np.ndarray
    value: float


class Replay:
    """A real environment as a simulator that can go back to a start.

    Its resets are seeded, and an episode is a function of the seed and the actions: a start is
    reached again by replaying them, which is checked to the bit. An environment with a method
    `reseed(seed)` draws its later chance anew (Catch); all others (TakeCover, whose engine takes a
    seed only at a new episode) go on in the one way that their seed holds.

    Args:
        env: the environment.
        info: a number in the environment's infos that is asked for, or None.
    """

    def __init__(self, env: FrameSource, info: str | None = None) -> None:
        self._env, self._info = env, info
        self.action_spec = env.action_spec
        self._reseed: Callable[[int], None] | None = getattr(env.unwrapped, "reseed", None)

    @property
    def has_chance(self) -> bool:
        """Whether continuations of a start differ by chance."""
        return self._reseed is not None

    def start(self, seed: int, given: int, sticky: float, rng: np.random.Generator) -> Start | None:
        """A uniformly drawn moment of an episode of random, sticky play, before its end.

        Args:
            seed: of the episode.
            given: frames that the moment has behind it, at least.
            sticky: probability of repeating the last action.
            rng: of the actions and the moment.

        Returns:
            None where the episode has no such moment.
        """
        spec = self._env.action_spec
        policy = RandomPolicy(spec, sticky)
        policy.begin(rng)
        frame, _ = self._env.reset(seed=seed)
        frames, actions = [frame], [np.zeros(spec.shape, spec.dtype)]
        over = False
        while not over and len(frames) < LONGEST:
            actions.append(policy.act(frame))
            frame, _, terminated, truncated, _ = self._env.step(actions[-1])
            frames.append(frame)
            over = terminated or truncated
        if len(frames) - 1 < given:
            return None
        length = int(rng.integers(given, len(frames)))
        return Start(seed, np.stack(frames[:length]), np.stack(actions[:length]))

    def follow(self, start: Start, plan: np.ndarray, chance: int | None = None) -> Continuation:
        """Go back to a start, and take the actions of a plan (T, ...).

        Args:
            start: the moment.
            plan: actions.
            chance: seed of what chance does from there; None: as the episode's own seed has it.

        Raises:
            DataError: the environment does not repeat itself.
            ConfigError: it has no chance that can be drawn anew, or lacks the info asked for.
        """
        frame, _ = self._env.reset(seed=start.seed)
        for action in start.actions[1:]:
            frame, *_ = self._env.step(action)
        if not np.array_equal(frame, start.frames[-1]):
            raise DataError(
                f"{self._env.config.env_id} shows another frame after the same seed and actions, "
                "so that it cannot be asked what other actions would do: set real=false"
            )
        if chance is not None:
            if self._reseed is None:
                raise ConfigError(f"{self._env.config.env_id} has no reseed(seed)")
            self._reseed(chance)
        frames, rewards, value = [], [], float("nan")
        for action in plan:
            frame, reward, terminated, truncated, info = self._env.step(action)
            frames.append(frame)
            rewards.append(float(reward))
            if self._info is not None:
                value = self._number(info)
            if terminated or truncated:
                break
        return Continuation(np.stack(frames), np.array(rewards), value)

    def _number(self, info: dict[str, Any]) -> float:
        if self._info not in info:
            raise ConfigError(
                f"{self._env.config.env_id} has no {self._info!r} in its infos, only "
                f"{sorted(info)}: set decisions.info to one of these, or to null"
            )
        return float(info[self._info])
