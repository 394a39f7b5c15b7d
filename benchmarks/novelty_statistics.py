"""Which statistics of a frame find what: AUROC of single frames and of windows, by kind of change.

    python benchmarks/novelty_statistics.py world=takecover data=runs/data/a other=runs/demo/data

One clip of each held-out episode that is long enough. Half of the episodes give the tables, the
other half is told from the same clips changed. All frames of a clip are changed, so also those that
the others are predicted from; frames with less past than the world's context do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from omegaconf import MISSING
from timing import check_out, machine, note, print_table, read_settings, write_figures
from torch import Tensor

from worldflow.conditioning import wrong_actions
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import DataError
from worldflow.held_out import held_out_episodes
from worldflow.novelty import Table
from worldflow.randomness import generator_of
from worldflow.storage import load_world
from worldflow.world_model import WorldModel

SETS = {"energy": [0], "energy, correlation": [0, 1], "all three": [0, 1, 2], "detail": [2]}
ROWS = 8
Clips = tuple[np.ndarray, np.ndarray]


@dataclass
class NoveltyStatistics:
    """Settings.

    Attributes:
        world: name or folder.
        data: folder of the dataset that it learned from.
        other: folder of a dataset of another game with frames of the same size; empty: none.
        out: JSON file for the figures; empty: none.
        length: frames of a clip.
        windows: frames measured together.
        seed: of clips, changes and noise.
    """

    world: str = MISSING
    data: str = MISSING
    other: str = ""
    out: str = ""
    length: int = 24
    windows: tuple[int, ...] = (1, 4, 8, 16)
    seed: int = 0


def changes(
    frames: np.ndarray, actions: np.ndarray, length: int, world: WorldModel, seed: int
) -> dict[str, Clips]:
    """What is done to clips (B, 2 * length, ...), the first of which is nothing."""
    rng = np.random.default_rng(seed)
    real, taken = frames[:, :length], actions[:, :length]
    wrong = wrong_actions(torch.from_numpy(taken), world.action_spec, rng).numpy()
    back = np.concatenate((taken[:, :1], taken[:, :0:-1]), axis=1)
    half = np.arange(length) // 2
    texture = rng.integers(-30, 30, real.shape[2:])
    covered = real.copy()
    height, width = real.shape[2:4]
    covered[:, :, height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = (255, 0, 255)

    def moved(by: float | np.ndarray) -> np.ndarray:
        return np.clip(real + by, 0, 255).astype(np.uint8)

    def each(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.stack([[function(frame) for frame in clip] for clip in real])

    mean = real.mean(axis=(2, 3), keepdims=True).astype(np.uint8)
    return {
        "nothing": (real, taken),
        "wrong actions": (real, wrong),
        "shuffled actions": (real, np.stack([rng.permutation(clip) for clip in taken])),
        "every second frame": (frames[:, ::2], actions[:, ::2]),
        "each frame twice": (real[:, half], taken[:, half]),
        "reversed": (real[:, ::-1], back),
        "brighter by 40": (moved(40), taken),
        "noise of 20": (moved(rng.normal(0, 20, real.shape)), taken),
        "occluder": (covered, taken),
        "texture": (moved(texture), taken),
        "blur of 1": (each(lambda frame: cv2.GaussianBlur(frame, (0, 0), 1)), taken),
        "blur of 2": (each(lambda frame: cv2.GaussianBlur(frame, (0, 0), 2)), taken),
        "blur of 4": (each(lambda frame: cv2.GaussianBlur(frame, (0, 0), 4)), taken),
        "one colour": (np.broadcast_to(mean, real.shape), taken),
        "black": (np.zeros_like(real), taken),
    }


def other_game(dataset: EpisodeDataset, clips: Clips) -> Clips:
    """Episodes of another game, one after the other, in place of the frames of the clips."""
    shape, needed = clips[0].shape, clips[0].shape[0] * clips[0].shape[1]
    index, frames = 0, []
    while sum(map(len, frames)) < needed:
        frames.append(dataset.read(index % len(dataset)).frames)
        index += 1
    return np.concatenate(frames)[:needed].reshape(shape), clips[1]


def statistics(world: WorldModel, clips: Clips, seed: int) -> Tensor:
    """Statistics (B, T', 3) of the frames with enough past."""
    pieces = []
    for start in range(0, len(clips[0]), ROWS):
        frames, actions = (
            torch.from_numpy(np.ascontiguousarray(a[start : start + ROWS])) for a in clips
        )
        numbers = range(start, start + len(frames))
        noise = [generator_of(np.random.SeedSequence([seed, number])) for number in numbers]
        pieces.append(world.score(frames, actions, noise).statistics)
    return torch.cat(pieces)[:, world.config.context :].double()


def auroc(real: Tensor, strange: Tensor) -> float:
    """The chance that a strange frame has the larger score; ties count half."""
    ordered = real.flatten().sort().values
    below = torch.searchsorted(ordered, strange.flatten().contiguous())
    upto = torch.searchsorted(ordered, strange.flatten().contiguous(), right=True)
    return float((below + upto).double().mean() / (2 * len(ordered)))


def main() -> None:
    """Measure and print."""
    settings = read_settings(NoveltyStatistics)
    check_out(settings.out)
    world, dataset = load_world(settings.world), EpisodeDataset(settings.data)
    episodes = held_out_episodes(dataset, world.spec.held_out)
    rng, length = np.random.default_rng(settings.seed), settings.length
    long = [int(e) for e in episodes if dataset.lengths[e] >= 2 * length]
    if len(long) < 4:
        raise DataError(f"four held-out episodes of {2 * length} frames are needed; lower length")
    starts = [int(rng.integers(dataset.lengths[e] - 2 * length + 1)) for e in long]
    slices = [dataset.read(e, s, s + 2 * length) for e, s in zip(long, starts, strict=True)]
    frames, actions = (np.stack([getattr(s, k) for s in slices]) for k in ("frames", "actions"))
    kinds = changes(frames, actions, length, world, settings.seed)
    if settings.other:
        kinds["another game"] = other_game(EpisodeDataset(settings.other), kinds["nothing"])
    found = {}
    for name, clips in kinds.items():
        note(name)
        found[name] = statistics(world, clips, settings.seed)
    real = found.pop("nothing")
    figures: dict[str, list[dict[str, Any]]] = {}
    for label, columns in SETS.items():
        rows = {name: {"change": name} for name in found}
        for window in settings.windows:

            def means(values: Tensor, size: int = window, of: tuple = tuple(columns)) -> Tensor:
                return values[..., list(of)].unfold(1, size, 1).mean(dim=-1)

            table = Table.fit(means(real[::2]).flatten(0, 1), one_sided=False)
            usual = table.novelty(means(real[1::2]))
            for name, values in found.items():
                strange = table.novelty(means(values[1::2]))
                rows[name][f"{window} frames"] = round(auroc(usual, strange), 3)
        figures[label] = list(rows.values())
        print_table(f"AUROC of {label}, {len(long)} clips", figures[label])
    write_figures(settings.out, {"machine": machine(), "auroc": figures})


if __name__ == "__main__":
    main()
