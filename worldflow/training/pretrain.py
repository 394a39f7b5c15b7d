"""`worldflow pretrain`: from a dataset to a world on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING

from worldflow.calibrate import calibrate, check_measurable
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.opening import DataConfig, open_dataset
from worldflow.data.splitting import split, split_growing
from worldflow.errors import ConfigError
from worldflow.saved_config import CONFIG, save_config
from worldflow.storage import save_world
from worldflow.text.encoder import NAMES
from worldflow.training.captions import EncodedCaptions, check_text_dropout, encode_captions
from worldflow.training.card import world_card
from worldflow.training.checkpoint import CHECKPOINT, Progress
from worldflow.training.completion import starting_contexts
from worldflow.training.distributed import Ranks, process_group
from worldflow.training.end_stage import check_memory
from worldflow.training.engine import Engine
from worldflow.training.frozen_past import check_frozen_past, check_untrained
from worldflow.training.initial import start_from, with_heads
from worldflow.training.modes import Run, train_in_two_stages, train_jointly
from worldflow.training.parts import PARTS
from worldflow.training.report import PAGE, write_run_report
from worldflow.training.resume import fetch, start_or_continue
from worldflow.training.settings import TrainingConfig
from worldflow.world_model import WorldModel
from worldflow.world_spec import HeldOut, WorldConfig, WorldSpec


@dataclass
class PretrainConfig:
    """Settings of `worldflow pretrain`.

    Attributes:
        data: recordings in any format; those that are not a dataset of ours are imported.
        world: what the world is built of.
        initial_world: name or folder of a world whose weights are the start (`from=`); its codec is
            kept as it is, and `world` must be what it was built of (see
            `worldflow.training.initial.start_from`). Null: random weights.
        starts: where dreams begin: "first", as held-out episodes do, or "random", anywhere in them,
            for games in which hours of play by chance never come to where rewards are.
        text: encoder of the captions that the world is conditioned on, see
            `worldflow.text.encoder.load_encoder`; null: captions are not used.
        training: how it is trained.
        growing: episodes will be added to the data and the world be trained on (`from=`): hold out
            episodes that stay held out then, see `worldflow.data.splitting.split_growing`.
        resume: folder of an interrupted run, whose settings are taken (by the command line). With
            another `out` the run goes on there, and its first folder stays as it is: it may be a
            mounted bucket that cannot be written.
        out: folder of the run; the world is written to `out/world`.
    """

    data: DataConfig = field(default_factory=DataConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    initial_world: str | None = None
    starts: str = "first"
    text: str | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    growing: bool = False
    resume: str | None = None
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
    resume, config = config.resume, _anywhere(config)
    training, folder = config.training, Path(config.out)
    _check(config, ranks)
    if ranks.main:
        folder.mkdir(parents=True, exist_ok=True)
        if resume is not None:
            fetch(Path(resume), folder)
        if not ((folder / CONFIG).exists() or (folder / CHECKPOINT).exists()):
            save_config(config, folder)  # importing may take hours
    source = open_dataset(config.data, folder / "data", parts=True).folder if ranks.main else None
    dataset = EpisodeDataset(str(ranks.share(source)))
    config = replace(config, world=with_heads(config.world, dataset.metadata))
    if training.flow.part != "all":  # once more, as it is known now which heads there are
        check_frozen_past(config.world, training.flow, ranks)
    share, lengths = config.data.held_out, dataset.lengths
    if config.growing:
        train, held_out = split_growing(dataset.recordings, share, training.seed)
    else:
        train, held_out = split(dataset.recordings, share, training.seed, lengths)
    if training.flow.part == "all":
        where = f"training.{'joint' if training.is_joint else 'flow'}.clip"
        check_memory(config.world, where, training.clips.clip, int(lengths[train].max()))
    check_measurable(dataset, held_out, config.world.context)
    contexts = starting_contexts(
        dataset, held_out, config.world.context, config.starts, training.seed
    )
    recordings, frames = len(np.unique(dataset.recordings)), int(lengths.sum())
    held = HeldOut(share, training.seed, len(dataset), recordings, frames, config.growing)
    captions = None
    if config.text is not None:
        stage, main = "joint" if training.is_joint else "flow", ranks.main
        where = f"training.{stage}.text_dropout"
        check_text_dropout(where, training.clips.text_dropout, dataset.captions)
        captions = ranks.share(encode_captions(config.text, dataset, folder) if main else None)
    spec = _spec(config, dataset, held, captions)
    with torch.random.fork_rng(devices=[]):  # initial weights come from torch's own generator
        torch.manual_seed(training.seed)
        world = WorldModel(config.world, spec)
    if captions is not None:
        world.conditioning.whiten(torch.from_numpy(captions.vectors), torch.from_numpy(lengths))
    world = world.to(ranks.device)
    if config.initial_world is not None:
        fresh = start_from(world, config.initial_world, whole=training.flow.part == "all")
        if fresh and ranks.main:
            parts = ", ".join(sorted({name.split(".")[0] for name in fresh}))
            print(f"not as in {config.initial_world}, so learned anew, in all or in part: {parts}")
        if training.flow.part != "all":
            check_untrained(training.flow.part, fresh, config.initial_world)
    start = _start(config, dataset, captions, folder, ranks) if ranks.main else None
    progress = ranks.share(start)
    assert progress is not None
    engine, given = Engine(ranks, training), config.initial_world is not None
    text = None if captions is None else captions.vectors
    run = Run(world, training, dataset, train, held_out, folder, engine, given, text)
    trained = (train_jointly if training.is_joint else train_in_two_stages)(run, progress)
    if ranks.main:
        world = trained.world.eval()
        world.complete(calibrate(world, dataset, held_out, training.seed), contexts)
        summary = _summary(config, trained.progress)
        card = world_card(world, dataset, folder, summary)
        save_world(world.cpu(), folder / "world", card)
        write_run_report(run, trained, summary)
        print(
            f"world saved in {folder / 'world'}; open {folder / PAGE}; "
            f"next: worldflow evaluate world={folder / 'world'} data={dataset.folder} "
            f"out={folder / 'evaluation'}"
        )
    return folder / "world"


def _check(config: PretrainConfig, ranks: Ranks) -> None:
    """Refuse at once what would fail late, or not do what it says."""
    training = config.training
    stage, clips = "joint" if training.is_joint else "flow", training.clips
    if config.world.context >= clips.clip:
        raise ConfigError(
            f"world.context={config.world.context} leaves nothing to dream in a clip of "
            f"training.{stage}.clip={clips.clip} frames"
        )
    if training.flow.part != "all":
        if training.is_joint or config.initial_world is None:
            raise ConfigError(
                f"training.flow.part={training.flow.part} keeps all else of an earlier world: give "
                "it with from=..., and use codec=two-stage"
            )
        check_frozen_past(config.world, training.flow, ranks)
    if stage == "flow":
        ranks.rows(clips.batch, training.flow.accumulate, "training.flow.batch")
        return
    if training.flow.accumulate > 1:
        raise ConfigError(
            f"training.flow.accumulate={training.flow.accumulate} does not go with codec=joint, "
            "whose latents are standardised over a whole batch; lower training.joint.batch, or use "
            "more ranks"
        )
    if config.initial_world is not None:
        raise ConfigError(
            f"from={config.initial_world} keeps the codec of that world, and codec=joint trains "
            "it; use codec=two-stage"
        )


def _spec(
    config: PretrainConfig,
    dataset: EpisodeDataset,
    held_out: HeldOut,
    captions: EncodedCaptions | None,
) -> WorldSpec:
    steps = [dataset.steps_of(index) for index in range(len(dataset))]
    # the first reward of an episode stands for none
    rewards = np.concatenate([each.rewards[1:] for each in steps])
    knows_unknown: bool | None = config.training.clips.action_dropout > 0.0
    knows_unknown = knows_unknown or not all(each.known[1:].all() for each in steps)
    if not knows_unknown and config.initial_world is not None:
        knows_unknown = None  # the world that it starts from may have learned it
    return WorldSpec(
        action_spec=dataset.action_spec,
        frame_shape=dataset.frame_shape,
        fps=dataset.metadata.fps,
        source=dataset.metadata.source,
        reward_range=(float(rewards.min()), float(rewards.max())),
        held_out=held_out,
        text=None if captions is None else captions.spec,
        knows_unknown_actions=knows_unknown,
    )


def _start(
    config: PretrainConfig,
    dataset: EpisodeDataset,
    captions: EncodedCaptions | None,
    folder: Path,
    ranks: Ranks,
) -> Progress:
    """Where the run in `folder` starts or continues, see `start_or_continue`."""
    training = asdict(config.training)
    setup: dict[str, Any] = {"ranks": ranks.size}
    for name in ("compile", "activation_checkpointing", "sharding"):
        setup[f"training.{name}"] = training.pop(name)
    setup["training.flow.accumulate"] = training["flow"].pop("accumulate")
    if captions is None:  # then nothing depends on it
        for stage in ("flow", "joint"):
            del training[stage]["text_dropout"]
    settings: dict[str, Any] = {
        "world": asdict(config.world),
        "initial_world": config.initial_world,
        "starts": config.starts,
        "training": training,
        "data": {
            "held_out": config.data.held_out,
            "contents": dataset.fingerprint(),
            "growing": config.growing,
        },
    }
    defaults = {
        "world": asdict(WorldConfig()),
        "training": asdict(TrainingConfig()),
        "data": {"growing": False},
    }
    if captions is not None:
        settings["text"] = {"encoder": captions.spec.encoder, "digest": captions.spec.digest}
    first = "joint" if config.training.is_joint else "codec"
    progress = start_or_continue(folder, settings, defaults, setup, first)
    save_config(config, folder)
    return progress


def _anywhere(config: PretrainConfig) -> PretrainConfig:
    """The same settings for a command that is given in another folder."""
    initial = config.initial_world
    if initial is not None and Path(initial).exists():  # else it is a shipped world's name
        initial = str(Path(initial).resolve())
    text = config.text
    if text is not None and text not in NAMES:
        text = str(Path(text).resolve())
    data = replace(config.data, path=str(Path(config.data.path).resolve()))
    if data.imported is not None:
        data = replace(data, imported=str(Path(data.imported).resolve()))
    out = str(Path(config.out).resolve())
    return replace(config, data=data, initial_world=initial, text=text, resume=None, out=out)


def _summary(config: PretrainConfig, progress: Progress) -> str:
    training = config.training
    codec = "" if config.initial_world else f"{training.codec.steps} updates of the codec, "
    updates = (
        f"{training.joint.steps} updates of codec, flow, denoiser and heads together"
        if training.is_joint
        else f"{codec}{training.flow.steps} updates of flow, denoiser and heads"
    )
    if training.flow.part != "all":
        updates = f"{training.flow.steps} updates of {PARTS[training.flow.part].about} alone"
    start = f", from `{Path(config.initial_world).name}`" if config.initial_world else ""
    minutes = f"{progress.seconds / 60:.0f} minutes"
    return f"Trained for {minutes}{start}: {updates}; seed {training.seed}."
