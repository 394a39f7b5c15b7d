"""Train a small diffusion world on a dataset, as a baseline for a flow that learned from the same.

    python benchmarks/train_diffusion.py world=takecover data=runs/data/takecover seconds=7200 \
        out=runs/horizon/diffusion
    python benchmarks/train_diffusion.py world=takecover data=runs/data/takecover seconds=7200 \
        device=cuda training.precision=bf16 out=runs/horizon/diffusion

It holds out the episodes that `world` held out, and stops when `seconds` of training are over, so
that both can be given the same time. An interrupted run is continued by the same command, and one
that has come to its end by the same command with more `seconds`; the result is that of one run with
the same number of updates, bit for bit.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from diffusion.targets import TargetFrames
from diffusion.training import STAGE, DiffusionTraining, train
from diffusion.world import DiffusionConfig, DiffusionSpec, DiffusionWorld, save_diffusion
from omegaconf import MISSING
from timing import machine, note, read_settings

from worldflow.compiled import DEVICES
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, WorldflowError
from worldflow.held_out import split_of
from worldflow.storage import load_world
from worldflow.training.resume import start_or_continue


@dataclass
class TrainDiffusion:
    """Settings.

    Attributes:
        world: name or folder of the flow to compare with; its held-out episodes are held out.
        data: folder of the dataset that it learned from.
        out: folder of the run; `diffusion.safetensors` is the world.
        seconds: of training, all pieces of the run together.
        steps: most updates; null: as many as there is time for.
        device: "cpu", "cuda", or "auto": a GPU if there is one.
        model: what the world is built of.
        training: how it is trained.
    """

    world: str = MISSING
    data: str = MISSING
    out: str = MISSING
    seconds: float = MISSING
    steps: int | None = None
    device: str = "auto"
    model: DiffusionConfig = field(default_factory=DiffusionConfig)
    training: DiffusionTraining = field(default_factory=DiffusionTraining)

    def __post_init__(self) -> None:
        if self.seconds <= 0 or (self.steps is not None and self.steps < 1):
            raise ConfigError(f"seconds={self.seconds} and steps={self.steps} must be positive")
        if self.device not in DEVICES:
            raise ConfigError(f"device is {self.device!r}; use one of {', '.join(DEVICES)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device=cuda, but torch finds no GPU: use device=cpu")


def main() -> None:
    """Train, and say what it has come to."""
    settings = read_settings(TrainDiffusion)
    config, training, folder = settings.model, settings.training, Path(settings.out)
    flow, dataset = load_world(settings.world), EpisodeDataset(settings.data)
    held_out = flow.spec.held_out
    learned, measured = split_of(dataset, held_out)
    spec = DiffusionSpec(dataset.action_spec, dataset.frame_shape, held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        world = DiffusionWorld(config, spec)
    gpu = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    world.to("cuda" if gpu else "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    fixed = {
        "model": asdict(config),
        "training": asdict(training),
        "held_out": asdict(held_out),
        "data": dataset.fingerprint(),
    }
    setup = {"device": "cuda" if gpu else "cpu", "threads": torch.get_num_threads()}
    progress = start_or_continue(folder, fixed, {}, setup, STAGE)
    note(f"{world.parameter_count / 1e6:.2f} million parameters; update {progress.step} ...")
    progress = train(
        world,
        TargetFrames(dataset, learned, config.past),
        TargetFrames(dataset, measured, config.past),
        training,
        folder,
        progress,
        settings.seconds,
        settings.steps,
    )
    done = {"updates": float(progress.step), "seconds": progress.seconds}
    save_diffusion(world, folder, done)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{folder}: {progress.step} updates in {progress.seconds:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except WorldflowError as error:
        sys.exit(f"train_diffusion: {error}")
