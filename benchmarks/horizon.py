"""How dreams drift over a long horizon: the flow, the flow with clean feedback, and diffusion.

    python benchmarks/horizon.py world=takecover data.path=runs/data/takecover steps=481 \
        diffusion=runs/horizon/diffusion out=runs/horizon/481
    python benchmarks/horizon.py world=takecover data.path=runs/data/takecover steps=5000 rows=8 \
        dreamers=[flow,clean] out=runs/horizon/5000

Definitions are in `drift/statistics.py` and docs/results/horizon.md. Each dreamer's measurements
are kept in files of their own in `out`, so that an interrupted run continues with the next one, and
a dreamer can be added later; the report is of all dreamers that are named.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusion.world import load_diffusion
from drift.dreamers import CleanFlowDreamer, DiffusionDreamer, Dreamer, FlowDreamer
from drift.measure import (
    long_dream,
    psnr_at,
    random_actions,
    real_video,
    recorded_actions,
    recorded_figures,
    step_milliseconds,
)
from drift.report import write_report
from drift.statistics import (
    ONE_SIDED,
    STATISTICS,
    STRANGE_SHARE,
    Frames,
    Gaussian,
    band,
    beyond,
    over_time,
    real_groups,
)
from drift.store import Measured, measured
from omegaconf import MISSING
from timing import machine, note, read_settings

from worldflow.compiled import open_world
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError, WorldflowError
from worldflow.evaluation.clips import RealClips, RealData, held_out_episodes, real_clips
from worldflow.evaluation.simulate import chunks
from worldflow.novelty import novelty_of
from worldflow.world_model import WorldModel

DREAMERS = ("flow", "clean", "diffusion")
POLICIES = ("random", "recorded")
PICTURES = 12  # of each dreamer in the strip
# fields that measurements do not depend on
FREE = ("out", "dreamers", "diffusion", "device", "groups", "speed_rows", "speed_steps")


@dataclass
class Horizon:
    """Settings.

    Attributes:
        world: name or folder of the flow; its encoder and novelty measure all dreamers alike.
        data: real episodes; the held-out ones are used.
        out: folder for everything.
        dreamers: of "flow", "clean" (the flow with clean feedback) and "diffusion".
        diffusion: folder of `train_diffusion.py`; needed for the dreamer of that name.
        steps: of the long dreams.
        rows: of the long dreams.
        policy: of their actions: "random" (sticky), or "recorded" (held-out episodes' in a row).
        sticky: probability that a random action is repeated.
        temperature: of the flow.
        real_clips: held-out clips for band and reference, half for each.
        real_length: frames of each.
        groups: of real frames, for the band.
        clips: held-out clips that are dreamed under their own actions.
        psnr_steps: steps at which their PSNR is taken.
        speed_rows: sizes of batches whose step is timed.
        speed_steps: timed steps.
        batch: rows dreamed or scored at once. A dream depends on it, as each batch has a seed.
        device: "cpu", "cuda", or "auto": a GPU if there is one.
        seed: of everything.
    """

    world: str = MISSING
    data: RealData = field(default_factory=RealData)
    out: str = MISSING
    dreamers: list[str] = field(default_factory=lambda: list(DREAMERS))
    diffusion: str | None = None
    steps: int = 481
    rows: int = 16
    policy: str = "random"
    sticky: float = 0.5
    temperature: float = 1.0
    real_clips: int = 256
    real_length: int = 100
    groups: int = 400
    clips: int = 64
    psnr_steps: list[int] = field(default_factory=lambda: [1, 8, 16, 30])
    speed_rows: list[int] = field(default_factory=lambda: [1, 16])
    speed_steps: int = 20
    batch: int = 32
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.dreamers or not set(self.dreamers) <= set(DREAMERS):
            raise ConfigError(f"dreamers={self.dreamers} must be of {', '.join(DREAMERS)}")
        if "diffusion" in self.dreamers and self.diffusion is None:
            raise ConfigError(
                "the dreamer diffusion needs diffusion=FOLDER; train it: "
                "benchmarks/train_diffusion.py, or leave it out: dreamers=[flow,clean]"
            )
        if self.policy not in POLICIES:
            raise ConfigError(f"policy is {self.policy!r}; use one of {', '.join(POLICIES)}")
        if not 0.0 <= self.sticky <= 1.0 or self.temperature <= 0.0 or self.seed < 0:
            raise ConfigError(
                f"sticky={self.sticky} must be 0 to 1, temperature={self.temperature} positive, "
                f"seed={self.seed} not negative"
            )
        counts = ("steps", "rows", "real_length", "groups", "clips", "speed_steps", "batch")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive")
        if self.real_clips < 2:
            raise ConfigError(f"real_clips={self.real_clips}: band and reference need one each")
        for name in ("psnr_steps", "speed_rows"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive, one or more")


class Measurement:
    """The real data of a run, and what is measured against them."""

    def __init__(self, settings: Horizon) -> None:
        self.settings = settings
        self.judge = open_world(settings.world, settings.device)
        dataset = EpisodeDataset(settings.data.path)
        held_out = None if settings.data.unseen else self.judge.spec.held_out
        episodes = held_out_episodes(dataset, held_out)
        self.context = self.judge.config.context
        self.second = max(round(self.judge.spec.fps), 1)
        if settings.steps < self.second:
            raise ConfigError(f"steps={settings.steps}: a second of this world is {self.second}")
        fixed = {k: v for k, v in asdict(settings).items() if k not in FREE}
        self.fixed = {**fixed, "data": {"fingerprint": dataset.fingerprint()}}
        self.shown = np.unique(np.geomspace(1, settings.steps, PICTURES).round().astype(int))

        def cut(count: int, length: int, seed: int) -> RealClips:
            return real_clips(
                dataset, episodes, count, length, self.context, "random", settings.seed + seed
            )

        self.real = cut(settings.real_clips, self.context + settings.real_length, 1)
        self.clips = cut(settings.clips, self.context + max(settings.psnr_steps), 2)
        starts = cut(settings.rows, self.context, 3)
        rows = np.arange(settings.rows) % len(starts.frames)
        self.given = torch.from_numpy(starts.frames[rows])
        if settings.policy == "random":
            spec = self.judge.action_spec
            taken = random_actions(
                spec, settings.rows, settings.steps, settings.sticky, settings.seed + 4
            )
        else:
            taken = recorded_actions(
                dataset, episodes, settings.rows, settings.steps, settings.seed + 4
            )
        self.actions = torch.from_numpy(np.concatenate([starts.actions[rows], taken], axis=1))

    def dreamer(self, name: str) -> tuple[Dreamer, dict[str, Any]]:
        """A dreamer, and what of it measurements depend on."""
        settings, device = self.settings, next(self.judge.parameters()).device
        if name != "diffusion":
            kind = FlowDreamer if name == "flow" else CleanFlowDreamer
            return kind(self.judge, settings.temperature), {}
        assert settings.diffusion is not None  # checked by the settings
        world, training = load_diffusion(settings.diffusion)
        ours = self.judge.spec
        if world.spec.frame_shape != ours.frame_shape or world.spec.action_spec != ours.action_spec:
            raise DataError(f"{settings.diffusion} has other frames or actions than the flow")
        if world.spec.held_out != ours.held_out:
            raise DataError(
                f"{settings.diffusion} held out other episodes ({world.spec.held_out}) than "
                f"{settings.world} ({ours.held_out}); train it again with world={settings.world}"
            )
        facts = {**training, "parameters": world.parameter_count}
        return DiffusionDreamer(world.to(device)), facts

    def measure_real(self) -> tuple[Frames, np.ndarray]:
        """What is kept of real clips, and how many frames of each are real; given ones left out."""

        def measure() -> Measured:
            found = real_video(self.judge, self.real, self.settings.batch, self.settings.seed + 5)
            return vars(found.cut(self.context, self.real.frames.shape[1])), {}

        arrays, _ = measured(Path(self.settings.out) / "real.safetensors", self.fixed, measure)
        return Frames(**arrays), self.real.valid[:, self.context :].sum(axis=1)

    def measure_dreamer(self, name: str) -> tuple[Frames, np.ndarray, dict[str, Any]]:
        """What is kept of a dreamer's long dream, its pictures, and its other figures."""
        settings = self.settings
        dreamer, facts = self.dreamer(name)
        title = f"{name}, {settings.steps} steps"

        def measure() -> Measured:
            speed = {
                str(rows): step_milliseconds(
                    dreamer, self.given, self.actions, rows, settings.speed_steps, settings.seed
                )
                for rows in settings.speed_rows
            }
            found = recorded_figures(
                dreamer,
                self.clips,
                self.context,
                settings.psnr_steps,
                settings.batch,
                settings.seed + 6,
            )
            dream = long_dream(
                dreamer,
                self.judge,
                self.given,
                self.actions,
                self.shown,
                settings.seed + 7,
                title,
            )
            figures = {**found, "step_ms": speed, "dream_seconds": dream.seconds}
            figures |= {"machine": machine(), "device": _name(self.judge)}
            return {**vars(dream.frames), "pictures": dream.pictures}, figures

        path = Path(settings.out) / f"{name}.safetensors"
        arrays, figures = measured(path, {**self.fixed, "dreamer": facts}, measure)
        pictures = arrays.pop("pictures")
        return Frames(**arrays), pictures, {**figures, **facts}

    def bounds(self) -> dict[str, Any]:
        """PSNR of the last given frame repeated, and of real frames through the flow's codec."""
        clips, context = self.clips, self.context
        length = clips.frames.shape[1] - context
        copied = np.repeat(clips.frames[:, context - 1 : context], length, axis=1)
        device = next(self.judge.parameters()).device
        pieces = [
            self.judge.reconstruct(torch.from_numpy(clips.frames[piece, context:]).to(device))
            for piece in chunks(len(clips.frames), self.settings.batch)
        ]
        coded = torch.cat(pieces).cpu().numpy()
        at = self.settings.psnr_steps
        return {
            "copy of the last frame": {"psnr": psnr_at(copied, clips, context, at)},
            "codec of the flow": {"psnr": psnr_at(coded, clips, context, at)},
        }


def summary(
    dream: Frames, second: int, reference: Gaussian, edges: dict[str, tuple[float, float]]
) -> dict[str, Any]:
    """A dreamer's statistics over time, and how far beyond the band the worst of each is.

    None stands for a statistic beyond an edge of 0, of which there is no share.
    """
    seconds = over_time(dream, second, reference)
    worst, outside = {}, {}
    for name in STATISTICS:
        far = beyond(seconds[name], edges[name], name in ONE_SIDED)
        worst[name] = float(far.max()) if np.isfinite(far).all() else None
        outside[name] = float((far > 0).mean())
    strange = float((dream.novelty > novelty_of(STRANGE_SHARE)).mean())
    return {"over_time": seconds, "beyond": worst, "outside": outside, "strange": strange}


def main() -> None:
    """Measure what is not measured yet, and write the report."""
    settings = read_settings(Horizon)
    folder = Path(settings.out)
    folder.mkdir(parents=True, exist_ok=True)
    run = Measurement(settings)
    note(f"{settings.world} on {_name(run.judge)}")
    real, lengths = run.measure_real()
    half = len(lengths) // 2
    known = np.arange(real.novelty.shape[1]) < lengths[:, None]
    reference = Gaussian.of(real.features[:half][known[:half]])
    others = Frames(real.image[half:], real.features[half:], real.novelty[half:])
    try:
        index = real_groups(
            others, lengths[half:], settings.rows, run.second, settings.groups, settings.seed + 8
        )
    except ValueError as error:
        raise DataError(f"{settings.data.path}: {error}; give longer episodes") from error
    edges = band(others, index, reference)
    figures: dict[str, Any] = {
        "settings": asdict(settings),
        "second": run.second,
        "real": {"clips": len(lengths), "frames": int(lengths.sum())},
        "band": edges,
        "bounds": run.bounds(),
        "dreamers": {},
    }
    pictures = {}
    for name in settings.dreamers:
        dream, pictures[name], found = run.measure_dreamer(name)
        found |= summary(dream, run.second, reference, edges)
        figures["dreamers"][name] = found
    print(write_report(folder, figures, pictures, run.shown))


def _name(world: WorldModel) -> str:
    device = next(world.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    try:
        main()
    except WorldflowError as error:
        sys.exit(f"horizon: {error}")
