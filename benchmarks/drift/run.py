"""The measurements of one drift report: each is made once, and found again in its file."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusion.world import load_diffusion
from timing import machine

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
from drift.settings import FREE, Horizon
from drift.statistics import Frames
from drift.store import Measured, measured
from worldflow.compiled import open_world
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.clips import RealClips, real_clips
from worldflow.evaluation.simulate import chunks
from worldflow.held_out import held_out_episodes
from worldflow.storage import WEIGHTS, find_world
from worldflow.world_model import WorldModel

PICTURES = 12  # of each dreamer in the strip


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
        weights = (find_world(settings.world) / WEIGHTS).read_bytes()
        self.fixed = {
            **fixed,
            "world": hashlib.sha256(weights).hexdigest()[:16],
            "data": {"fingerprint": dataset.fingerprint(), "unseen": settings.data.unseen},
        }
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
        facts = {**training, "parameters": world.parameter_count, "precision": settings.precision}
        return DiffusionDreamer(world.to(device), settings.precision), facts

    @property
    def real_lengths(self) -> np.ndarray:
        """How many frames of each real clip are real, without the given ones."""
        return self.real.valid[:, self.context :].sum(axis=1)

    def measure_real(self, coded: bool) -> Frames:
        """What is kept of real clips after their given frames, or of them through the codec."""

        def measure() -> Measured:
            clips = self.real
            if coded:
                clips = replace(clips, frames=self._coded(clips.frames))
            found = real_video(self.judge, clips, self.settings.batch, self.settings.seed + 5)
            return vars(found.cut(self.context, clips.frames.shape[1])), {}

        name = "coded" if coded else "real"
        path = Path(self.settings.out) / f"{name}.safetensors"
        arrays, _ = measured(path, self.fixed, measure)
        return Frames(**arrays)

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
            figures |= {"machine": machine(), "device": device_name(self.judge)}
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
        coded = self._coded(clips.frames[:, context:])
        at = self.settings.psnr_steps
        return {
            "copy of the last frame": {"psnr": psnr_at(copied, clips, context, at)},
            "codec of the flow": {"psnr": psnr_at(coded, clips, context, at)},
        }

    def _coded(self, frames: np.ndarray) -> np.ndarray:
        """Frames (B, T, H, W, 3) uint8 through the flow's codec and back."""
        device, pieces = next(self.judge.parameters()).device, []
        for piece in chunks(len(frames), self.settings.batch):
            pieces.append(self.judge.reconstruct(torch.from_numpy(frames[piece]).to(device)).cpu())
        return torch.cat(pieces).numpy()


def device_name(world: WorldModel) -> str:
    device = next(world.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
