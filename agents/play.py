"""Playing a fixed set of seeded episodes, in the dream or in reality, many at once.

Episode e always starts from its own seed and is played to its end. So the sample of seeds does not
depend on how many episodes run side by side, and short episodes are not counted more often than
long ones, as they are when one stops after the first N that end.

What happens under a seed is the same for any number of rows only in reality, and for a policy that
does not draw or draws from the row's generator. The dream's bits depend on the size of the batch
(see `Imagination`), and an agent that draws its actions does so for all rows at once, from torch's
global generator: there only a run with the same number of rows repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from tqdm import tqdm

from worldflow.actions import ActionSpec
from worldflow.agents.seeds import episode_generator, episode_seed
from worldflow.envs.imagination import Imagination
from worldflow.envs.policies import FrameStack, draw_action
from worldflow.envs.spaces import action_spec
from worldflow.errors import DataError

Policy = Callable[[np.ndarray, Sequence[np.random.Generator]], np.ndarray]
"""Stacked observations and one generator a row, to actions (B, ...).

Stacks are (B, H, W, 3 * frame_stack) uint8 of frames, (B, N, C * frame_stack) float32 of latents.
"""

Eyes = Callable[[np.ndarray], np.ndarray]
"""Frames (B, H, W, 3) uint8 to the frames that the policy sees, of the same shape."""


Watch = Callable[[np.ndarray, np.ndarray], None]
"""Is told the stacked observations (n, ...) of the rows that play, and their actions (n, ...)."""


class Batch(Protocol):
    """B episodes side by side; rows that are not asked for stay as they are."""

    num_envs: int

    def reset(self, rows: np.ndarray, seeds: Sequence[int | None]) -> np.ndarray:
        """Start episodes in the masked rows; returns all B observations.

        They are frames (B, H, W, 3) uint8 or latents (B, N, C) float32.
        """

    def step(
        self, actions: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step the masked rows; returns all observations, rewards (B,) and ends (B,) bool."""

    def close(self) -> None:
        """Free what the episodes are played with."""


