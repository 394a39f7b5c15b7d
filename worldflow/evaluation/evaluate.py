"""`worldflow evaluate`: how well a world dreams on from held-out episodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.clips import RealClips, RecordedClips, real_clips, taught_and_measured
from worldflow.evaluation.controllability import agreement_figures, other_actions
from worldflow.evaluation.detection import Detected, DetectionConfig, check_detection, detect
from worldflow.evaluation.detection_report import print_detection
from worldflow.evaluation.detectors.make import make_detectors
from worldflow.evaluation.dream_error import dream_error_figures
from worldflow.evaluation.dream_figures import dream_figures
from worldflow.evaluation.maps import maps_over
from worldflow.evaluation.output import write_evaluation
from worldflow.evaluation.score_matching import EXACT
from worldflow.evaluation.signals import signal_figures
from worldflow.evaluation.simulate import Dreams, dream, reconstructions
from worldflow.evaluation.simulator_report import ACTIONS, action_strip, simulator_lines
from worldflow.held_out import RealData, held_out_episodes
from worldflow.storage import load_world
from worldflow.text.encoder import encoder_of
from worldflow.world_model import WorldModel


@dataclass
class DreamedWorld:
    """Which world.

    Attributes:
        path: a world's name or folder.
        temperature: factor on the noise of dreamed frames.
    """

    path: str = MISSING
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"world.temperature={self.temperature} must not be negative")


@dataclass
class EvaluateConfig:
    """Settings of `worldflow evaluate`.

    Attributes:
        world: the world.
        data: the real episodes.
        out: folder for `evaluation.json`, pictures, a video and `report.html`.
        clips: held-out clips, each from an episode of its own.
        horizon: dreamed steps; fewer where episodes are shorter.
        start: "first": clips begin with their episodes; "random": anywhere.
        samples: dreams of each clip.
        batch: rows dreamed at once.
        strips: clips shown as pictures.
        captions: the world is told the captions of the clips; detection must be off, and nothing
            be asked of a real game.
        detection: how well strangeness is detected, and whether it tells a dream's errors.
        seed: of the choice of clips and of the noise.
        progress: show progress bars.
    """

    world: DreamedWorld = field(default_factory=DreamedWorld)
    data: RealData = field(default_factory=RealData)
    out: str = MISSING
    clips: int = 64
    horizon: int = 60
    start: str = "random"
    samples: int = 4
    batch: int = 16
    strips: int = 4
    captions: bool = False
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.captions and self.detection.enabled:
            raise ConfigError(
                "detection=true asks what the world finds strange without a caption; measure it "
                "with captions=false"
            )
        least = dict.fromkeys(("clips", "horizon", "samples", "batch", "strips"), 1) | {"seed": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {minimum}")


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what it was measured on.

    Attributes:
        figures: JSON-able.
        clips: the real clips.
        dreams: from the clips' first frames, under their actions.
        reconstructed: the clips through the codec, (B, T, H, W, 3) uint8.
        fps: frames a second of the source.
        pictures: name to (H, W, 3) uint8, shown in the report's sections.
        detected: how well strangeness is detected, where it was measured.
        maps: the first clips with maps over them, see `worldflow.evaluation.maps`.
    """

    figures: dict[str, Any]
    clips: RealClips
    dreams: Dreams
    reconstructed: np.ndarray
    fps: float
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    detected: Detected | None = None
    maps: dict[str, np.ndarray] = field(default_factory=dict)


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure a world.

    Raises:
        WorldFormatError: the world cannot be loaded, or learned with another encoder of captions.
        DataError: the dataset cannot be read, or does not fit the world, or captions are asked for
            that it or the world does not have.
        ConfigError: the encoder of the captions is not installed.
    """
    world, dataset = load_world(config.world.path), EpisodeDataset(config.data.path)
    _check_fit(world, dataset)
    context = world.config.context
    taught, episodes = _episodes(config, world, dataset)
    clips = _choose(config, world, dataset, episodes)
    heat, seed = config.world.temperature, config.seed
    dreams = dream(world, clips, config.samples, config.batch, heat, seed, config.progress)
    reconstructed = reconstructions(world, clips, config.batch)
    figures: dict[str, Any] = {"settings": asdict(config)}
    figures |= dream_figures(world, clips, dreams, reconstructed, config.batch, seed)
    signals = signal_figures(world, clips, dreams, config.batch, seed)
    metadata = dataset.metadata
    figures["reward"] = signals["reward"] if metadata.has_rewards else None
    figures["termination"] = signals["termination"] if metadata.has_terminations else None
    figures["agreement"], pictures = None, {}
    others = other_actions(clips, context)
    if world.action_spec.has_alternatives and others is not None:
        moved, valid = others
        other = dream(world, moved, config.samples, config.batch, heat, seed, config.progress)
        figures["agreement"] = agreement_figures(clips, dreams, other, valid, context)
        pictures[ACTIONS] = action_strip(clips, dreams, other, valid, context)
    detected = _detect(config, world, dataset, taught, episodes, clips, dreams, figures)
    maps = maps_over(world, clips.first(config.strips), config.batch, seed)
    return Evaluation(figures, clips, dreams, reconstructed, metadata.fps, pictures, detected, maps)


def main(config: EvaluateConfig) -> None:
    """Measure a world without its real environment, and write and print the result."""
    deliver(config, evaluate(config))


def deliver(config: EvaluateConfig, evaluation: Evaluation) -> None:
    """Write an evaluation to `config.out` and print what matters most."""
    write_evaluation(evaluation, Path(config.out), config.strips)
    figures = evaluation.figures
    for name, estimate in figures["psnr"].items():
        interval = f"[{estimate['low']:.2f}, {estimate['high']:.2f}]"
        print(f"PSNR of {name:16} {estimate['mean']:7.2f} dB {interval}")
    for name, value in figures["nll_per_latent"].items():
        print(f"NLL a latent, {name:13} {value:7.4f} nats")
    bits = figures["pixel_bits"]["total"]
    interval = f"[{bits['low']:.4f}, {bits['high']:.4f}]"
    print(f"bits per dimension of the pixels, at most {bits['mean']:.4f} {interval}")
    learned = figures["score"]["explained"][EXACT[figures["score"]["lookahead"]]]
    interval = f"[{learned['low']:.3f}, {learned['high']:.3f}]"
    print(f"share of the flow's score that the denoiser explains {learned['mean']:.3f} {interval}")
    if evaluation.detected is not None:
        print_detection(figures["detection"], figures["dream_error"])
    for line in simulator_lines(figures):
        print(line)
    print(f"written to {config.out}; open {Path(config.out) / 'report.html'}")


def _detect(
    config: EvaluateConfig,
    world: WorldModel,
    dataset: EpisodeDataset,
    taught: np.ndarray,
    episodes: np.ndarray,
    clips: RealClips,
    dreams: Dreams,
    figures: dict[str, Any],
) -> Detected | None:
    """Adds `detection` and `dream_error` to the figures where they are asked for."""
    chosen = config.detection
    if not chosen.enabled:
        return None
    folder = Path(config.out) / "baselines"
    detectors = make_detectors(
        world,
        dataset,
        taught,
        folder,
        chosen.window,
        config.batch,
        config.seed,
        chosen.updates,
        config.progress,
    )
    detected = detect(chosen, world, dataset, episodes, detectors, config.seed, config.progress)
    figures["detection"] = detected.figures
    figures["dream_error"] = dream_error_figures(
        clips,
        dreams,
        detectors,
        world.config.context,
        chosen.window,
        chosen.resamples,
        config.seed,
    )
    return detected


def _episodes(
    config: EvaluateConfig, world: WorldModel, dataset: EpisodeDataset
) -> tuple[np.ndarray, np.ndarray]:
    """Those that baselines of detection learn from, and those that all is measured on."""
    held_out = world.spec.held_out
    if not config.detection.enabled:
        unseen = config.data.unseen
        return np.arange(0), held_out_episodes(dataset, None if unseen else held_out)
    taught, measured = taught_and_measured(dataset, config.data, held_out, config.seed)
    check_detection(config.detection, world, dataset, measured)
    return taught, measured


def _choose(
    config: EvaluateConfig, world: WorldModel, dataset: EpisodeDataset, episodes: np.ndarray
) -> RecordedClips:
    """The real clips, with what the world is told of them."""
    encoder = None
    if config.captions:
        if world.spec.text is None:
            raise DataError(
                f"captions=true, but the world {config.world.path} learned without captions; set "
                "captions=false"
            )
        encoder = encoder_of(world.spec.text)
    context = world.config.context
    length = min(context + config.horizon, int(dataset.lengths[episodes].max()))
    clips = real_clips(
        dataset, episodes, config.clips, length, context, config.start, config.seed, encoder
    )
    if clips.text is not None and not clips.text.any():
        raise DataError(
            f"captions=true, but none of the {len(clips.text)} episodes chosen from "
            f"{dataset.folder} has a caption; see docs/text.md on how to give some, or set "
            "captions=false"
        )
    return clips


def _check_fit(world: WorldModel, dataset: EpisodeDataset) -> None:
    wanted = (tuple(world.frame_shape), world.action_spec)
    if (tuple(dataset.frame_shape), dataset.action_spec) != wanted:
        raise DataError(
            f"{dataset.folder}: frame_shape {tuple(dataset.frame_shape)} and action_spec "
            f"{dataset.action_spec} do not fit the world's {wanted[0]} and {wanted[1]}; "
            "evaluate it on data of its own source"
        )
