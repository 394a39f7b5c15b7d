"""How well strangeness is detected on held-out data, by the world's likelihood and by baselines.

Every clip is scored as it is and after each corruption (`corruptions`). A clip's first `given`
frames are its past, as strange as the rest; the `window` frames after them are judged, each for
itself ("frame") and by the mean of their scores ("window"). For a single frame only those count as
strange that are `changed`; for a window those with a changed frame in it. Normal ones are the same
clips as they are. Intervals are bootstrap intervals over episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.clips import RealClips, real_clips
from worldflow.evaluation.corruptions import (
    ANOTHER_GAME,
    DYNAMICS,
    FAMILIES,
    Corruption,
    Video,
    corruptions,
    unchanged,
)
from worldflow.evaluation.detectors.detector import Detector
from worldflow.evaluation.maps import maps_over
from worldflow.evaluation.other_games import default_games, other_game, variant_clips
from worldflow.evaluation.resampling import episode_weights, interval
from worldflow.evaluation.roc import detection
from worldflow.world_model import WorldModel

FRAME, WINDOW = LEVELS = ("frame", "window")
MEASURES = ("auroc", "auprc", "fpr")


@dataclass
class DetectionConfig:
    """Settings of the section `detection` of `worldflow evaluate`.

    Attributes:
        enabled: whether it is measured.
        episodes: at most, of those to measure on; those shorter than 2 * (given + window) are left
            out.
        clips: of each episode.
        given: first frames of a clip, which are not scored.
        window: frames scored after them.
        others: datasets' folders, or names or folders of worlds, of other games; empty: the shipped
            worlds of other environments.
        variant: folder of a dataset of a variant of the game, or None.
        updates: of each baseline network, on episodes of its own.
        resamples: of the episodes, for the intervals.
    """

    enabled: bool = False
    episodes: int = 100
    clips: int = 2
    given: int = 8
    window: int = 8
    others: list[str] = field(default_factory=list)
    variant: str | None = None
    updates: int = 1000
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name in ("clips", "given", "window", "updates", "resamples"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"detection.{name} is {getattr(self, name)}; it must be at least 1"
                )
        names = [Path(name).name for name in self.others]
        if len(set(names)) < len(names):
            raise ConfigError(f"detection.others={self.others}: two of one name; rename a folder")
        if self.episodes < 2:
            raise ConfigError(f"detection.episodes is {self.episodes}; it must be at least 2")


@dataclass(frozen=True)
class Detected:
    """What was measured.

    Attributes:
        figures: JSON-able.
        examples: of each family and corruption, the frames of the first clip, (T, H, W, 3) uint8.
        maps: the same, with the novelty of tokens over them.
    """

    figures: dict[str, Any]
    examples: dict[str, dict[str, np.ndarray]]
    maps: dict[str, dict[str, np.ndarray]]


def detect(
    config: DetectionConfig,
    world: WorldModel,
    dataset: EpisodeDataset,
    measured: np.ndarray,
    detectors: Sequence[Detector],
    seed: int,
    progress: bool,
) -> Detected:
    """Measure every detector on every corruption of clips of episodes.

    Args:
        config: which clips.
        world: whose episodes, actions and frames they are.
        dataset: where the episodes are.
        measured: indices of episodes that neither the world nor a detector learned from.
        detectors: all that are measured, on the same videos.
        seed: of the choice of clips and of the corruptions.
        progress: show a progress bar.

    Raises:
        DataError: fewer than two of these episodes are long enough.
    """
    frames, actions, episodes = _source(config, dataset, measured, seed)
    length, given = config.given + config.window, config.given
    real = unchanged(frames, actions)
    normal = {d.name: d.score(real.frames, real.actions)[:, given:] for d in detectors}
    weights = episode_weights(episodes, config.resamples, seed)
    weights = np.tile(weights, config.clips)  # row r is of episode r % episodes
    found: dict[str, Any] = {}
    examples: dict[str, dict[str, np.ndarray]] = {}
    maps: dict[str, dict[str, np.ndarray]] = {}
    unchanged_map = _map(world, real, seed)
    replicates: dict[tuple[str, str, str], list[np.ndarray]] = {}
    changes = [*corruptions(world.action_spec), *_given_by_data(config, world, length, seed)]
    for number, corruption in enumerate(
        tqdm(changes, desc="detection", unit="corruption", disable=not progress)
    ):
        rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
        video = corruption.change(frames, actions, rng)
        shown = examples.setdefault(corruption.family, {"real": real.frames[0]})
        shown[corruption.name] = video.frames[0].copy()
        drawn = maps.setdefault(corruption.family, {"real": unchanged_map})
        drawn[corruption.name] = _map(world, video, seed)
        found[corruption.name] = {"family": corruption.family, FRAME: {}, WINDOW: {}}
        for detector in detectors:
            strange = detector.score(video.frames, video.actions)[:, given:]
            for level in LEVELS:
                measures = _measure(
                    level,
                    detector,
                    normal[detector.name],
                    strange,
                    video.changed[:, given:],
                    weights,
                )
                found[corruption.name][level][detector.name] = {
                    name: interval(values).to_dict() for name, values in measures.items()
                }
                key = corruption.family, level, detector.name
                replicates.setdefault(key, []).append(measures["auroc"])
    families: dict[str, Any] = {}
    for (family, level, name), values in replicates.items():
        mean = interval(np.mean(values, axis=0)).to_dict()
        families.setdefault(family, {}).setdefault(level, {})[name] = mean
    figures = {
        "episodes": episodes,
        "clips": len(real.frames),
        "given": given,
        "window": config.window,
        "detectors": [detector.name for detector in detectors],
        "families": {name: families[name] for name in FAMILIES if name in families},
        "corruptions": found,
    }
    return Detected(figures, examples, maps)


def _map(world: WorldModel, video: Video, seed: int) -> np.ndarray:
    """The first clip of a video with the novelty of tokens over it, (T, H, W, 3) uint8."""
    valid = np.ones((1, video.frames.shape[1]), np.bool_)
    clip = RealClips(video.frames[:1], video.actions[:1], valid)
    return maps_over(world, clip, 1, seed)["strange"][0]


def check_detection(
    config: DetectionConfig, world: WorldModel, dataset: EpisodeDataset, measured: np.ndarray
) -> None:
    """Refuse at once what `detect` cannot measure; its arguments.

    Raises:
        ConfigError: the world is not calibrated for the window.
        DataError: fewer than two of the episodes are long enough.
        WorldFormatError: the world is not calibrated.
    """
    world.calibration.require("seen").require_window(config.window, "detection.window")
    _long_enough(config, dataset, measured)


def _long_enough(
    config: DetectionConfig, dataset: EpisodeDataset, measured: np.ndarray
) -> np.ndarray:
    """The episodes of which clips can be made."""
    length = 2 * (config.given + config.window)
    long = measured[dataset.lengths[measured] >= length]
    if len(long) < 2:  # other episodes are needed for their actions, and for intervals
        raise DataError(
            f"{dataset.folder}: of the {len(measured)} episodes to measure on {len(long)} have "
            f"{length} frames, detection needs two or more; take a smaller detection.given or "
            "detection.window"
        )
    return long


def _source(
    config: DetectionConfig, dataset: EpisodeDataset, measured: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Frames (R, 2T, H, W, 3), actions (R, 2T, ...) and E; row r is of the chosen episode r % E."""
    length = 2 * (config.given + config.window)
    long = _long_enough(config, dataset, measured)
    chosen = np.random.default_rng(seed).permutation(long)[: config.episodes]
    draws = [
        real_clips(dataset, chosen, len(chosen), length, length - 1, "random", seed + number)
        for number in range(config.clips)
    ]
    frames, actions = (
        np.concatenate([getattr(draw, name) for draw in draws]) for name in ("frames", "actions")
    )
    return frames, actions, len(frames) // config.clips


