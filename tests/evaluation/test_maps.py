"""Maps of strangeness and uncertainty over real frames."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldflow
from worldflow.evaluation import maps
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.maps import maps_over
from worldflow.evaluation.simulate import clip_noise
from worldflow.storage import load_world
from worldflow.testing import tiny_world

assert worldflow.__version__  # registers the envs


def clips_of(frames: np.ndarray, action: int) -> RealClips:
    rows = frames.shape[:2]
    return RealClips(frames, np.full(rows, action), np.ones(rows, np.bool_))


def noise(rows: int = 2, frames: int = 6) -> RealClips:
    rng = np.random.default_rng(0)
    return clips_of(rng.integers(0, 256, (rows, frames, 64, 64, 3), dtype=np.uint8), 0)


def test_a_patch_of_noise_is_red_and_the_rest_stays_as_it_was() -> None:
    env = gym.make("worldflow/Catch-v0")
    frames = [env.reset(seed=0)[0], *(env.step(1)[0] for _ in range(3))]
    game = np.stack(frames)[None]
    patched = game.copy()
    patched[0, 3, :16, :16] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))

    def red(shown: np.ndarray) -> np.ndarray:
        """How far the pixels of the last frame were coloured."""
        drawn = maps_over(load_world("catch"), clips_of(shown, 1), 1, 0)
        assert drawn.keys() == {"strange", "unsure"}
        return np.abs(drawn["strange"].astype(float) - shown).mean(axis=-1)[0, 3]

    before, after = red(game), red(patched)
    assert after[:16, :16].mean() > 10 * before[:16, :16].mean()
    assert abs(after[32:, 32:].mean() - before[32:, 32:].mean()) < 1.0


def test_unsure_is_red_where_the_scales_are_large() -> None:
    world, clips = tiny_world(), noise()
    drawn = maps_over(world, clips, 1, 0)["unsure"]
    generators = [clip_noise(0, row) for row in range(2)]
    shown, actions = torch.from_numpy(clips.frames), torch.from_numpy(clips.actions)
    unsure = world.score(shown, actions, generators).token_uncertainty
    height, width = world.codec.grid
    coloured = torch.from_numpy((drawn != clips.frames).any(-1))
    cells = coloured.unflatten(3, (width, -1)).unflatten(2, (height, -1)).any(-1).any(3).flatten(2)
    cells, unsure = (x[:, world.config.context :].flatten() for x in (cells, unsure))
    assert 0.3 < cells.float().mean() < 0.6  # what is above the median
    assert unsure[cells].min() >= unsure[~cells].max()


def test_a_world_as_sure_of_all_has_fewer_maps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = tiny_world()
    monkeypatch.setattr(maps, "uncertainty_map", lambda *_: torch.ones(2, 6, 4, 4))
    assert maps_over(world, noise(), 2, 0).keys() == {"strange"}
