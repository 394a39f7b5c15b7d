"""`worldflow data label`: a dataset's actions, inferred by a world from the frames alone."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING
from safetensors.numpy import save
from tqdm import tqdm

from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.formats.store import STORE
from worldflow.data.journal import Journal
from worldflow.data.metadata import DatasetMetadata, check_same, write_atomically
from worldflow.data.opening import DataConfig, open_dataset
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.simulate import chunks, clip_noise
from worldflow.held_out import held_out_episodes
from worldflow.labelling.infer import Inference, Labels, by_enumeration, by_search, padded_draws
from worldflow.labelling.posterior import log_prior_of
from worldflow.labelling.report import LABELS, labels_path, write_report
from worldflow.storage import load_world
from worldflow.world_model import WorldModel


@dataclass
class LabellingWorld:
    """Which world.

    Attributes:
        path: a world's name or folder.
    """

    path: str = MISSING


@dataclass
class LabelConfig:
    """Settings of `worldflow data label`.

    Attributes:
        src: recordings of any format, whose frames are labelled; what is not a dataset of ours is
            imported to `out` + "_imported". Actions in them are only compared with.
        world: the world that judges them.
        out: folder of the labelled dataset.
        threshold: transitions of less confidence stay unlabelled. Confidence is the posterior of
            the likeliest action; of a box, the share of it that the posterior rules out,
            1 - exp(entropy relative to uniform).
        beam: histories of actions kept of each episode; discrete actions only, as the next four.
        delay: frames after a transition that its label may depend on.
        noise_samples: draws of the noise whose posteriors are averaged.
        prior: probability of each action; null: uniform.
        temper: factor on log-likelihood differences; 1: exact Bayes, see `labelling.json`.
        candidates: actions tried in a round; box actions only, as the next one.
        rounds: of the search.
        batch: episodes labelled at once.
        held_out_only: label only the episodes that the world did not learn from.
        seed: of the noise.
        progress: show a progress bar.
    """

    src: str = MISSING
    world: LabellingWorld = field(default_factory=LabellingWorld)
    out: str = MISSING
    threshold: float = 0.9
    beam: int = 4
    delay: int = 1
    noise_samples: int = 1
    prior: list[float] | None = None
    temper: float = 1.0
    candidates: int = 64
    rounds: int = 3
    batch: int = 16
    held_out_only: bool = False
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or self.temper < 0:
            raise ConfigError(
                f"threshold={self.threshold} must lie in 0..1, temper={self.temper} must not be "
                "negative"
            )
        if self.batch < 1 or self.seed < 0:
            raise ConfigError(
                f"batch={self.batch} must be at least 1, seed={self.seed} not negative"
            )


def main(config: LabelConfig) -> EpisodeDataset:
    """Label a dataset and say how it went. See `label`."""
    dataset, figures = label(config)
    known = figures["labelled"]
    share = (
        "no transitions" if known is None else f"{known:.1%} of {figures['transitions']} labelled"
    )
    print(f"{dataset.folder}: {figures['episodes']} episodes, {share}")
    truth = figures["truth"]
    if truth and "accuracy" in truth:
        error = truth["expected_calibration_error"]
        print(
            f"accuracy where the action is known {truth['accuracy']:.3f}, calibration {error:.3f}"
        )
    return dataset


def label(config: LabelConfig) -> tuple[EpisodeDataset, dict[str, Any]]:
    """Write the labelled dataset, the posteriors and the report.

    Episodes keep their numbers. Those already written are kept, so that an interrupted run goes on
    where it stopped, and until it has come to its end the folder cannot be opened as a dataset. The
    same settings give the same bytes, as episodes are inferred in the same batches even if only one
    of a batch is missing.

    Returns:
        the dataset, and what `labelling.json` holds.

    Raises:
        WorldFormatError: the world cannot be loaded.
        DataError: the dataset cannot be read or does not fit the world, the world has no actions to
            choose between, or `out` holds another dataset.
        ConfigError: the search is out of range.
    """
    world = load_world(config.world.path)
    # our own store must fit as it is; recordings are made to fit
    size = None if STORE.detect(Path(config.src)) else world.frame_shape[0]
    dataset = open_dataset(DataConfig(path=config.src, size=size), Path(f"{config.out}_imported"))
    _check_fit(world, dataset)
    infer = _inference(world, config)
    picks = held_out_episodes(dataset, world.spec.held_out if config.held_out_only else None)
    folder, metadata = Path(config.out), _metadata(config, world, dataset)
    indices = [int(dataset.paths[pick].stem) for pick in picks]
    check_same(folder, metadata)  # which names the setting that differs
    journal = Journal(folder, [str(index) for index in indices], metadata.to_dict())
    journal.begin()
    writer = EpisodeWriter(folder, metadata)
    (folder / LABELS).mkdir(exist_ok=True)
    written = {i for i in writer.finished_indices() if labels_path(folder, i).is_file()}
    total, done = len(indices), len(written & set(indices))
    with tqdm(total=total, initial=done, unit="episode", disable=not config.progress) as bar:
        for piece in chunks(len(picks), config.batch):
            missing = [index for index in indices[piece] if index not in written]
            if not missing:
                continue
            episodes = [dataset.read(int(pick)) for pick in picks[piece]]
            noises = [clip_noise(config.seed, index) for index in indices[piece]]
            draws, lengths = padded_draws(
                world, [episode.frames for episode in episodes], noises, config.noise_samples
            )
            inferred = infer(draws, lengths)
            for row, (index, episode) in enumerate(zip(indices[piece], episodes, strict=True)):
                if index in missing:
                    made = {name: values[row, : len(episode)] for name, values in inferred.items()}
                    recorded = episode.known & (dataset.action_spec == world.action_spec)
                    _write(writer, index, episode, recorded, made, config.threshold)
            bar.update(len(missing))
    prior = np.zeros(0)
    if world.action_spec.kind == "discrete":
        prior = log_prior_of(world, config.prior).exp().numpy()
    figures = write_report(folder, asdict(config), indices, world.action_spec, prior)
    journal.finish()
    return EpisodeDataset(folder), figures


def _inference(world: WorldModel, config: LabelConfig) -> Inference:
    if world.action_spec.kind == "box":
        return by_search(world, config.candidates, config.rounds, config.noise_samples)
    return by_enumeration(
        world, config.prior, config.beam, config.delay, config.noise_samples, config.temper
    )


def _write(
    writer: EpisodeWriter,
    index: int,
    episode: Episode,
    recorded: np.ndarray,
    inferred: Labels,
    threshold: float,
) -> None:
    """Write the labels of an episode and then the episode, which marks it finished.

    Args:
        writer: of the labelled dataset.
        index: of the episode.
        episode: as it was.
        recorded: where its own actions are known and of the world's kind, (T,) bool.
        inferred: arrays (T, ...).
        threshold: least confidence of a label.
    """
    spec = writer.metadata.action_spec
    known = inferred["confidence"] >= threshold
    known[0] = episode.known[0]  # no action led to a first frame
    shown = known.copy()
    shown[0] = False
    zero = np.zeros(spec.shape, spec.dtype)
    mask = shown.reshape(-1, *[1] * len(spec.shape))
    truth = episode.actions if recorded.any() else np.broadcast_to(zero, inferred["action"].shape)
    labels = inferred | {"recorded": recorded, "truth": truth}
    tensors = {name: np.ascontiguousarray(values) for name, values in labels.items()}
    write_atomically(labels_path(writer.folder, index), save(tensors))
    actions = np.where(mask, inferred["action"], zero).astype(spec.dtype)
    writer.add(index, replace(episode, actions=actions, known=known))


def _metadata(config: LabelConfig, world: WorldModel, dataset: EpisodeDataset) -> DatasetMetadata:
    """The source's, with the world's actions, and with all that the labels depend on."""
    settings = asdict(config)
    for name in ("src", "out", "progress"):
        del settings[name]
    digest = hashlib.sha256()
    for name, value in sorted(world.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    settings["world"]["weights"] = digest.hexdigest()[:16]
    labelled = {"by": settings, "contents": dataset.fingerprint()}
    collect = {"source": dataset.metadata.collect, "labelled": labelled}
    return replace(dataset.metadata, action_spec=world.action_spec, collect=collect)


def _check_fit(world: WorldModel, dataset: EpisodeDataset) -> None:
    if tuple(dataset.frame_shape) != tuple(world.frame_shape):
        raise DataError(
            f"{dataset.folder}: frame_shape {tuple(dataset.frame_shape)} does not fit the world's "
            f"{tuple(world.frame_shape)}; import the video again at that size"
        )
    if not math.isclose(dataset.metadata.fps, world.spec.fps, rel_tol=0.02):
        raise DataError(
            f"{dataset.folder}: fps {dataset.metadata.fps:g} is not the world's "
            f"{world.spec.fps:g}, so that a step means another time; import the video again at "
            "that rate"
        )
