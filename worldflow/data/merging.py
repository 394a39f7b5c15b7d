"""`worldflow data merge`: several datasets as one, with captions that tell them apart.

What the actions of the one set are:

    shared   the sources have the same actions, which stay as they are; if all are of one game, the
             whole is
    union    discrete actions one after another: action a of source k is n_0 + ... + n_(k-1) + a
    none     no action is known: text alone says what happens

Under a union a world learns what each action does in its own source; what another source's action
does there it never saw.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import MISSING
from tqdm import tqdm

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata, games_of, without_place
from worldflow.errors import ConfigError, DataError

ACTIONS = ("shared", "union", "none")
OWN = "{caption}"


@dataclass
class MergeConfig:
    """Settings of `worldflow data merge`.

    Attributes:
        dst: folder for the dataset.
        sources: folders of datasets, with frames of one size.
        captions: for each source what its episodes are called, in which `{caption}` stands for the
            episode's own caption; null: their own, if they have any.
        actions: "shared", "union" or "none".
        fps: frames a second that the whole is said to have; null: what all sources have.
        progress: show a progress bar.
    """

    dst: str = MISSING
    sources: list[str] = MISSING
    captions: list[str] | None = None
    actions: str = "union"
    fps: float | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise ConfigError(f"sources={self.sources} are not several; sources=[FOLDER, FOLDER]")
        if self.captions is not None and len(self.captions) != len(self.sources):
            raise ConfigError(
                f"{len(self.captions)} captions for {len(self.sources)} sources; give one for each"
            )
        if self.actions not in ACTIONS:
            raise ConfigError(f"actions={self.actions!r}; use one of {', '.join(ACTIONS)}")
        if self.fps is not None and not 0 < self.fps < 1000:
            raise ConfigError(f"fps is {self.fps}; give frames a second, or null")


def main(config: MergeConfig) -> EpisodeDataset:
    """Write the episodes of all sources to one folder, whole or not at all.

    Raises:
        DataError: a source cannot be read, or their frames, rates or actions do not fit together.
        ConfigError: the destination exists.
    """
    folder = Path(config.dst)
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another dst=")
    sources = [EpisodeDataset(path) for path in config.sources]
    spec, offsets = merged_actions([source.action_spec for source in sources], config.actions)
    metadata = _metadata(config, sources, spec, offsets)
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
    writer, index = EpisodeWriter(new, metadata), 0
    total = sum(len(source) for source in sources)
    with tqdm(total=total, desc="merge", unit="episode", disable=not config.progress) as bar:
        for number, source in enumerate(sources):
            for k in range(len(source)):
                episode = _renamed(config, source, number, source.read(k))
                writer.add(index, _with_actions(episode, metadata, offsets[number]))
                index += 1
                bar.update()
    new.rename(folder)
    merged = EpisodeDataset(folder)
    print(f"{folder}: {len(merged)} episodes, {merged.steps} steps")
    return merged


def merged_actions(specs: Sequence[ActionSpec], how: str) -> tuple[ActionSpec, list[int | None]]:
    """The actions of all sources together, and the number of each source's first one.

    Args:
        specs: of each source.
        how: see the module.

    Returns:
        the spec, and an offset for each source; None where its actions are not known.

    Raises:
        ConfigError: they do not fit together that way.
    """
    if how == "none":
        return ActionSpec("none"), [None] * len(specs)
    if how == "shared":
        if len(set(specs)) > 1:
            raise ConfigError("actions=shared, but the sources' differ; use actions=union or none")
        return specs[0], [0] * len(specs)
    if any(spec.kind == "box" for spec in specs):
        raise ConfigError("actions=union is for discrete actions; use actions=none")
    counts = [spec.n for spec in specs]  # 0 where there are none
    if not sum(counts):
        return ActionSpec("none"), [None] * len(specs)
    firsts = np.cumsum([0, *counts[:-1]]).tolist()
    offsets = [first if n else None for first, n in zip(firsts, counts, strict=True)]
    return ActionSpec("discrete", n=sum(counts)), offsets


def _metadata(
    config: MergeConfig,
    sources: list[EpisodeDataset],
    spec: ActionSpec,
    offsets: list[int | None],
) -> DatasetMetadata:
    every = [source.metadata for source in sources]
    shapes = {meta.frame_shape for meta in every}
    if len(shapes) > 1:
        raise DataError(
            f"the sources have frames of {sorted(shapes)}; bring them to one size first: worldflow "
            "data convert SRC DST data.size=64"
        )
    rates = sorted({meta.fps for meta in every})
    if config.fps is None and len(rates) > 1:
        raise DataError(f"the sources have {rates} frames a second; say which: fps=...")
    parts = [
        {
            "source": without_place(meta.source),
            "first_action": offset,
            "action_spec": meta.action_spec.to_dict(),
        }
        for meta, offset in zip(every, offsets, strict=True)
    ]
    # one game, played several times, is still a game
    one_game = config.actions == "shared" and all(
        m.source == every[0].source and games_of(m.source) for m in every
    )
    lossy = sorted({meta.lossy for meta in every if meta.lossy is not None})
    return DatasetMetadata(
        source=every[0].source if one_game else {"merged": parts},
        action_spec=spec,
        frame_shape=every[0].frame_shape,
        fps=config.fps or rates[0],
        seed=0,
        collect={"merged": len(every), "actions": config.actions, "captions": config.captions},
        has_rewards=all(meta.has_rewards for meta in every),
        has_terminations=all(meta.has_terminations for meta in every),
        lossy=", ".join(lossy) or None,
    )


def _renamed(config: MergeConfig, source: EpisodeDataset, number: int, episode: Episode) -> Episode:
    """With the caption that it shall have, and a recording that no other source has."""
    recording = None if episode.recording is None else f"{number}/{episode.recording}"
    caption = episode.caption
    if config.captions is not None:
        template = config.captions[number]
        if OWN in template and caption is None:
            raise DataError(f"{source.folder}: an episode has no caption for {template!r}")
        caption = template.replace(OWN, caption or "")
    return replace(episode, recording=recording, caption=caption)


def _with_actions(episode: Episode, metadata: DatasetMetadata, offset: int | None) -> Episode:
    """With its actions numbered anew, and without what not all sources have."""
    spec, actions, known = metadata.action_spec, episode.actions, episode.known
    if offset is None:
        actions = np.zeros((len(episode), *spec.shape), spec.dtype)
        known = np.zeros(len(episode), np.bool_)
    elif offset:
        actions = np.where(known, actions + offset, 0)
        actions[0] = 0  # which led to no frame
    rewards = episode.rewards if metadata.has_rewards else np.zeros_like(episode.rewards)
    ends = episode.terminated if metadata.has_terminations else np.zeros_like(episode.terminated)
    return replace(episode, actions=actions, known=known, rewards=rewards, terminated=ends)
