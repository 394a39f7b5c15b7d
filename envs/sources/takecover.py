"""VizDoom's take_cover scenario: dodge fireballs by moving left and right for as long as possible.

The engine is driven directly, which is three times as fast as VizDoom's own Gymnasium wrapper.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldflow.errors import ConfigError

if TYPE_CHECKING:
    from vizdoom import DoomGame

TICS_PER_SECOND = 35
FRAME_SKIP = 4
TIMEOUT_TICS = 2100  # the time limit of published results, 60 seconds of the game
FRAME_SHAPE = (64, 64, 3)
BUTTONS = ("MOVE_LEFT", "MOVE_RIGHT")  # actions 0 and 1

_starting = threading.Lock()


class TakeCoverEnv(gym.Env[np.ndarray, np.int64]):
    """Take cover with frames (64, 64, 3) uint8 and actions 0 move left, 1 move right.

    A step is 4 tics of 1/35 second. Its reward is the number of tics it lasted, so that the return
    is the number of tics survived, as in published results. Death terminates an episode; after
    2100 tics it is truncated. The last frame is the last screen before death. Infos have the
    player's `health`, which no frame shows.

    Args:
        render_mode: None or "rgb_array".

    Raises:
        ConfigError: VizDoom is not installed, or the render mode is unknown.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": TICS_PER_SECOND / FRAME_SKIP,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode {render_mode!r} is unknown; use 'rgb_array' or None")
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = spaces.Discrete(len(BUTTONS))
        self._frame = np.zeros(FRAME_SHAPE, np.uint8)
        self._tics = 0
        self._over, self._dead = True, False
        self._game, folder = _start_game()
        self._stop = weakref.finalize(self, _stop_game, self._game, folder)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new episode; the engine's seed is drawn from `self.np_random`."""
        super().reset(seed=seed)
        game = self._running_game()
        game.set_seed(int(self.np_random.integers(2**31)))
        game.new_episode()
        self._tics = 0
        self._over = self._dead = False
        self._frame = _resize(game.get_state().screen_buffer)
        return self._frame.copy(), {"health": self._health()}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold one button for 4 tics, or until death or the time limit.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over.
        """
        game = self._running_game()
        if self._over:
            raise gym.error.ResetNeeded("the episode is over; call reset() to start anew")
        game.set_action([float(button == int(action)) for button in range(len(BUTTONS))])
        start = self._tics
        screen = None
        terminated = truncated = False
        # One tic at a time: the engine has no screen once the player is dead, so that only this
        # way the last frame shows what killed, and not what was seen up to four tics earlier.
        while self._tics < start + FRAME_SKIP and not (terminated or truncated):
            game.advance_action(1, True)
            self._tics += 1
            terminated = game.is_episode_finished()
            truncated = not terminated and self._tics >= TIMEOUT_TICS
            if not terminated:
                screen = game.get_state().screen_buffer
        self._over, self._dead = terminated or truncated, terminated
        if screen is not None:
            self._frame = _resize(screen)
        info = {"health": self._health()}
        return self._frame.copy(), float(self._tics - start), terminated, truncated, info

    @property
    def caption(self) -> str:
        """What every episode shows, and how it ended, in words."""
        end = "is hit" if self._dead else "survives"
        return f"doom corridor, monsters shooting, the player {end}"

    def render(self) -> np.ndarray | None:
        """The current frame (64, 64, 3) uint8, or None without a render mode."""
        return self._frame.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """End the engine's process; a second call does nothing."""
        self._stop()

    def _health(self) -> float:
        """Of 100; 0 after death, whatever killed."""
        from vizdoom import GameVariable

        return max(0.0, float(self._running_game().get_game_variable(GameVariable.HEALTH)))

    def _running_game(self) -> DoomGame:
        if not self._stop.alive:
            raise gym.error.ClosedEnvironmentError("this environment was closed; make a new one")
        return self._game


def _start_game() -> tuple[DoomGame, Path]:
    """The engine, without window, sound or time limit of its own, and its temporary folder."""
    try:
        import vizdoom
    except ImportError as error:
        raise ConfigError(
            "worldflow/TakeCover-v0 needs VizDoom; install it: pip install vizdoom"
        ) from error
    game = vizdoom.DoomGame()
    scenarios = Path(vizdoom.scenarios_path).resolve()
    game.load_config(str(scenarios / "take_cover.cfg"))
    game.set_doom_scenario_path(str(scenarios / "take_cover.wad"))
    game.set_available_buttons([getattr(vizdoom.Button, button) for button in BUTTONS])
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_ticrate(TICS_PER_SECOND)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_episode_timeout(0)  # the engine drops the last screen at its own time limit
    # The engine makes a folder `_vizdoom` where it is started, which it inherits from this process,
    # and writes its settings when it ends: both in a temporary folder.
    folder = Path(tempfile.mkdtemp(prefix="vizdoom-"))
    game.set_doom_config_path(str(folder / "vizdoom.ini"))
    with _starting, contextlib.chdir(folder):
        game.init()
    return game, folder


def _stop_game(game: DoomGame, folder: Path) -> None:
    game.close()
    shutil.rmtree(folder)


def _resize(screen: np.ndarray) -> np.ndarray:
    """(120, 160, 3) to (64, 64, 3), by area."""
    return np.asarray(cv2.resize(screen, FRAME_SHAPE[:2], interpolation=cv2.INTER_AREA))
