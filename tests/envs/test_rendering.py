"""What the envs show: the window, and pixels decoded on demand."""

from __future__ import annotations

import sys
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest

from worldflow.envs.rendering import tile
from worldflow.envs.star_flow_world import StarFlowWorldEnv
from worldflow.world_model import WorldModel

MakeWorld = Callable[..., WorldModel]

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def _headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def test_human_mode_shows_frames(scripted_world: MakeWorld) -> None:
    pygame = pytest.importorskip("pygame")
    env = StarFlowWorldEnv(scripted_world(), render_mode="human")
    frame, _ = env.reset(seed=0)
    assert pygame.display.get_init()
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    assert shown.shape == (384, 384, 3)
    assert np.array_equal(shown[::6, ::6], frame)
    assert env.render() is None
    env.close()
    env.close()
    assert not pygame.display.get_init()


def test_human_mode_without_pygame_names_the_extra(
    scripted_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = StarFlowWorldEnv(scripted_world(), render_mode="human")
    with pytest.raises(gym.error.DependencyNotInstalled, match="pip install pygame-ce"):
        env.reset(seed=0)


def test_render_without_a_mode_warns(scripted_world: MakeWorld) -> None:
    env = StarFlowWorldEnv(scripted_world())
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


def test_tile_fills_a_grid_row_by_row() -> None:
    frames = np.arange(1, 4, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 2, 3), np.uint8)
    grid = tile(frames)
    assert grid.shape == (4, 4, 3)
    assert grid[::2, ::2, 0].tolist() == [[1, 2], [3, 0]]
