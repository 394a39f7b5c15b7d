"""Rows of a real game, played by a policy: what a head of the end that remembers reads of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldflow.agents.reality import real_envs
from worldflow.data.metadata import write_atomically
from worldflow.envs.collect import environment_seed
from worldflow.envs.policies import FrameStack
from worldflow.randomness import generator_of
from worldflow.world_model import WorldModel

Choose = Callable[[np.ndarray], np.ndarray]
"""Stacked latents (B, N, C * k) float32 to actions (B, ...)."""


@dataclass(frozen=True)
class Play:
    """Episodes of real play, one after the other: E of them, of F frames in all.

    An episode of L steps has L + 1 frames, of which the last is not kept: zeros in its place.

    Attributes:
        noisy: latents (F, N, C) float16.
        condition: of the frames, (F, D) float16.
        lengths: frames of each episode, (E,) int64.
        ended: whether its last step ended it, (E,) bool; else play was cut there.
    """

    noisy: Tensor
    condition: Tensor
    lengths: Tensor
    ended: Tensor

    @property
    def steps(self) -> int:
        """Of all episodes."""
        return int((self.lengths - 1).sum())

    @property
    def begins(self) -> Tensor:
        """Number of each episode's first frame, (E,)."""
        return self.lengths.cumsum(0) - self.lengths

    def of(self, episodes: Tensor) -> Play:
        """Those that are marked, (E,) bool, in order."""
        frames = episodes.repeat_interleave(self.lengths)
        return Play(
            self.noisy[frames],
            self.condition[frames],
            self.lengths[episodes],
            self.ended[episodes],
        )

    @staticmethod
    def joined(plays: list[Play]) -> Play:
        """All of them as one."""
        parts = zip(*(vars(play).values() for play in plays), strict=True)
        return Play(*(torch.cat(part) for part in parts))

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Play:
        """Read what `save` wrote."""
        return cls(**torch.load(path, weights_only=True))


class _Row:
    """The episodes of one row as they grow."""

    def __init__(self) -> None:
        self.done: list[Play] = []
        self._noisy: list[Tensor] = []
        self._condition: list[Tensor] = []

    def begin(self, initial: Tensor) -> None:
        self._noisy, self._condition = [], [initial]

    def step(self, noisy: Tensor, condition: Tensor) -> None:
        """A frame (N, C), and the condition (D,) of the next one."""
        self._noisy.append(noisy)
        self._condition.append(condition)

    def end(self, ended: bool) -> None:
        if not self._noisy:
            return
        frames = [*self._noisy, torch.zeros_like(self._noisy[0])]
        self.done.append(
            Play(
                torch.stack(frames).half(),
                torch.stack(self._condition).half(),
                torch.tensor([len(frames)]),
                torch.tensor([ended]),
            )
        )
        self._noisy = []


class RealGame:
    """B rows of the game behind a world.

    Args:
        world: encodes the frames; in eval mode.
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

        Returns:
            the episodes of the first row, then of the second, and so on.
        """
        world, rows = self._world, len(self._envs)
        noise_seed, *seeds = seed.spawn(1 + rows)
        noise, streams = generator_of(noise_seed), [np.random.default_rng(s) for s in seeds]
        frames = np.zeros((rows, *world.frame_shape), np.uint8)
        actions = np.zeros((rows, *world.action_spec.shape), world.action_spec.dtype)
        stack, kept = FrameStack(self._frame_stack), [_Row() for _ in range(rows)]
        initial = world.conditioning.initial(rows, None)
        fresh = np.ones(rows, np.bool_)
        for _ in range(steps // rows):
            for row in np.flatnonzero(fresh).tolist():
                drawn = environment_seed(np.random.SeedSequence(int(streams[row].integers(2**62))))
                frames[row], _ = self._envs[row].reset(seed=drawn)
                kept[row].begin(initial[row])
            latents = world.codec.encode_frames(torch.from_numpy(frames))
            actions[:] = choose(stack.push(latents.float().numpy(), ~fresh, fresh))
            noisy = world.add_noise(latents, noise)
            condition = world.conditioning.embed(torch.from_numpy(actions.copy()))
            for row, env in enumerate(self._envs):
                kept[row].step(noisy[row], condition[row])
                frames[row], _, ended, cut, _ = env.step(actions[row])
                fresh[row] = ended or cut
                if fresh[row]:
                    kept[row].end(ended)
        for own in kept:
            own.end(False)
        return Play.joined([play for own in kept for play in own.done])
