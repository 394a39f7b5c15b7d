"""Do dreams of TakeCover have fireballs of every size? Shares of frames by their bright pixels.

    python benchmarks/fireballs.py world=takecover data=runs/data/takecover

A pixel is bright where red is above 200 and green above 150 of 255: fireballs, and explosions,
which fill the frame. Real frames, the same through the codec, single steps dreamed from the real
past of each, and dreams under random actions, sticky with 0.5 as the data's should be; of all, the
frames from the end of a dream's context on. An onset, the moment of a hit, is a frame with more
than 10% after one with less than 5%; that of a single step comes after the real frame.

A second table has how often episodes end, by how long they have lasted: in the game monsters come
one after another.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from timing import check_out, machine, print_table, read_settings, write_figures

from worldflow.compiled import compile_step
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset
from worldflow.envs.imagination import Imagination
from worldflow.errors import ConfigError, WorldflowError
from worldflow.stepping import draw_frame
from worldflow.storage import load_world
from worldflow.world_model import WorldModel

SIZES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)  # shares of a frame
CALM, HIT = 0.05, 0.1
AGES = (0, 20, 40, 80, 120, 160, 240, 330)  # steps since an episode began
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


@torch.inference_mode()
def single_steps(
    world: WorldModel, clips: Sequence[Episode], temperature: float, generator: torch.Generator
) -> np.ndarray:
    """Bright shares of frames dreamed from the real ones before, (rows, steps).

    Args:
        world: in eval mode.
        clips: at least as long as the world's context.
        temperature: scales z.
        generator: of all noise.

    Returns:
        of frame t, for t from the context on; NaN where a clip has no frame t.
    """
    first = world.config.context
    length = max(len(clip.frames) for clip in clips)
    exists = np.array([np.arange(length) < len(clip.frames) for clip in clips])
    frames, actions = (
        torch.from_numpy(np.stack([_padded(getattr(clip, name), length) for clip in clips]))
        for name in ("frames", "actions")
    )
    condition = world.conditioning(actions)
    flow, cache = world.flow.empty_state(len(clips)), world.denoiser.empty_cache(len(clips))
    shares = []
    for t in range(length):
        if t >= first:
            drawn = draw_frame(world, flow, cache, condition[:, t], generator, temperature)
            shares.append(bright(world.decode(drawn.latents).numpy()))
        noisy = world.noisy_latents(frames[:, t : t + 1], generator)[:, 0]
        flow, _ = world.flow.observe(flow, noisy, condition[:, t])
        _, _, cache = world.denoiser.step(noisy, condition[:, t], cache)
    return np.where(exists[:, first:], np.stack(shares, axis=1), np.nan)


def _filled(shares: np.ndarray, length: int) -> np.ndarray:
    """With NaN up to `length` steps."""
    missing = np.full((len(shares), length - shares.shape[1]), np.nan)
    return np.concatenate((shares, missing), axis=1)


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    """With the last one repeated."""
    return values[np.minimum(np.arange(length), len(values) - 1)]


def row(name: str, shares: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    """The table's row of frames with `shares`, whose predecessors had `before`; NaN: none."""
    exists = ~np.isnan(shares)
    found, calm = shares[exists], before[exists] < CALM
    sizes = {f"above {size:g}": float((found > size).mean()) for size in SIZES}
    onsets = float(((found > HIT) & calm).mean())
    return {"frames": name, "count": len(found), **sizes, "onsets": onsets}


def dreamed(dream: Imagination, settings: Fireballs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dreams under random play.

    Returns:
        of all frames, (rows, steps): bright shares; how many steps after the beginning of an
        episode; whether it ended.
    """
    rng, rows = np.random.default_rng(settings.seed), settings.rows
    dream.reset(np.ones(rows, dtype=bool), [settings.seed + row for row in range(rows)])
    actions, age = rng.integers(0, 2, rows), np.zeros(rows, np.int64)
    shares, ages, ends = [], [], []
    for _ in range(settings.steps):
        again = rng.random(rows) < 0.5
        actions = np.where(again, actions, rng.integers(0, 2, rows))
        made = dream.step(actions)
        shares.append(bright(made.observations))
        ages.append(age + dream.world.config.context)  # the given frames are the first ones
        ends.append(made.terminated)
        age = np.where(dream.needs_reset, 0, age + 1)
        if dream.needs_reset.any():
            dream.reset(dream.needs_reset)
    return np.stack(shares, axis=1), np.stack(ages, axis=1), np.stack(ends, axis=1)


def ends_by_age(name: str, ages: np.ndarray, ends: np.ndarray) -> dict[str, Any]:
    """The table's row: share of the steps at each age that end the episode; None: no such step.

    Args:
        name: of the row.
        ages: of steps, any shape.
        ends: whether each ended its episode.
    """
    found: dict[str, Any] = {"episodes": name, "steps": int(ages.size), "all": float(ends.mean())}
    for low, high in pairwise(AGES):
        at = (ages >= low) & (ages < high)
        found[f"{low} to {high - 1}"] = float(ends[at].mean()) if at.any() else None
    return found


def real_ends(dataset: EpisodeDataset) -> tuple[np.ndarray, np.ndarray]:
    """Ages of all steps of a dataset, and whether each ended its episode."""
    every = [dataset.steps_of(index).terminated[1:] for index in range(len(dataset))]
    return np.concatenate([1 + np.arange(len(one)) for one in every]), np.concatenate(every)


def main() -> None:
    """Print the table."""
    settings = read_settings(Fireballs)
    check_out(settings.out)
    world, dataset = load_world(settings.world), EpisodeDataset(settings.data)
    first, count = world.config.context, min(settings.episodes, len(dataset))
    read = [dataset.read(i, 0, first + settings.steps) for i in range(count)]
    clips = [clip for clip in read if len(clip.frames) > first]
    length = max(len(clip.frames) for clip in clips)
    real = np.full((len(clips), length), np.nan)
    coded = real.copy()
    for index, clip in enumerate(clips):
        real[index, : len(clip.frames)] = bright(clip.frames)
        shown = world.reconstruct(torch.from_numpy(clip.frames)).numpy()
        coded[index, : len(clip.frames)] = bright(shown)
    before = real[:, first - 1 : -1]
    world = compile_step(world)
    groups = range(0, len(clips), settings.rows)
    generator = torch.Generator().manual_seed(settings.seed)
    singles = [
        single_steps(world, clips[i : i + settings.rows], settings.temperature, generator)
        for i in groups
    ]
    single = np.concatenate([_filled(shares, length - first) for shares in singles])
    dream = Imagination(world, settings.rows, 522, settings.temperature)
    free, ages, ends = dreamed(dream, settings)
    rows = [
        row("real", real[:, first:], before),
        row("codec", coded[:, first:], coded[:, first - 1 : -1]),
        row(f"single steps at {settings.temperature:g}", single, before),
        # a dream's first frame has none before it here
        row(f"dream at {settings.temperature:g}", free[:, 1:], free[:, :-1]),
    ]
    print_table("Frames by their share of bright pixels", rows)
    hazards = [
        ends_by_age("real", *real_ends(dataset)),
        ends_by_age(f"dream at {settings.temperature:g}", ages, ends),
    ]
    print_table("Ends a step, by the age of the episode in steps", hazards)
    figures = {"settings": asdict(settings), "machine": machine(), "rows": rows, "ends": hazards}
    write_figures(settings.out, figures)


if __name__ == "__main__":
    try:
        main()
    except WorldflowError as error:
        sys.exit(f"benchmarks/fireballs.py: {error}")
