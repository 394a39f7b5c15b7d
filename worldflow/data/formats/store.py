"""Our own store as a format, so that it can be imported anew at another size or rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.formats.base import Format, RawEpisode, RawFrame

CHUNK = 64  # frames read at once


class StoreEpisodes:
    """The episodes of a dataset folder.

    Raises:
        DataError: see `EpisodeDataset`.
    """

    format, alignment = "store", "led_to"

    def __init__(self, path: Path) -> None:
        self._dataset = EpisodeDataset(path)

    @property
    def names(self) -> Sequence[str]:
        """Of the files."""
        return [f"episodes/{path.name}" for path in self._dataset.paths]

    @property
    def action_spec(self) -> ActionSpec:
        """Of the dataset."""
        return self._dataset.action_spec

    @property
    def fps(self) -> float:
        """Of the dataset."""
        return self._dataset.metadata.fps

    @property
    def size(self) -> int | None:
        """Of the dataset's frames, if they are square."""
        height, width, _ = self._dataset.frame_shape
        return height if height == width else None

    @property
    def lossy(self) -> str | None:
        """Of what the dataset was made from."""
        return self._dataset.metadata.lossy

    @property
    def source(self) -> dict[str, Any]:
        """Where the dataset came from."""
        return {**self._dataset.metadata.source, "path": str(self._dataset.folder)}

    def open(self, index: int) -> RawEpisode:
        """The episode, without its frames."""
        dataset, metadata = self._dataset, self._dataset.metadata
        length = int(dataset.lengths[index])

        def read() -> Iterator[RawFrame]:
            for start in range(0, length, CHUNK):
                frames = dataset.read(index, start, start + CHUNK).frames
                for k, pixels in enumerate(frames, start):
                    yield RawFrame(k / self.fps, pixels)

        steps = dataset.steps_of(index)
        return RawEpisode(
            name=self.names[index],
            read=read,
            frames=length,
            actions=steps.actions if self.action_spec.kind != "none" else None,
            rewards=steps.rewards if metadata.has_rewards else None,
            terminated=steps.terminated if metadata.has_terminations else None,
            known=steps.known,
            truncated=steps.truncated,
            recording=dataset.recording_of(index),
            caption=dataset.captions[index],
        )


STORE = Format(
    name="store",
    describes="a dataset of `worldflow collect` or `worldflow data convert`",
    detect=lambda path: (path / "dataset.json").is_file(),
    open=StoreEpisodes,
)
