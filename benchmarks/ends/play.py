"""Rows of a real game, played by a policy and read by a world's flow as they go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldflow.agents.reality import real_envs
from worldflow.envs.collect import environment_seed
from worldflow.envs.policies import FrameStack
from worldflow.live_reader import LiveReader
from worldflow.randomness import generator_of
from worldflow.world_model import WorldModel

Choose = Callable[[np.ndarray], np.ndarray]
"""Stacked latents (B, N, C * k) float32 to actions (B, ...)."""


@dataclass(frozen=True)
class Play:
    """Steps of real play, row by row as they came.

    Attributes:
        past: what the flow knew before each step's frame, (F, N, width) float16.
        ended: whether the step ended the episode, (F,) bool.
        episode: of each step, (F,) int64; apart within the play alone.
    """

    past: Tensor
    ended: Tensor
    episode: Tensor

    def __len__(self) -> int:
        """F."""
        return len(self.ended)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        temporary = path.with_name(path.name + ".partial")
        torch.save(vars(self), temporary)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Play:
        """Read what `save` wrote."""
        return cls(**torch.load(path, weights_only=True))


class RealGame:
    """B rows of the game behind a world.

    Args:
        world: reads it; in eval mode.
        rows: B.
        frame_stack: latents of so many frames are seen at once.

    Raises:
        ConfigError: the world was learned from no environment, or from another one than its own.
    """

    def __init__(self, world: WorldModel, rows: int, frame_stack: int) -> None:
        self._world, self._frame_stack = world, frame_stack
        self._envs = real_envs(world, rows, "frames")

    def close(self) -> None:
        """End the games."""
        for env in self._envs:
            env.close()

    @torch.inference_mode()
    def play(self, choose: Choose, steps: int, seed: np.random.SeedSequence) -> Play:
        """Begin an episode in every row, and play about `steps` steps over all rows.

        Args:
            choose: acts.
            steps: rounded down to as many in each row.
            seed: of the episodes and of the noise on the latents; spawned from.
        """
        world, rows = self._world, len(self._envs)
        noise_seed, *seeds = seed.spawn(1 + rows)
        noise, streams = generator_of(noise_seed), [np.random.default_rng(s) for s in seeds]
        frames = np.zeros((rows, *world.frame_shape), np.uint8)
        actions = np.zeros((rows, *world.action_spec.shape), world.action_spec.dtype)
        stack, reader = FrameStack(self._frame_stack), LiveReader(world, rows)
        fresh = np.ones(rows, np.bool_)
        episode, begun = np.zeros(rows, np.int64), 0
        past, ended, episodes = [], [], []
        latents: Tensor | None = None
        for _ in range(steps // rows):
            for row in np.flatnonzero(fresh).tolist():
                drawn = environment_seed(np.random.SeedSequence(int(streams[row].integers(2**62))))
                frames[row], _ = self._envs[row].reset(seed=drawn)
                episode[row], begun = begun, begun + 1
            if fresh.any():
                began, read = torch.from_numpy(fresh), torch.from_numpy(frames)
                latents, _ = reader.reset(began, read, noise)
            assert latents is not None
            actions[:] = choose(stack.push(latents.float().numpy(), ~fresh, fresh))
            over = np.zeros(rows, np.bool_)
            fresh = np.zeros(rows, np.bool_)
            for row, env in enumerate(self._envs):
                frames[row], _, over[row], cut, _ = env.step(actions[row])
                fresh[row] = over[row] or cut
            taken = torch.from_numpy(actions.copy())
            latents, out = reader.step(torch.from_numpy(frames), taken, noise)
            past.append(out.features.half())
            ended.append(torch.from_numpy(over))
            episodes.append(torch.from_numpy(episode.copy()))
        return Play(torch.cat(past), torch.cat(ended), torch.cat(episodes))
