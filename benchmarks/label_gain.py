"""What labels inferred from likelihoods are worth: NLL with few, inferred and all actions.

    python benchmarks/label_gain.py data=runs/data/takecover world=takecover out=runs/label_gain

Of the episodes that `world` did not hold out, a share keeps its actions. A first world learns from
these alone, infers the actions of all others (`worldflow data label`), and a second world learns
from both. A third one learns from all true actions. All start from the same weights, with `world`'s
codec (a codec sees no actions) and sigma, so that their NLLs compare; these are measured on the
episodes that `world` held out, under the true actions.

Every part is a command of its own that continues where it was interrupted; so does this one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from timing import machine, print_table, read_settings, write_figures

from worldflow.config import load_config
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata, write_atomically
from worldflow.errors import ConfigError, WorldflowError
from worldflow.held_out import split_of
from worldflow.labelling.label import LabelConfig, label
from worldflow.metrics import bootstrap
from worldflow.storage import load_world, save_world
from worldflow.training.pretrain import PretrainConfig
from worldflow.training.pretrain import main as pretrain
from worldflow.world_model import WorldModel

ABOUT = "experiment.json"
FEW, INFERRED, ALL = "few true", "few true, others inferred", "all true"


@dataclass
class LabelGain:
    """Settings.

    Attributes:
        data: folder of the dataset that `world` learned from.
        world: name or folder of a world whose codec is used.
        out: folder of everything that is made; `label_gain.json` there has the figures.
        share: of the training episodes, whose actions are kept.
        seed: of the choice of these episodes, and of initial weights.
        pretrain: settings of `worldflow pretrain` for all three worlds.
        label: settings of `worldflow data label`.
    """

    data: str = MISSING
    world: str = MISSING
    out: str = MISSING
    share: float = 0.1
    seed: int = 0
    pretrain: list[str] = field(default_factory=list)
    label: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"share={self.share} must lie between 0 and 1")


def subset(
    source: EpisodeDataset,
    picks: np.ndarray,
    folder: Path,
    known: bool = True,
    metadata: DatasetMetadata | None = None,
) -> None:
    """Write some episodes, under their own numbers, with their actions or without.

    Args:
        source: of which dataset.
        picks: which of its episodes.
        folder: of the dataset that they are added to.
        known: whether their actions are written.
        metadata: of that dataset; the source's own by default.
    """
    writer = EpisodeWriter(folder, metadata or source.metadata)
    written = set(writer.finished_indices())
    for pick in picks.tolist():
        index = int(source.paths[pick].stem)
        if index not in written:
            episode = source.read(pick)
            if not known:
                hidden = np.zeros_like(episode.known)
                hidden[0] = True  # no action led to a first frame
                episode = replace(episode, actions=np.zeros_like(episode.actions), known=hidden)
            writer.add(index, episode)


def start_world(given: WorldModel, seed: int, folder: Path) -> None:
    """Save a world with `given`'s codec, all else as it is before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = WorldModel(given.config, given.spec)
    fresh.codec.load_state_dict(given.codec.state_dict())
    fresh.complete(given.calibration, given.context)
    save_world(fresh, folder, "The start of an experiment: nothing but the codec has learned.\n")


def train(config: LabelGain, name: str, folder: Path) -> Path:
    """Pretrain on the dataset `name` in `folder`; returns the world's folder."""
    run = folder / f"run_{name}"
    world = run / "world"
    if world.is_dir():
        return world
    settings = [f"data={folder / name}", f"from={folder / 'start'}", f"out={run}"]
    settings += ["data.held_out=0.02", *config.pretrain]
    return pretrain(load_config("pretrain", PretrainConfig, settings))


def episode_nll(world: WorldModel, dataset: EpisodeDataset, picks: np.ndarray) -> np.ndarray:
    """Mean NLL of each episode's frames after the first, nats a latent: (episodes,)."""
    figures = []
    for pick in picks.tolist():
        episode = dataset.read(pick)
        frames, actions = torch.from_numpy(episode.frames), torch.from_numpy(episode.actions)
        log_prob = world.log_prob(frames[None], actions[None])[0, 1:]
        figures.append(-float(log_prob.mean()) / world.dimensions)
    return np.array(figures)


def main() -> None:
    config = read_settings(LabelGain)
    folder, source, given = Path(config.out), EpisodeDataset(config.data), load_world(config.world)
    held = given.spec.held_out
    training, held_out = split_of(source, held)
    order = np.random.default_rng(config.seed).permutation(training)
    count = max(2, round(config.share * len(training)))
    few, others = np.sort(order[:count]), np.sort(order[count:])

    if source.action_spec.kind != "discrete":
        raise ConfigError(f"{config.data} has no discrete actions, of which a label can be right")
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps({**asdict(config), "contents": source.fingerprint()})
    if (folder / ABOUT).exists() and (folder / ABOUT).read_text() != about:
        raise ConfigError(f"{folder} holds an experiment with other settings; choose another out=")
    write_atomically(folder / ABOUT, about.encode())
    start_world(given, config.seed, folder / "start")
    subset(source, few, folder / "few")
    subset(source, others, folder / "unlabelled", known=False)
    worlds = {FEW: train(config, "few", folder)}
    settings = [f"src={folder / 'unlabelled'}", f"world={worlds[FEW]}", f"out={folder / 'labels'}"]
    labelled, figures = label(load_config("data_label", LabelConfig, [*settings, *config.label]))
    subset(source, few, folder / "inferred")
    every = np.arange(len(labelled))
    subset(labelled, every, folder / "inferred", metadata=source.metadata)
    worlds[INFERRED] = train(config, "inferred", folder)
    subset(source, training, folder / "all")
    worlds[ALL] = train(config, "all", folder)

    nll = {name: episode_nll(load_world(path), source, held_out) for name, path in worlds.items()}
    right = _right(labelled, source)
    rows = [_row(name, nll) for name in worlds]
    print(machine())
    print_table(f"NLL of {len(held_out)} held-out episodes, nats a latent", rows)
    print(
        f"{len(few)} episodes with their actions; of the transitions of the other {len(others)}, "
        f"{figures['labelled']:.1%} were labelled, {right:.1%} of these rightly"
    )
    results: dict[str, Any] = {"machine": machine(), "nll": rows, "labelled": figures["labelled"]}
    results |= {"right": right, "few": len(few), "others": len(others)}
    write_figures(str(folder / "label_gain.json"), results)


def _right(labelled: EpisodeDataset, source: EpisodeDataset) -> float:
    """Share of the inferred actions that are the true ones."""
    truth = {path.stem: pick for pick, path in enumerate(source.paths)}
    hits = []
    for pick, path in enumerate(labelled.paths):
        steps = labelled.steps_of(pick)
        true = source.steps_of(truth[path.stem]).actions
        hits.append((steps.actions == true)[1:][steps.known[1:]])
    return float(np.concatenate(hits).mean())


def _row(name: str, nll: dict[str, np.ndarray]) -> dict[str, Any]:
    mean, worse = bootstrap(nll[name]), bootstrap(nll[name] - nll[ALL])
    return {
        "actions in training": name,
        "NLL": mean.mean,
        "95% low": mean.low,
        "95% high": mean.high,
        "more than all true": worse.mean,
        "low": worse.low,
        "high": worse.high,
    }


if __name__ == "__main__":
    try:
        main()
    except WorldflowError as error:
        sys.exit(f"label_gain: {error}")
