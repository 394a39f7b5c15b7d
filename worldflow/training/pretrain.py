"""`worldflow pretrain`: from a dataset to a world on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from omegaconf import MISSING

from worldflow.config import flatten
from worldflow.data.episodes import EpisodeDataset, split
from worldflow.data.metadata import write_atomically
from worldflow.errors import ConfigError, DataError
from worldflow.novelty import Calibration, noise_floor
from worldflow.storage import save_world
from worldflow.training.checkpoint import Progress, load_checkpoint, read_progress
from worldflow.training.codec_stage import CodecStage, CodecTraining
from worldflow.training.flow_stage import FlowStage, FlowTraining, LatentEpisodes
from worldflow.training.loop import run_stage
from worldflow.world_model import WorldModel
from worldflow.world_spec import Contexts, HeldOut, WorldConfig, WorldSpec

MAX_CONTEXTS = 64
CALIBRATION_CLIPS = 256


@dataclass
class DataConfig:
    """Where the data is.

    Attributes:
        path: folder of a dataset, see `worldflow collect`.
        held_out: share of the episodes kept for validation, calibration and contexts.
    """

    path: str = MISSING
    held_out: float = 0.1


@dataclass
class TrainingConfig:
    """How a world is trained.

    Attributes:
        seed: of weights, batches and noise.
        checkpoint_every: updates between checkpoints.
        codec: first stage.
        flow: second stage.
    """

    seed: int = 0
    checkpoint_every: int = 200
    codec: CodecTraining = field(default_factory=CodecTraining)
    flow: FlowTraining = field(default_factory=FlowTraining)

    def __post_init__(self) -> None:
        if self.seed < 0 or self.checkpoint_every < 1:
            raise ConfigError(
                f"training.seed={self.seed} must not be negative, training.checkpoint_every="
                f"{self.checkpoint_every} must be positive"
            )


@dataclass
class PretrainConfig:
    """Settings of `worldflow pretrain`.

    Attributes:
        data: the dataset.
        world: what the world is built of.
        training: how it is trained.
        out: folder of the run; the world is written to `out/world`.
    """

    data: DataConfig = field(default_factory=DataConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    out: str = MISSING


def main(config: PretrainConfig) -> Path:
    """Train a world; a run that was interrupted continues at its last checkpoint.

    Returns:
        the folder of the world.

    Raises:
        DataError: no dataset, or one too small.
        ConfigError: the run's folder was started with other settings or other data.
    """
    dataset = EpisodeDataset(config.data.path)
    training, folder = config.training, Path(config.out)
    if config.world.context >= training.flow.clip:
        raise ConfigError(
            f"world.context={config.world.context} leaves nothing to dream in a clip of "
            f"training.flow.clip={training.flow.clip} frames"
        )
    train, held_out = split(dataset, config.data.held_out, training.seed)
    contexts = _contexts(dataset, held_out, config.world.context)
    spec = _spec(dataset, HeldOut(config.data.held_out, training.seed, len(dataset)))
    with torch.random.fork_rng(devices=[]):  # initial weights come from torch's own generator
        torch.manual_seed(training.seed)
        world = WorldModel(config.world, spec)
    folder.mkdir(parents=True, exist_ok=True)
    progress = _start_or_continue(config, dataset, folder)

    codec_stage = CodecStage(world, training.codec, dataset, train, held_out, training.seed)
    if progress.stage == "codec":
        progress = run_stage(codec_stage, world, folder, progress, training.checkpoint_every)
    else:
        load_checkpoint(folder / "checkpoint.safetensors", world)
    codec_stage.freeze()
    if progress.stage == "codec":
        progress = Progress("flow", 0, progress.seconds, progress.fingerprint)

    episodes = LatentEpisodes(world, dataset)
    flow_stage = FlowStage(world, training.flow, episodes, dataset, train, held_out, training.seed)
    progress = run_stage(flow_stage, world, folder, progress, training.checkpoint_every)

    world.eval()
    world.complete(_calibrate(flow_stage, training.seed), contexts)
    save_world(world, folder / "world", _card(config, dataset, folder, progress))
    print(f"world saved in {folder / 'world'}; next: worldflow evaluate world={folder / 'world'}")
    return folder / "world"


def _spec(dataset: EpisodeDataset, held_out: HeldOut) -> WorldSpec:
    # the first reward of an episode stands for none
    rewards = np.concatenate([dataset.rewards(index)[1:] for index in range(len(dataset))])
    return WorldSpec(
        action_spec=dataset.action_spec,
        frame_shape=dataset.frame_shape,
        fps=dataset.metadata.fps,
        source=dataset.metadata.source,
        reward_range=(float(rewards.min()), float(rewards.max())),
        held_out=held_out,
    )


def _start_or_continue(config: PretrainConfig, dataset: EpisodeDataset, folder: Path) -> Progress:
    """The progress of the run in `folder`, a new one if it has no checkpoint.

    A run is continued only under the settings and with the data that it was started with, since
    anything else would give a world that no command reproduces.
    """
    settings = {
        "world": asdict(config.world),
        "training": asdict(config.training),
        "data": {"held_out": config.data.held_out, "contents": dataset.fingerprint()},
    }
    path, fingerprint = folder / "run.json", json.dumps(settings, sort_keys=True)
    checkpoint = folder / "checkpoint.safetensors"
    if not checkpoint.exists():
        write_atomically(path, (json.dumps(settings, indent=2) + "\n").encode())
        return Progress("codec", 0, 0.0, fingerprint)
    progress = read_progress(checkpoint)
    if progress.fingerprint != fingerprint:
        old = flatten(json.loads(progress.fingerprint))
        new = flatten(json.loads(fingerprint))
        differing = sorted(k for k in old | new if old.get(k) != new.get(k))
        raise ConfigError(
            f"{folder} holds a run with other settings: "
            + ", ".join(f"{k} was {old.get(k)} and is {new.get(k)}" for k in differing[:5])
            + "; repeat the old settings to continue it, or choose another out="
        )
    return progress


@torch.no_grad()
def _calibrate(stage: FlowStage, seed: int) -> Calibration:
    """From held-out frames that have at least as much past as a dream starts with."""
    world, clip = stage.world, stage.config.clip
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    values = []
    for _ in range(CALIBRATION_CLIPS // 32):
        batch = stage.episodes.batch(stage.held_out.sample(32, rng), clip)
        noise = torch.randn(batch.latents.shape, generator=generator)
        noisy = batch.latents + world.config.sigma * noise
        out = world.flow(noisy, world.conditioning(batch.actions))
        keep = batch.valid.clone()
        keep[:, : world.config.context] = False
        values.append(out.log_prob[keep])
    return Calibration.fit(torch.cat(values))


def _contexts(dataset: EpisodeDataset, held_out: np.ndarray, context: int) -> Contexts:
    """The first frames of held-out episodes."""
    long = [index for index in held_out if dataset.lengths[index] > context][:MAX_CONTEXTS]
    if not long:
        raise DataError(
            f"no held-out episode is longer than world.context={context} frames; collect longer "
            "episodes or lower world.context"
        )
    slices = [dataset.read(int(index), 0, context) for index in long]
    return Contexts(np.stack([s.frames for s in slices]), np.stack([s.actions for s in slices]))


def _card(config: PretrainConfig, dataset: EpisodeDataset, folder: Path, progress: Progress) -> str:
    """What a stranger must know of the world, in Markdown."""
    last: dict[str, float] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        last[entry["tag"]] = entry["value"]
    held_out = {tag: value for tag, value in sorted(last.items()) if "held_out" in tag}
    floor = noise_floor(config.world.sigma)
    rows = "\n".join(f"| {tag} | {value:.4g} |" for tag, value in held_out.items())
    source = json.dumps(dataset.metadata.source)
    return f"""# World of `{dataset.metadata.source.get("env_id", "video")}`

- Source: `{source}`, {len(dataset)} episodes, {dataset.steps} steps, \
{config.data.held_out:.0%} of the episodes held out.
- Trained for {progress.seconds / 60:.0f} minutes: {config.training.codec.steps} updates of the \
codec, {config.training.flow.steps} of flow, denoiser and heads; seed {config.training.seed}.
- Noise: sigma {config.world.sigma} at unit latent scale; its entropy, {floor:.3f} nats a latent, \
is the least NLL there can be.

| held-out figure | value |
| --- | --- |
{rows}

NLL is in nats a latent. Likelihoods are of the noisy latents, not of the pixels.
"""
