"""Catch: a small game whose best and random returns are known exactly.

A ball falls through an 8x8 grid, one row a step, and drifts sideways now and then. The paddle on
the bottom row moves left, stays or moves right. Per step: the paddle moves, the ball falls and
drifts, and on the bottom row the ball is caught (+1) or missed (-1), which ends the episode.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldflow.errors import ConfigError

CELLS = 8
CELL_PIXELS = 8
FRAME_SHAPE = (CELLS * CELL_PIXELS, CELLS * CELL_PIXELS, 3)
ACTIONS = (-1, 0, 1)  # what actions 0, 1 and 2 add to the paddle's column

BACKGROUND = (18, 22, 48)
BALL = (255, 255, 255)
PADDLE = (255, 140, 0)


class CatchEnv(gym.Env[np.ndarray, np.int64]):
    """Catch with frames (64, 64, 3) uint8 and actions 0 left, 1 stay, 2 right.

    Args:
        drift: probability that the ball moves one column in a step, left or right alike; at a
            wall it stays inside.
        paddle_width: width of the paddle in cells, 1 to 8.
        render_mode: None or "rgb_array".

    Raises:
        ConfigError: an argument is outside its range.

    >>> env = CatchEnv(drift=0.0)
    >>> frame, info = env.reset(seed=0)
    >>> frame.shape
    (64, 64, 3)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self, drift: float = 0.1, paddle_width: int = 2, render_mode: str | None = None
    ) -> None:
        _check_settings(drift, paddle_width)
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode {render_mode!r} is unknown; use 'rgb_array' or None")
        self.drift = drift
        self.paddle_width = paddle_width
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.row = self.ball = self.paddle = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A ball in the top row and a paddle, both at uniformly random columns."""
        super().reset(seed=seed)
        self.row = 0
        self.ball = int(self.np_random.integers(CELLS))
        self.paddle = int(self.np_random.integers(CELLS - self.paddle_width + 1))
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the paddle, then the ball.

        Raises:
            gymnasium.error.ResetNeeded: the episode is over.
        """
        if self.row == CELLS - 1:
            raise gym.error.ResetNeeded("the ball has landed; call reset() to start anew")
        last_column = CELLS - self.paddle_width
        self.paddle = int(np.clip(self.paddle + ACTIONS[int(action)], 0, last_column))
        self.row += 1
        chance = self.np_random.random()
        if chance < self.drift:
            self.ball += -1 if chance < self.drift / 2 else 1
            self.ball = int(np.clip(self.ball, 0, CELLS - 1))
        terminated = self.row == CELLS - 1
        reward = 0.0
        if terminated:
            caught = self.paddle <= self.ball < self.paddle + self.paddle_width
            reward = 1.0 if caught else -1.0
        return self._frame(), reward, terminated, False, {}

    @property
    def caption(self) -> str:
        """Where the ball falls and, when it has landed, whether it is caught, in words."""
        third = "left" if self.ball < 3 else "right" if self.ball > 4 else "middle"
        words = f"the ball falls on the {third}"
        if self.row < CELLS - 1:
            return words
        caught = self.paddle <= self.ball < self.paddle + self.paddle_width
        return f"{words} and is {'caught' if caught else 'missed'}"

    def reseed(self, seed: int) -> None:
        """Draw the drifts of the running episode from another seed from now on."""
        self._np_random = np.random.default_rng(seed)

    def render(self) -> np.ndarray | None:
        """The current frame (64, 64, 3) uint8, or None without a render mode."""
        return self._frame() if self.render_mode == "rgb_array" else None

    def _frame(self) -> np.ndarray:
        cells = np.full((CELLS, CELLS, 3), BACKGROUND, dtype=np.uint8)
        cells[-1, self.paddle : self.paddle + self.paddle_width] = PADDLE
        cells[self.row, self.ball] = BALL  # over the paddle, so that the last frame shows both
        return cells.repeat(CELL_PIXELS, axis=0).repeat(CELL_PIXELS, axis=1)


def optimal_return(drift: float = 0.1, paddle_width: int = 2) -> float:
    """Expected return of the best policy, exact by dynamic programming.

    >>> optimal_return(drift=0.0)
    1.0
    """
    return float(_action_values(drift, paddle_width, random=False)[0].max(axis=-1).mean())


def random_return(drift: float = 0.1, paddle_width: int = 2) -> float:
    """Expected return of uniformly random actions, exact by the same recursion."""
    return float(_action_values(drift, paddle_width, random=True)[0].mean())


def optimal_action(
    row: int, ball: int, paddle: int, drift: float = 0.1, paddle_width: int = 2
) -> int:
    """The best action (the first of equals) in a state.

    Args:
        row: the ball's row, 0 (top) to 6.
        ball: the ball's column, 0 to 7.
        paddle: the column of the paddle's left cell.
    """
    return int(_action_values(drift, paddle_width, random=False)[row, ball, paddle].argmax())


def _action_values(drift: float, paddle_width: int, *, random: bool) -> np.ndarray:
    """Expected return of each action in each state: (rows - 1, balls, paddles, actions).

    After the action, the policy is uniformly random or else the best one.
    """
    _check_settings(drift, paddle_width)
    balls, paddles = np.arange(CELLS), np.arange(CELLS - paddle_width + 1)
    offsets = balls[:, None] - paddles[None, :]
    value = np.where((offsets >= 0) & (offsets < paddle_width), 1.0, -1.0)
    moved_paddle = np.clip(paddles[:, None] + np.array(ACTIONS), 0, paddles[-1])
    left, right = np.maximum(balls - 1, 0), np.minimum(balls + 1, CELLS - 1)
    rows = []
    for _ in range(CELLS - 1):
        fallen = (1 - drift) * value + drift / 2 * (value[left] + value[right])
        rows.append(fallen[:, moved_paddle])
        value = rows[-1].mean(axis=-1) if random else rows[-1].max(axis=-1)
    return np.stack(rows[::-1])


def _check_settings(drift: float, paddle_width: int) -> None:
    if not 0.0 <= drift <= 1.0:
        raise ConfigError(f"drift is a probability, 0 to 1, got {drift}")
    if not 1 <= paddle_width <= CELLS:
        raise ConfigError(f"paddle_width must be 1 to {CELLS} cells, got {paddle_width}")
