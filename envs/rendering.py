"""A window for the `human` render mode."""

from __future__ import annotations

import math
from typing import Any

import gymnasium.error
import numpy as np

SMALLEST_EDGE = 384


class Window:
    """Shows RGB frames on the screen at a fixed rate; opens with the first frame.

    Args:
        title: what the window's bar says.
        fps: frames shown a second; `show` waits accordingly.

    Raises:
        DependencyNotInstalled: pygame is missing.
    """

    def __init__(self, title: str, fps: float) -> None:
        try:
            import pygame
        except ImportError as error:
            raise gymnasium.error.DependencyNotInstalled(
                "the `human` render mode needs pygame: pip install pygame-ce"
            ) from error
        self._pygame = pygame
        self._title = title
        self._fps = fps
        self._screen: Any = None
        self._clock: Any = None

    def show(self, frame: np.ndarray) -> None:
        """Show one (H, W, 3) uint8 frame, enlarged by a whole factor."""
        pygame = self._pygame
        factor = max(1, SMALLEST_EDGE // min(frame.shape[:2]))
        pixels = frame.repeat(factor, axis=0).repeat(factor, axis=1)
        if self._screen is None:
            pygame.display.init()
            pygame.display.set_caption(self._title)
            self._screen = pygame.display.set_mode((pixels.shape[1], pixels.shape[0]))
            self._clock = pygame.time.Clock()
        pygame.surfarray.blit_array(self._screen, pixels.swapaxes(0, 1))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window; closing twice is fine."""
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None


def tile(frames: np.ndarray) -> np.ndarray:
    """(B, H, W, 3) frames side by side in one near-square picture, black where none is left."""
    count, height, width, channels = frames.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * columns, height, width, channels), dtype=frames.dtype)
    grid[:count] = frames
    grid = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)
