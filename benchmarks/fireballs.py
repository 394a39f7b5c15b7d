"""Do dreams of TakeCover have fireballs of every size? Shares of frames by their bright pixels.

    python benchmarks/fireballs.py world=takecover data=runs/data/takecover

A pixel is bright where red is above 200 and green above 150 of 255: fireballs, and explosions,
which fill the frame. Real frames, the same through the codec, and dreams under random actions,
sticky with 0.5 as the data's should be; of all, the frames from the end of a dream's context on.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from timing import check_out, machine, print_table, read_settings, write_figures

from worldflow.compiled import compile_step
from worldflow.data.episodes import EpisodeDataset
from worldflow.envs.imagination import Imagination
from worldflow.errors import ConfigError, WorldflowError
from worldflow.storage import load_world

SIZES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3)  # shares of a frame
RED, GREEN = 200, 150


@dataclass
class Fireballs:
    """Settings.

    Attributes:
        world: a world of TakeCover.
        data: real episodes of the game.
        episodes: how many of them.
        steps: of an episode, at most, and of the dreams.
        rows: dreams side by side.
        temperature: of the dreams.
        seed: of dreams and actions.
        out: JSON file for the same figures; none if empty.
    """

    world: str = MISSING
    data: str = MISSING
    episodes: int = 60
    steps: int = 120
    rows: int = 32
    temperature: float = 1.0
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if min(self.episodes, self.steps, self.rows) < 1:
            raise ConfigError(
                f"episodes={self.episodes}, steps={self.steps} and rows={self.rows} must be "
                "positive"
            )


def bright(frames: np.ndarray) -> np.ndarray:
    """Share of bright pixels of frames (..., H, W, 3) uint8."""
    mask = (frames[..., 0] > RED) & (frames[..., 1] > GREEN)
    return np.asarray(mask.mean(axis=(-1, -2)))


def dreamed(dream: Imagination, settings: Fireballs) -> np.ndarray:
    """Bright shares of all frames of dreams under random play, (steps, rows)."""
    rng, rows = np.random.default_rng(settings.seed), settings.rows
    dream.reset(np.ones(rows, dtype=bool), [settings.seed + row for row in range(rows)])
    actions, shares = rng.integers(0, 2, rows), []
    for _ in range(settings.steps):
        again = rng.random(rows) < 0.5
        actions = np.where(again, actions, rng.integers(0, 2, rows))
        shares.append(bright(dream.step(actions).observations))
        if dream.needs_reset.any():
            dream.reset(dream.needs_reset)
    return np.stack(shares)


def main() -> None:
    """Print the table."""
    settings = read_settings(Fireballs)
    check_out(settings.out)
    world, dataset = load_world(settings.world), EpisodeDataset(settings.data)
    first, count = world.config.context, min(settings.episodes, len(dataset))
    clips = [dataset.read(i).frames[first : first + settings.steps] for i in range(count)]
    shares: dict[str, np.ndarray] = {
        "real": np.concatenate([bright(clip) for clip in clips]),
        "codec": np.concatenate(
            [
                bright(world.reconstruct(torch.from_numpy(clip)).numpy())
                for clip in clips
                if len(clip)
            ]
        ),
    }
    dream = Imagination(compile_step(world), settings.rows, 522, settings.temperature)
    shares[f"dream at {settings.temperature:g}"] = dreamed(dream, settings).ravel()
    rows: list[dict[str, Any]] = [
        {"frames": name, "count": len(found)}
        | {f"above {size:g}": float((found > size).mean()) for size in SIZES}
        for name, found in shares.items()
    ]
    print_table("Frames by their share of bright pixels", rows)
    figures = {"settings": asdict(settings), "machine": machine(), "rows": rows}
    write_figures(settings.out, figures)


if __name__ == "__main__":
    try:
        main()
    except WorldflowError as error:
        sys.exit(f"benchmarks/fireballs.py: {error}")
