"""`worldflow pretrain`: from a dataset to a world on disk."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING

from worldflow.data.alignment_check import check_alignment
from worldflow.data.episodes import EpisodeDataset, split
from worldflow.data.opening import DataConfig, open_dataset
from worldflow.errors import ConfigError, DataError
from worldflow.novelty import Calibration
from worldflow.storage import save_world
from worldflow.training.card import world_card
from worldflow.training.checkpoint import Progress, load_checkpoint
from worldflow.training.codec_stage import CodecStage, CodecTraining
from worldflow.training.distributed import Ranks, process_group
from worldflow.training.engine import Engine, EngineConfig
from worldflow.training.flow_stage import FlowStage, FlowTraining
from worldflow.training.initial import start_from, with_heads
from worldflow.training.latents import LatentEpisodes
from worldflow.training.loop import run_stage
from worldflow.training.losses import on_device
from worldflow.training.resume import start_or_continue
from worldflow.world_model import WorldModel
from worldflow.world_spec import Contexts, HeldOut, WorldConfig, WorldSpec

MAX_CONTEXTS = 64
CALIBRATION_CLIPS = 256


@dataclass
class TrainingConfig(EngineConfig):
    """How a world is trained, beside what `EngineConfig` says.

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
        super().__post_init__()
        if self.seed < 0 or self.checkpoint_every < 1:
            raise ConfigError(
                f"training.seed={self.seed} must not be negative, training.checkpoint_every="
                f"{self.checkpoint_every} must be positive"
            )


@dataclass
class PretrainConfig:
    """Settings of `worldflow pretrain`.

    Attributes:
        data: recordings in any format; those that are not a dataset of ours are imported.
        world: what the world is built of.
        initial_world: name or folder of a world whose weights are the start (`from=`); its codec is
            kept as it is, and `world` must be what it was built of. Null: random weights.
        training: how it is trained.
        out: folder of the run; the world is written to `out/world`.
    """

    data: DataConfig = field(default_factory=DataConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    initial_world: str | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    out: str = MISSING


def main(config: PretrainConfig) -> Path:
    """Train a world; a run that was interrupted continues at its last checkpoint.

    Started by torchrun, all its processes train one world together.

    Returns:
        the folder of the world.

    Raises:
        DataError: no dataset, or one too small.
        ConfigError: the run's folder was started with other settings or other data.
    """
    with process_group() as ranks:
        return _pretrain(config, ranks)


def _pretrain(config: PretrainConfig, ranks: Ranks) -> Path:
    training, folder = config.training, Path(config.out)
    source = open_dataset(config.data, folder / "data").folder if ranks.main else None
    dataset = EpisodeDataset(str(ranks.share(source)))
    config = replace(config, world=with_heads(config.world, dataset.metadata))
    if config.world.context >= training.flow.clip:
        raise ConfigError(
            f"world.context={config.world.context} leaves nothing to dream in a clip of "
            f"training.flow.clip={training.flow.clip} frames"
        )
    # the flow stage comes late: say now if its batch does not divide
    ranks.rows(training.flow.batch, training.flow.accumulate, "training.flow.batch")
    train, held_out = split(dataset, config.data.held_out, training.seed)
    contexts = _contexts(dataset, held_out, config.world.context)
    spec = _spec(dataset, HeldOut(config.data.held_out, training.seed, len(dataset)))
    with torch.random.fork_rng(devices=[]):  # initial weights come from torch's own generator
        torch.manual_seed(training.seed)
        world = WorldModel(config.world, spec).to(ranks.device)
    if config.initial_world is not None:
        start_from(world, config.initial_world)
    progress = ranks.share(_start(config, dataset, folder, ranks) if ranks.main else None)
    assert progress is not None
    engine, seed = Engine(ranks, training), training.seed

    codec_stage = CodecStage(world, training.codec, dataset, train, held_out, seed, engine)
    if progress.stage == "codec" and config.initial_world is not None:
        progress = replace(progress, stage="flow", step=0)
    elif progress.stage == "codec":
        every = training.checkpoint_every
        progress = run_stage(codec_stage, world, folder, progress, every, engine)
        progress = replace(progress, stage="flow", step=0)
    else:
        load_checkpoint(folder / "checkpoint.safetensors", world)
    if config.initial_world is None:
        codec_stage.freeze()
    else:  # its latents must stay what the earlier flow knows
        world.codec.eval().requires_grad_(False)

    if ranks.main:  # the others then find them written
        _warn_of_shifts(LatentEpisodes(world.codec, dataset, folder), dataset)
    ranks.share(None)
    episodes = LatentEpisodes(world.codec, dataset, folder)
    flow_stage = FlowStage(world, training.flow, episodes, dataset, train, held_out, seed, engine)
    progress = run_stage(flow_stage, world, folder, progress, training.checkpoint_every, engine)
    if ranks.main:
        world = flow_stage.measured.eval()
        world.complete(_calibrate(flow_stage, seed), contexts)
        card = world_card(world, dataset, folder, _summary(training, progress))
        save_world(world.cpu(), folder / "world", card)
        print(
            f"world saved in {folder / 'world'}; next: worldflow evaluate world={folder / 'world'}"
        )
    return folder / "world"


def _warn_of_shifts(episodes: LatentEpisodes, dataset: EpisodeDataset) -> None:
    known = [k for k in range(len(dataset)) if episodes.known[k][1:].all()]
    latents = [episodes.latents[k].reshape(len(episodes.known[k]), -1) for k in known]
    actions = [episodes.actions[k] for k in known]
    check = check_alignment(latents, actions, dataset.action_spec)
    warning = check.warning() if check is not None else None
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)