class DreamBatch:
    """Episodes inside a world; its observations are the imagination's."""

    def __init__(self, imagination: Imagination) -> None:
        self.num_envs = imagination.num_envs
        self._imagination = imagination

    def reset(self, rows: np.ndarray, seeds: Sequence[int | None]) -> np.ndarray:
        """See `Batch`."""
        return self._imagination.reset(rows, seeds).observations

    def step(
        self, actions: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Batch`."""
        moved = self._imagination.step(actions, skip=~rows)
        return moved.observations, moved.rewards, moved.terminated | moved.truncated

    def close(self) -> None:
        """See `Batch`; a dream holds nothing but memory."""


class RealBatch:
    """Episodes of Gymnasium environments with frames of one shape, or with their latents.

    Args:
        envs: one environment a row.

    Attributes:
        observation_space: of one environment.

    Raises:
        DataError: their observations are neither (H, W, 3) uint8 frames nor (N, C) float32 latents,
            see `worldflow.envs.latent_observation`.
    """

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        space = envs[0].observation_space
        shape = space.shape or ()
        frames = space.dtype == np.uint8 and len(shape) == 3 and shape[-1] == 3
        latents = space.dtype == np.float32 and len(shape) == 2
        if not (frames or latents):
            raise DataError(
                "observations must be (H, W, 3) uint8 frames, or (N, C) float32 latents by "
                f"LatentObservation; got {space}"
            )
        self.num_envs = len(envs)
        self.observation_space = space
        self._envs = list(envs)
        self._observations = np.zeros((len(envs), *shape), dtype=space.dtype)

    def reset(self, rows: np.ndarray, seeds: Sequence[int | None]) -> np.ndarray:
        """See `Batch`."""
        for row in np.flatnonzero(rows).tolist():
            self._observations[row], _ = self._envs[row].reset(seed=seeds[row])
        return self._observations.copy()

    def step(
        self, actions: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Batch`."""
        rewards = np.zeros(self.num_envs)
        ended = np.zeros(self.num_envs, dtype=bool)
        for row in np.flatnonzero(rows).tolist():
            seen, reward, terminated, truncated, _ = self._envs[row].step(actions[row])
            self._observations[row], rewards[row] = seen, float(reward)
            ended[row] = terminated or truncated
        return self._observations.copy(), rewards, ended

    @property
    def action_spec(self) -> ActionSpec:
        """The actions of one environment."""
        return action_spec(self._envs[0].action_space)

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()


class RandomPolicy:
    """Uniformly random actions, from each row's own generator."""

    def __init__(self, spec: ActionSpec) -> None:
        self._spec = spec

    def __call__(
        self, observations: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> np.ndarray:
        """See `Policy`."""
        return np.stack([draw_action(self._spec, generator) for generator in generators])


class AgentPolicy:
    """A Stable-Baselines3 agent; its most probable action where `deterministic`."""

    def __init__(self, model: BaseAlgorithm, deterministic: bool = True) -> None:
        self._model = model
        self._deterministic = deterministic

    def __call__(
        self, observations: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> np.ndarray:
        """See `Policy`; a stochastic agent draws from torch's global generator."""
        return self._model.predict(observations, deterministic=self._deterministic)[0]


class Played(NamedTuple):
    """Returns (N,) float64 and lengths in steps (N,) int64 of N episodes, in the order of seeds."""

    returns: np.ndarray
    lengths: np.ndarray


def play_episodes(
    batch: Batch,
    policy: Policy,
    episodes: int,
    seed: int,
    frame_stack: int = 1,
    eyes: Eyes | None = None,
    progress: str | None = None,
    watch: Watch | None = None,
) -> Played:
    """Play episodes 0 .. N-1, each from its own seed and to its own end.

    Args:
        batch: where; a row that ends an episode takes the next one not yet begun.
        policy: who.
        episodes: N.
        seed: episode e resets its row with `episode_seed(seed, e)`.
        frame_stack: frames, or latents of frames, that the policy sees at once.
        eyes: what happens to frames before the policy sees them; nothing if None.
        progress: label of a progress bar; none if None.
        watch: is shown each step before it is taken.

    Raises:
        ValueError: `episodes` is less than 1.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    playing = np.full(batch.num_envs, -1)  # the episode of each row, -1 when there is none left
    # those of idle rows, whose actions are ignored, until they begin an episode
    generators = [episode_generator(seed, 0) for _ in range(batch.num_envs)]
    stack = FrameStack(frame_stack)
    begun = 0
    moved = np.zeros(batch.num_envs, dtype=bool)
    observations: np.ndarray | None = None
    with tqdm(total=episodes, desc=progress, disable=progress is None, unit="episode") as bar:
        while True:
            fresh = np.zeros(batch.num_envs, dtype=bool)
            for row in np.flatnonzero(playing < 0).tolist():
                if begun < episodes:
                    playing[row], fresh[row] = begun, True
                    generators[row] = episode_generator(seed, begun)
                    begun += 1
            if fresh.any():
                seeds = [
                    episode_seed(seed, int(episode)) if new else None
                    for episode, new in zip(playing, fresh, strict=True)
                ]
                observations = batch.reset(fresh, seeds)
            active = playing >= 0
            if observations is None or not active.any():
                return Played(returns, lengths)
            seen = observations if eyes is None else eyes(observations)
            stacked = stack.push(seen, moved & ~fresh, fresh)
            actions = policy(stacked, generators)
            if watch is not None:
                watch(stacked[active], actions[active])
            observations, rewards, ended = batch.step(actions, active)
            returns[playing[active]] += rewards[active]
            lengths[playing[active]] += 1
            moved = active
            playing[ended & active] = -1
            bar.update(int((ended & active).sum()))
