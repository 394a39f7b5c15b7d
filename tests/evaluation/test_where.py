"""Maps of strangeness over real frames."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

import worldflow
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.where import strange, where
from worldflow.storage import load_world

assert worldflow.__version__  # registers the envs


def test_a_patch_of_noise_is_red_and_the_rest_stays_as_it_was() -> None:
    env = gym.make("worldflow/Catch-v0")
    frames = [env.reset(seed=0)[0], *(env.step(1)[0] for _ in range(3))]
    game = np.stack(frames)[None]
    patched = game.copy()
    patched[0, 3, :16, :16] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))

    def red(shown: np.ndarray) -> np.ndarray:
        """How far the pixels of the last frame were coloured."""
        actions, valid = np.ones((1, 4), np.int64), np.ones((1, 4), np.bool_)
        clips = RealClips(shown, actions, valid)
        maps = where(load_world("catch"), clips, 0)
        assert maps.keys() == {"strange", "unsure"}
        np.testing.assert_array_equal(maps["strange"], strange(load_world("catch"), clips, 0))
        return np.abs(maps["strange"].astype(float) - shown).mean(axis=-1)[0, 3]

    before, after = red(game), red(patched)
    assert after[:16, :16].mean() > 10 * before[:16, :16].mean()
    assert abs(after[32:, 32:].mean() - before[32:, 32:].mean()) < 1.0