def _spec(dataset: EpisodeDataset, held_out: HeldOut) -> WorldSpec:
    # the first reward of an episode stands for none
    rewards = np.concatenate([dataset.steps_of(index).rewards[1:] for index in range(len(dataset))])
    return WorldSpec(
        action_spec=dataset.action_spec,
        frame_shape=dataset.frame_shape,
        fps=dataset.metadata.fps,
        source=dataset.metadata.source,
        reward_range=(float(rewards.min()), float(rewards.max())),
        held_out=held_out,
    )


def _start(config: PretrainConfig, dataset: EpisodeDataset, folder: Path, ranks: Ranks) -> Progress:
    """Where the run in `folder` starts or continues, see `start_or_continue`."""
    training = asdict(config.training)
    setup: dict[str, Any] = {"ranks": ranks.size}
    for name in ("compile", "activation_checkpointing", "sharding"):
        setup[f"training.{name}"] = training.pop(name)
    setup["training.flow.accumulate"] = training["flow"].pop("accumulate")
    settings = {
        "world": asdict(config.world),
        "initial_world": config.initial_world,
        "training": training,
        "data": {"held_out": config.data.held_out, "contents": dataset.fingerprint()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    return start_or_continue(folder, settings, setup)


@torch.no_grad()
def _calibrate(stage: FlowStage, seed: int) -> Calibration:
    """From held-out frames that have at least as much past as a dream starts with."""
    world, clip = stage.measured, stage.config.clip
    device = next(world.parameters()).device
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    values = []
    for _ in range(CALIBRATION_CLIPS // 32):
        batch = stage.episodes.batch(stage.held_out.sample(32, rng), clip)
        noise = torch.randn(batch.latents.shape, generator=generator).to(device)
        batch = on_device(batch, device)
        noisy = batch.latents + world.config.sigma * noise
        out = world.flow(noisy, world.conditioning(batch.actions, batch.known))
        keep = batch.valid.clone()
        keep[:, : world.config.context] = False
        values.append(out.log_prob[keep])
    return Calibration.fit(torch.cat(values).cpu())


def _contexts(dataset: EpisodeDataset, held_out: np.ndarray, context: int) -> Contexts:
    """The first frames of held-out episodes, where the actions between them are known."""
    long = (int(index) for index in held_out if dataset.lengths[index] > context)
    slices = (dataset.read(index, 0, context) for index in long)
    none = dataset.action_spec.kind == "none"
    known = list(islice((s for s in slices if none or s.known[1:].all()), MAX_CONTEXTS))
    if not known:
        raise DataError(
            f"no held-out episode is longer than world.context={context} frames and begins with "
            "known actions; collect longer episodes or lower world.context"
        )
    return Contexts(np.stack([s.frames for s in known]), np.stack([s.actions for s in known]))


def _summary(training: TrainingConfig, progress: Progress) -> str:
    return (
        f"Trained for {progress.seconds / 60:.0f} minutes: {training.codec.steps} updates of the "
        f"codec, {training.flow.steps} of flow, denoiser and heads; seed {training.seed}."
    )
