"""What makes a frame of the flow's noisy latents: a table of denoisers, as in STARFlow-V's paper.

    python benchmarks/denoiser_ablation.py worlds=[takecover] data.path=runs/data/takecover
    python benchmarks/denoiser_ablation.py worlds=[takecover,runs/lookahead/world] \
        data.path=runs/data/takecover out=runs/ablation.json

Held-out real frames are encoded, the world's noise is added, and they come back by

    codec only           the latents without noise: a bound
    flow-score matching  the world's denoiser, with the lookahead that it was trained with
    exact score          the flow's own score by autograd, without and with the next frame
    decoder alone        the noisy latents, to which the decoder is used from its training

All are measured at the same frames: the last but one of pieces of at most 20 frames, each seen
after the earlier ones of its piece. Exact scores are not clamped here, unlike those that the
denoiser learned.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from timing import check_out, machine, note, print_table, read_settings, write_figures
from torch import Tensor

from worldflow.data.episodes import EpisodeDataset
from worldflow.denoiser import tweedie
from worldflow.errors import ConfigError, WorldflowError
from worldflow.evaluation.clips import RealClips, real_clips
from worldflow.evaluation.score_matching import EXACT, cut, examine
from worldflow.evaluation.simulate import chunks
from worldflow.evaluation.ssim import ssim
from worldflow.held_out import RealData, held_out_episodes
from worldflow.metrics import Estimate, bootstrap, decibels, squared_error
from worldflow.storage import load_world
from worldflow.training.losses import SCORE_LIMIT
from worldflow.world_model import WorldModel

CODEC, MATCHED, ALONE = "codec only", "flow-score matching", "decoder alone"


@dataclass
class DenoiserAblation:
    """Settings.

    Attributes:
        worlds: names or folders.
        data: real episodes; those that each world held out are used.
        clips: held-out clips.
        length: frames of a clip, cut into pieces of at most 20 of which one frame each is measured.
        batch: pieces at once.
        seed: of the choice of clips and of the noise.
        out: JSON file for the same figures; none if empty.
    """

    worlds: list[str] = MISSING
    data: RealData = field(default_factory=RealData)
    clips: int = 64
    length: int = 60
    batch: int = 16
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if not self.worlds or min(self.clips, self.batch) < 1 or self.length < 2 or self.seed < 0:
            raise ConfigError(
                f"worlds={self.worlds} needs one or more, clips={self.clips} and batch="
                f"{self.batch} must be positive, length={self.length} at least 2, seed={self.seed} "
                "not negative"
            )


def measure(world: WorldModel, clips: RealClips, batch: int, seed: int) -> dict[str, Any]:
    """PSNR and SSIM of each way.

    Args:
        world: in eval mode.
        clips: real, of two valid frames or more each.
        batch: pieces at once.
        seed: of the noise; piece number i has the same in every world.

    Returns:
        JSON-able: `lookahead`, `sigma`, `frames`, `beyond_limit` (share of the exact scores that
        the denoiser's training clamped), and `ways` with `psnr` (dB of the mean squared error) and
        `ssim` of each, intervals over clips.
    """
    pieces, owners = cut(clips)
    errors: dict[str, list[np.ndarray]] = {}
    similar: dict[str, list[np.ndarray]] = {}
    beyond = []
    for piece in chunks(len(owners), batch):
        real, shown, outside = ways(world, pieces, piece, seed)
        beyond.append(outside)
        for name, frames in shown.items():
            errors.setdefault(name, []).append(squared_error(frames, real))
            similar.setdefault(name, []).append(ssim(frames, real))
    return {
        "lookahead": world.config.denoiser.lookahead,
        "sigma": world.config.sigma,
        "frames": len(owners),
        "beyond_limit": float(np.concatenate(beyond).mean()),
        "ways": {
            name: {
                "psnr": _in_decibels(_over_clips(errors[name], owners)),
                "ssim": _over_clips(similar[name], owners).to_dict(),
            }
            for name in errors
        },
    }


def ways(
    world: WorldModel, pieces: RealClips, piece: slice, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """The frames that are measured, (B, H, W, 3) uint8, and what each way makes of them.

    Returns:
        real frames; what is shown for them; the share of exact scores beyond the limit, (B,).
    """
    frames, clean, seen, matched, exact = examine(world, pieces, piece, seed)
    sigma = world.config.sigma
    latents = {CODEC: clean, MATCHED: tweedie(seen, matched, sigma)}
    latents |= {name: tweedie(seen, s, sigma) for name, s in zip(EXACT, exact, strict=True)}
    latents[ALONE] = seen
    shown = {name: _decode(world, values) for name, values in latents.items()}
    beyond = (exact[0].abs() > SCORE_LIMIT).float().mean(dim=(1, 2))
    return frames.numpy(), shown, beyond.numpy()


@torch.no_grad()
def _decode(world: WorldModel, latents: Tensor) -> np.ndarray:
    return world.codec.decode_frames(latents).numpy()


def _over_clips(parts: list[np.ndarray], owners: np.ndarray) -> Estimate:
    """The mean over clips of the means over their pieces."""
    values = np.concatenate(parts)
    return bootstrap(np.array([values[owners == clip].mean() for clip in np.unique(owners)]))


def _in_decibels(error: Estimate) -> dict[str, float]:
    mean, low, high = decibels(np.array([error.mean, error.high, error.low])).tolist()
    return {"mean": mean, "low": low, "high": high, "count": error.count}


def _row(name: str, found: Mapping[str, Any], lookahead: int) -> dict[str, str]:
    label = f"{name}, lookahead {lookahead}" if name == MATCHED else name
    return {"latents": label} | {
        title: "{mean:.{d}f} [{low:.{d}f}, {high:.{d}f}]".format(d=digits, **found[key])
        for title, key, digits in (("PSNR, dB", "psnr", 2), ("SSIM", "ssim", 4))
    }


def main() -> None:
    """Print a table for each world."""
    settings = read_settings(DenoiserAblation)
    check_out(settings.out)
    dataset = EpisodeDataset(settings.data.path)
    figures: dict[str, Any] = {"settings": asdict(settings), "machine": machine(), "worlds": {}}
    for name in settings.worlds:
        note(f"{name} ...")
        world = load_world(name)
        held_out = None if settings.data.unseen else world.spec.held_out
        episodes = held_out_episodes(dataset, held_out)
        clips = real_clips(
            dataset, episodes, settings.clips, settings.length, 1, "random", settings.seed
        )
        found = measure(world, clips, settings.batch, settings.seed)
        figures["worlds"][name] = found
        title = f"{name}: {found['frames']} held-out frames, noise {found['sigma']:g}"
        rows = [_row(way, each, found["lookahead"]) for way, each in found["ways"].items()]
        print_table(title, rows)
    write_figures(settings.out, figures)


if __name__ == "__main__":
    try:
        main()
    except WorldflowError as error:
        sys.exit(f"denoiser_ablation: {error}")
