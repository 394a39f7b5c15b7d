"""Maps of novelty, and frames with a map over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldflow.envs.sources.catch import CatchEnv
from worldflow.heatmap import novelty_map, overlay, uncertainty_map
from worldflow.storage import load_world
from worldflow.testing import tiny_world


def test_maps_are_laid_out_as_the_frame_is() -> None:
    world = tiny_world()
    frames, actions = (torch.from_numpy(a) for a in (world.context.frames, world.context.actions))
    scores = world.score(frames, actions)
    tokens = world.calibration.require("seen").tokens.novelty(scores.token_statistics)
    strange = novelty_map(world, scores)
    assert strange.shape == (5, 2, 4, 4)
    assert torch.equal(strange[..., 1, 2], tokens[..., 6])  # row 1, column 2
    unsure = uncertainty_map(world, scores)
    torch.testing.assert_close(unsure.sum((-2, -1)), scores.uncertainty)
    _, made = world.step(
        world.initial_state(frames, actions), actions[:, 0], torch.Generator().manual_seed(0)
    )
    table = world.calibration.require("dreamed").tokens
    expected = table.novelty(made.token_uncertainty[..., None]).reshape(5, 4, 4)
    torch.testing.assert_close(novelty_map(world, made), expected)


def test_a_foreign_thing_is_where_the_map_says() -> None:
    world, env = load_world("catch"), CatchEnv()
    frames, actions = [env.reset(seed=0)[0]], torch.ones(1, 5, dtype=torch.int64)
    frames += [env.step(np.int64(1))[0] for _ in range(4)]
    frames[-1][20:28, 36:44] = (255, 0, 255)
    scores = world.score(torch.from_numpy(np.stack(frames))[None], actions)
    strange = novelty_map(world, scores)[0]
    assert divmod(int(strange[-1].argmax()), 4) == (1, 2)
    assert strange[-1].max() > 3.0 * strange[1:-1].max()


def test_overlay_has_its_formula() -> None:
    frames = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8)
    values = torch.tensor([[[0.0, 1.0], [3.5, 60.0]], [[float("nan")] * 2] * 2])
    shown = overlay(frames, values, low=1.0, high=6.0)
    assert shown.dtype == torch.uint8 and torch.equal(shown[1], frames[1])
    assert torch.equal(shown[0, :2], frames[0, :2])
    half, full = 0.75 * 0.5, 0.75
    for corner, a in ((shown[0, 3, 0], half), (shown[0, 2, 3], full)):
        expected = [round(100 + a * (255 - 100)), round(100 - a * 100), round(100 - a * 100)]
        assert corner.tolist() == expected
    with pytest.raises(ValueError, match="low=2"):
        overlay(frames, values, low=2.0, high=2.0)
