"""The engine under `LikelihoodInfo`: scores of B real episodes, with noise of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from worldflow.compiled import compile_step
from worldflow.envs.transition import SCORES
from worldflow.novelty import RunningNovelty
from worldflow.randomness import generator_of
from worldflow.scoring import LiveScorer
from worldflow.storage import load_world
from worldflow.text.prompt import prompt_vector
from worldflow.world_model import WorldModel


class LiveScores:
    """Scores real transitions as they come.

    Args:
        world: a `WorldModel`, or the name or folder of one.
        rows: B.
        window: `novelty` is that of so many last frames of the episode together.
        seed: of the noise on the latents; the seeds of resets start it anew.
        prompt: what the episodes are about; None: the world is not told.

    Raises:
        WorldFormatError: the world cannot be loaded or is not calibrated, or it learned with
            another encoder of text.
        DataError: a prompt for a world that learned from no captions, an empty or a too long one.
        ConfigError: the world was calibrated for no such window, or no encoder for the prompt.
    """

    def __init__(
        self,
        world: str | Path | WorldModel,
        rows: int,
        window: int,
        seed: int,
        prompt: str | None = None,
    ) -> None:
        self.world = world if isinstance(world, WorldModel) else compile_step(load_world(world))
        self.rows = rows
        self._running = RunningNovelty(self.world.calibration.require("seen"), window, rows)
        text = None
        if prompt is not None:
            text = prompt_vector(self.world.spec.text, prompt).expand(rows, -1)
        self._scorer = LiveScorer(self.world, rows, text)
        self._generators = [torch.Generator() for _ in range(rows)]
        self.seed([seed] * rows)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Start the noise of each row anew, but where the seed is None."""
        for row, seed in enumerate(seeds):
            if seed is not None:
                state = generator_of(np.random.SeedSequence([seed, row])).get_state()
                self._generators[row].set_state(state)

    def reset(self, rows: np.ndarray, frames: np.ndarray) -> None:
        """Episodes begin in `rows` (B,) bool with `frames` (B, H, W, 3) uint8."""
        if not rows.any():
            return
        self._scorer.reset(torch.from_numpy(rows), _tensor(frames), self._noise(rows))
        for row in np.flatnonzero(rows).tolist():
            self._running.reset(row)

    def step(self, frames: np.ndarray, actions: np.ndarray, moved: np.ndarray) -> dict:
        """Scores of a transition, name to (B,) float64.

        Args:
            frames: (B, H, W, 3) uint8, after the transition.
            actions: (B, ...), what led there.
            moved: (B,) bool, rows in which there was one. The others get NaN, and must be reset
                before they move again.

        Raises:
            DataError: an action does not fit the world's.
        """
        spec = self.world.action_spec
        checked = np.zeros((self.rows, *spec.shape), spec.dtype)
        checked[moved] = spec.validate(np.asarray(actions)[moved])
        scores = self._scorer.step(_tensor(frames), torch.from_numpy(checked), self._noise(moved))
        novelty = self._running.add(scores.statistics, moved.tolist())
        values = {name: getattr(scores, name) for name in SCORES} | {"novelty": novelty}
        return {
            name: np.where(moved, value.double().cpu().numpy(), np.nan)
            for name, value in values.items()
        }

    def _noise(self, rows: np.ndarray) -> list[torch.Generator | None]:
        return [g if on else None for g, on in zip(self._generators, rows.tolist(), strict=True)]


def _tensor(frames: np.ndarray) -> torch.Tensor:
    # a copy, as torch takes neither read-only arrays nor negative strides
    return torch.from_numpy(np.array(frames, order="C"))
