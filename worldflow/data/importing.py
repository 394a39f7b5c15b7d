"""Recorded episodes of any format, as a dataset of our own: the same size, rate and alignment.

Frames are decoded once, in order, and written losslessly; training then reads any of them at once.
The import goes episode by episode and, killed, continues where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from worldflow.data.cutting import Cut, cut_episodes
from worldflow.data.episodes import EpisodeWriter
from worldflow.data.formats.base import ALIGNMENTS, RawDataset
from worldflow.data.formats.store import StoreEpisodes
from worldflow.data.journal import Imported, Journal
from worldflow.data.metadata import DatasetMetadata, without_place
from worldflow.data.resize import FITS
from worldflow.data.steps import Steps, check_aggregate
from worldflow.data.writing import Writer
from worldflow.errors import ConfigError, DataError

DEFAULT_SIZE = 64


@dataclass
class ImportConfig:
    """How recorded episodes become a dataset.

    Attributes:
        format: of `worldflow.data.formats`; "auto" tells by what lies on disk.
        size: height and width of the frames; null: 64, or for our own store what it has.
        fit: how other proportions become square, see `worldflow.data.resize.fit_frame`.
        fps: frames a second; at each instant the frame on screen is taken, which also makes a
            variable rate constant. Null: every recorded frame.
        frame_skip: every so many-th of these frames is kept.
        aggregate: how the actions between two kept frames become one: "mode" (most frequent),
            "last" or "mean"; null: the mean of a box, the mode of discrete actions.
        alignment: "led_to" or "taken_at", see `worldflow.data.formats.base`; null: the format's.
        segment: longest episode in frames; longer ones are cut, each part beginning with the last
            frame of the one before. Part of an episode is what memory must hold.
        on_error: "raise" stops at the first episode that cannot be read, "skip" leaves it out; both
            name it.
    """

    format: str = "auto"
    size: int | None = None
    fit: str = "crop"
    fps: float | None = None
    frame_skip: int = 1
    aggregate: str | None = None
    alignment: str | None = None
    segment: int = 2000
    on_error: str = "raise"

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ConfigError(f"data.fit is {self.fit!r}; use one of {', '.join(FITS)}")
        if self.alignment not in (None, *ALIGNMENTS):
            raise ConfigError(
                f"data.alignment is {self.alignment!r}; use one of {', '.join(ALIGNMENTS)} or null"
            )
        if self.on_error not in ("raise", "skip"):
            raise ConfigError(f"data.on_error is {self.on_error!r}; use 'raise' or 'skip'")
        if (self.size is not None and self.size < 8) or self.frame_skip < 1 or self.segment < 2:
            raise ConfigError(
                f"data.size={self.size} must be 8 or more, data.frame_skip={self.frame_skip} "
                f"positive, data.segment={self.segment} 2 or more"
            )
        if self.fps is not None and not 0 < self.fps < 1000:
            raise ConfigError(f"data.fps is {self.fps}; give frames a second, or null for all")


def import_dataset(
    raw: RawDataset,
    folder: Path,
    config: ImportConfig,
    make_writer: Callable[[Path, DatasetMetadata], Writer] = EpisodeWriter,
    progress: bool = True,
) -> list[Imported]:
    """Write the episodes of `raw` to `folder`; an import that was killed continues.

    Args:
        raw: what is imported.
        folder: where to.
        config: how.
        make_writer: of the format that is written; our own store by default.
        progress: whether to show a bar.

    Returns:
        what became of each recorded episode, in the order of `raw.names`.

    Raises:
        DataError: nothing can be read; an episode cannot and `on_error` is "raise"; or the folder
            holds another import.
        ConfigError: more frames a second than were recorded, or a rule that does not fit.
    """
    aggregate = check_aggregate(config.aggregate, raw.action_spec)
    if config.fps is not None and config.fps > 1.01 * raw.fps:
        raise ConfigError(f"data.fps={config.fps}, but only {raw.fps:g} a second were recorded")
    own = raw.size if isinstance(raw, StoreEpisodes) else None
    size = config.size or own or DEFAULT_SIZE
    alignment = config.alignment or raw.alignment
    resolved = {"format": raw.format, "size": size, "aggregate": aggregate, "alignment": alignment}
    collect = {**asdict(config), **resolved}
    # what shall become of damaged recordings may be decided anew when one was met
    decisive = {name: value for name, value in collect.items() if name != "on_error"}
    files = _files(Path(raw.source["path"]))
    about = {"source": without_place(raw.source), "files": files, **decisive}
    journal = Journal(folder, raw.names, about)
    if journal.finished:
        return journal.done
    found = _probe(raw, config)
    metadata = DatasetMetadata(
        source=raw.source,
        action_spec=raw.action_spec,
        frame_shape=(size, size, 3),
        fps=(config.fps or raw.fps) / config.frame_skip,
        seed=0,
        collect=decisive,
        has_rewards=found.rewards,
        has_terminations=found.terminations,
        lossy=raw.lossy,
    )
    journal.begin()
    writer = make_writer(folder, metadata)
    for index in tqdm(journal.remaining(), desc="import", unit="recording", disable=not progress):
        journal.add(_import_one(raw, index, writer, journal.next_episode, config, aggregate))
    if not journal.next_episode:
        raise DataError(f"{raw.source['path']}: no episode can be read; see {journal.path}")
    journal.finish()
    return journal.done


def _import_one(
    raw: RawDataset,
    index: int,
    writer: Writer,
    first: int,
    config: ImportConfig,
    aggregate: str,
) -> Imported:
    """One recording, whole or not at all."""
    metadata = writer.metadata
    size = metadata.frame_shape[0]
    cut = Cut(size, config.fit, config.fps, config.frame_skip, config.segment)
    count = frames = 0
    try:
        recorded = raw.open(index)
        if not metadata.has_rewards:
            recorded = replace(recorded, rewards=None)
        if not metadata.has_terminations:
            recorded = replace(recorded, terminated=None)
        steps = Steps(recorded, raw.action_spec, config.alignment or raw.alignment, aggregate)
        for episode in cut_episodes(recorded, steps, cut):
            writer.add(first + count, episode)
            count, frames = count + 1, frames + len(episode)
    except DataError as error:
        if config.on_error == "raise":
            raise _refused(error) from error
        for k in range(count):
            writer.remove(first + k)
        return Imported(raw.names[index], 0, 0, str(error))
    return Imported(raw.names[index], count, frames, None)


def summary(done: list[Imported]) -> str:
    """What was imported and, by name, what was not."""
    failed = [entry for entry in done if entry.error is not None]
    text = (
        f"imported {sum(e.frames for e in done)} frames in {sum(e.episodes for e in done)} "
        f"episodes from {len(done) - len(failed)} of {len(done)} recordings"
    )
    return "\n".join([text, *(f"  left out: {entry.error}" for entry in failed)])


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each file that is imported, so that changed ones are noticed."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
    found = ((file, file.stat()) for file in files if file.is_file())
    return [(str(file.relative_to(path)), s.st_size, s.st_mtime_ns) for file, s in found]


class _Found(NamedTuple):
    rewards: bool
    terminations: bool


def _probe(raw: RawDataset, config: ImportConfig) -> _Found:
    """Look at everything but the frames before hours are spent on decoding."""
    readable = rewards = terminations = 0
    first_error = None
    for index in range(len(raw.names)):
        try:
            recorded = raw.open(index)
        except DataError as error:
            if config.on_error == "raise":
                raise _refused(error) from error
            first_error = first_error or error
            continue
        readable += 1
        rewards += recorded.rewards is not None
        terminations += recorded.terminated is not None
    if not readable:
        reason = f"no recording can be read; the first: {first_error}" if raw.names else "is empty"
        raise DataError(f"{raw.source['path']}: {reason}")
    for name, count in (("rewards", rewards), ("terminations", terminations)):
        if 0 < count < readable:
            print(f"{name} are left out: only {count} of {readable} recordings have them")
    return _Found(rewards == readable, terminations == readable)


def _refused(error: DataError) -> DataError:
    return DataError(f"{error} (or leave such recordings out: data.on_error=skip)")