def _given_by_data(
    config: DetectionConfig, world: WorldModel, length: int, seed: int
) -> list[Corruption]:
    """The variant of the game, and other games under the real actions."""
    made = []
    if config.variant is not None:
        folder = config.variant

        def variant(frames: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> Video:
            shown, taken = variant_clips(folder, world, len(frames), length, seed)
            return Video(shown, taken, np.ones(taken.shape[:2], np.bool_))

        made.append(Corruption("variant", DYNAMICS, variant))
    for name in config.others or default_games(world):

        def other(
            frames: np.ndarray, actions: np.ndarray, rng: np.random.Generator, name: str = name
        ) -> Video:
            shown = other_game(name, len(frames), length, world.frame_shape, seed)
            return Video(shown, actions[:, :length], np.ones(shown.shape[:2], np.bool_))

        made.append(Corruption(Path(name).name, ANOTHER_GAME, other))
    return made


def _measure(
    level: str,
    detector: Detector,
    normal: np.ndarray,
    strange: np.ndarray,
    changed: np.ndarray,
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """Each measure under each weighting (1 + resamples,), of scores (R, k) and weights (., R)."""
    if level == FRAME:
        rows = np.repeat(np.arange(len(normal)), normal.shape[1])
        normal, strange = normal.ravel(), strange.ravel()
        kept: np.ndarray = changed.ravel()
    else:
        rows = np.arange(len(normal))
        normal, strange = detector.of_window(normal), detector.of_window(strange)
        kept = np.asarray(changed.any(axis=1))
    scores = np.concatenate([normal, strange[kept]])
    labels = np.arange(len(scores)) >= len(normal)
    found = detection(scores, labels, weights[:, np.concatenate([rows, rows[kept]])])
    return {name: getattr(found, name) for name in MEASURES}
