"""Does a world translate clips? PSNR and SSIM against the true targets of held-out pairs.

    python benchmarks/translation.py world=runs/translation/mirror/world \
        data.path=runs/data/mirror sheet=translation.png out=translation.json

The world is given a source clip of a pair (`worldflow data pair`) and goes on. Its frame t is
compared with the true one. A small game repeats itself: held-out pairs that the world learned from
in another episode, frame by frame the same, are left out. Compared likewise are

    copy            frame t of the source: what doing nothing gives
    average         the mean of all measured targets at t: no video that is the same for all pairs
                    has a smaller squared error, and it knows the answers
    foreign source  what the world makes of the source clip of another pair: the answer of a world
                    that does not look at its source
    codec           the true frame, encoded and decoded: a bound

`gain` is the PSNR of the translation less that of copy. Errors are averaged over a clip's frames
and over clips before they become decibels; intervals are 95% bootstrap intervals over clips.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from timing import check_out, machine, note, print_table, read_settings, write_figures

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.pairing import source_length
from worldflow.errors import ConfigError, DataError, WorldflowError
from worldflow.evaluation.resampling import episode_weights, interval
from worldflow.evaluation.simulate import chunks
from worldflow.evaluation.ssim import ssim
from worldflow.flow.guidance import Guidance
from worldflow.generation.dreaming import Request, dream_video
from worldflow.held_out import RealData, split_of
from worldflow.metrics import decibels, squared_error
from worldflow.pictures.strips import save_png, strip
from worldflow.randomness import generator_of
from worldflow.storage import load_world
from worldflow.world_model import WorldModel

TRANSLATION, COPY, AVERAGE, FOREIGN, CODEC = (
    "translation",
    "copy",
    "average",
    "foreign source",
    "codec",
)
RESAMPLES = 2000
SHOWN = 4  # pairs on the sheet


@dataclass
class Translation:
    """Settings.

    Attributes:
        world: one that learned from pairs.
        data: pairs; those that the world held out are used.
        clips: how many.
        batch: of them at once.
        temperature: of the translation.
        seed: of the choice of pairs and of the noise.
        out: JSON file for the same figures; none if empty.
        sheet: PNG of a few pairs; none if empty.
    """

    world: str = MISSING
    data: RealData = field(default_factory=RealData)
    clips: int = 128
    batch: int = 32
    temperature: float = 1.0
    seed: int = 0
    out: str = ""
    sheet: str = ""

    def __post_init__(self) -> None:
        if self.clips < 2 or self.batch < 1 or self.seed < 0:
            raise ConfigError(
                f"clips={self.clips} must be two or more, batch={self.batch} positive, "
                f"seed={self.seed} not negative"
            )
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature={self.temperature} must be finite, 0 or more")


@dataclass(frozen=True)
class Pairs:
    """B pairs of clips of L frames.

    Attributes:
        source: (B, L, H, W, 3) uint8.
        target: likewise.
        actions: (B, 2L, ...), of source and target.
        known: (B, 2L) bool, which of them are known.
    """

    source: np.ndarray
    target: np.ndarray
    actions: np.ndarray
    known: np.ndarray


def without_twins(dataset: EpisodeDataset, learned: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """Those of `episodes` whose frames are not in any episode of `learned`, in their order."""

    def digest(index: int) -> bytes:
        return hashlib.sha256(dataset.read(int(index)).frames.tobytes()).digest()

    seen = {digest(index) for index in learned}
    return np.array([index for index in episodes if digest(index) not in seen], dtype=np.int64)


def read_pairs(dataset: EpisodeDataset, episodes: np.ndarray, count: int, seed: int) -> Pairs:
    """Up to `count` pairs, drawn from the given episodes of a dataset of pairs.

    Raises:
        DataError: it is no such dataset, or there are fewer than two pairs.
    """
    length = source_length(dataset)
    chosen = np.sort(np.random.default_rng(seed).permutation(episodes)[:count]).tolist()
    if len(chosen) < 2:
        raise DataError(f"{dataset.folder}: {len(chosen)} held-out pairs; two are needed at least")
    read = [dataset.read(index) for index in chosen]
    frames = np.stack([each.frames for each in read])
    return Pairs(
        frames[:, :length],
        frames[:, length:],
        np.stack([each.actions for each in read]),
        np.stack([each.known for each in read]),
    )


def translate(
    world: WorldModel, pairs: Pairs, source: np.ndarray, batch: int, temperature: float, seed: int
) -> np.ndarray:
    """What the world makes of sources (B, L, H, W, 3): (B, L, H, W, 3) uint8.

    Args:
        world: in eval mode.
        pairs: whose actions lead through source and target.
        source: of each pair.
        batch: clips at once.
        temperature: factor on the noise.
        seed: row k draws from the stream k of it.
    """
    streams = np.random.SeedSequence(seed).spawn(len(source))
    parts = []
    for piece in chunks(len(source), batch):
        request = Request(
            torch.from_numpy(source[piece]),
            torch.from_numpy(pairs.actions[piece]),
            torch.from_numpy(pairs.known[piece]),
            None,
            Guidance(),
            temperature,
        )
        dreamed = dream_video(world, request, [generator_of(s) for s in streams[piece]])
        parts.append(dreamed.frames[:, source.shape[1] :].numpy())
        note(f"{piece.stop} of {len(source)} ...")
    return np.concatenate(parts)


def ways(world: WorldModel, pairs: Pairs, settings: Translation) -> dict[str, np.ndarray]:
    """What each way shows for the targets, (B, L, H, W, 3) uint8 each."""
    how = settings.batch, settings.temperature, settings.seed
    mean = pairs.target.mean(axis=0, dtype=np.float64).round().astype(np.uint8)
    codec = [
        world.reconstruct(torch.from_numpy(pairs.target[piece])).numpy()
        for piece in chunks(len(pairs.target), settings.batch)
    ]
    return {
        TRANSLATION: translate(world, pairs, pairs.source, *how),
        COPY: pairs.source,
        AVERAGE: np.broadcast_to(mean, pairs.target.shape),
        FOREIGN: translate(world, pairs, np.roll(pairs.source, 1, axis=0), *how),
        CODEC: np.concatenate(codec),
    }


def measure(target: np.ndarray, shown: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """PSNR and SSIM of each way against the truth, and by how much translation beats copying.

    Args:
        target: (B, L, H, W, 3) uint8.
        shown: of each way, of the same shape; `TRANSLATION` and `COPY` are among them.

    Returns:
        JSON-able: `clips`, `frames` of each, `ways` with `psnr` (dB), `ssim` and `psnr_of_frames`
        (dB of each of the L frames), and `gain` in dB; all but the last list with intervals.
    """
    weights = episode_weights(len(target), RESAMPLES, seed=0)
    weights /= weights.sum(axis=1, keepdims=True)
    errors = {name: squared_error(frames, target) for name, frames in shown.items()}
    psnr = {name: decibels(weights @ error.mean(axis=1)) for name, error in errors.items()}
    return {
        "clips": len(target),
        "frames": target.shape[1],
        "ways": {
            name: {
                "psnr": interval(psnr[name]).to_dict(),
                "ssim": interval(weights @ ssim(frames, target).mean(axis=1)).to_dict(),
                "psnr_of_frames": decibels(errors[name].mean(axis=0)).tolist(),
            }
            for name, frames in shown.items()
        },
        "gain": interval(psnr[TRANSLATION] - psnr[COPY]).to_dict(),
    }


def sheet(pairs: Pairs, translated: np.ndarray) -> np.ndarray:
    """The first pairs: source, what the world made of it, truth; (H', W', 3) uint8."""
    steps = np.arange(translated.shape[1])
    return np.concatenate(
        [
            strip(
                {
                    "source": pairs.source[row],
                    "translated": translated[row],
                    "truth": pairs.target[row],
                },
                steps,
            )
            for row in range(min(SHOWN, len(translated)))
        ]
    )


def _row(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    return {"target frames by": name} | {
        title: "{value:.{d}f} [{low:.{d}f}, {high:.{d}f}]".format(d=digits, **found[key])
        for title, key, digits in (("PSNR, dB", "psnr", 2), ("SSIM", "ssim", 4))
    }


def main() -> None:
    """Print the table."""
    settings = read_settings(Translation)
    for path in (settings.out, settings.sheet):
        check_out(path)
    world, dataset = load_world(settings.world), EpisodeDataset(settings.data.path)
    if dataset.frame_shape != tuple(world.frame_shape) or dataset.action_spec != world.action_spec:
        raise DataError(
            f"{dataset.folder} has frames {dataset.frame_shape} and actions {dataset.action_spec}, "
            f"the world {tuple(world.frame_shape)} and {world.action_spec}; give pairs of its kind"
        )
    if settings.data.unseen:
        learned, held_out = np.arange(0), np.arange(len(dataset))
    else:
        learned, held_out = split_of(dataset, world.spec.held_out)
    episodes = without_twins(dataset, learned, held_out)
    pairs = read_pairs(dataset, episodes, settings.clips, settings.seed)
    shown = ways(world, pairs, settings)
    found = measure(pairs.target, shown)
    rows = [_row(name, each) for name, each in found["ways"].items()]
    print_table(f"{settings.world}: {found['clips']} of {len(episodes)} pairs", rows)
    twins = len(held_out) - len(episodes)
    print(f"\n{twins} of {len(held_out)} held-out pairs are left out: they were also learned from")
    print("gain over copy: {value:.2f} dB [{low:.2f}, {high:.2f}]".format(**found["gain"]))
    if settings.sheet:
        save_png(Path(settings.sheet), sheet(pairs, shown[TRANSLATION]))
    facts = {"settings": asdict(settings), "machine": machine(), "twins": twins}
    write_figures(settings.out, facts | found)


if __name__ == "__main__":
    try:
        main()
    except WorldflowError as error:
        sys.exit(f"benchmarks/translation.py: {error}")
