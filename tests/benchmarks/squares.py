"""Clips with captions, of which everybody sees whether they are true: squares by day and night."""

from __future__ import annotations

import numpy as np
from prompting.questions import answers_of, numbered

SQUARES = {
    "sky": {"day": "by day", "night": "at night"},
    "side": {"left": "left", "right": "right"},
}
CAPTIONS = tuple(
    f"a square {sky} on the {side}" for sky in ("by day", "at night") for side in ("left", "right")
)


def squares(caption: str, rng: np.random.Generator, frames: int = 3) -> np.ndarray:
    """A clip that shows its caption: a white square that moves down in one half of a plain sky."""
    sky = (120, 180, 250) if "day" in caption else (10, 10, 60)
    clip = np.broadcast_to(np.array(sky, np.uint8), (frames, 32, 32, 3)).copy()
    left = int(rng.integers(0, 9)) + (16 if "right" in caption else 0)
    for t in range(frames):
        clip[t, 4 + 3 * t : 12 + 3 * t, left : left + 8] = 255
    return clip


def pool(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips of all captions in turn, and the numbers of their answers (B, 2)."""
    rng = np.random.default_rng(seed)
    told = [CAPTIONS[i % 4] for i in range(count)]
    labels = numbered([answers_of(caption, SQUARES) for caption in told], SQUARES)
    return np.stack([squares(caption, rng) for caption in told]), labels
