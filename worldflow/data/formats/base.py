"""What every format of offline data gives: its episodes as they lie on disk.

A format reads and nothing more. Sizes, frame rates and which action led to which frame are made
alike for all of them in `worldflow.data.importing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.errors import DataError

# Which frame the number t of `actions` belongs to: "led_to": it led to frame t, so the first is
# unused. "taken_at": it was taken at frame t and led to frame t + 1.
ALIGNMENTS = ("led_to", "taken_at")

T = TypeVar("T")


class RawFrame(NamedTuple):
    """A frame as it was recorded: when, in seconds from the episode's start, and its RGB pixels.

    `pixels` is (H, W, 3) uint8.
    """

    seconds: float
    pixels: np.ndarray


@dataclass(frozen=True)
class RawEpisode:
    """One episode as it lies on disk.

    Attributes:
        name: names it in messages: the file's path within the data folder, and the key in it.
        read: gives the frames in order, decoding as it goes, so that memory stays flat; raises
            DataError, which names the file, where they are damaged. May be called again.
        frames: F, where it is known without decoding.
        actions: (F, ...) or (F - 1, ...), whose meaning is the format's alignment; F - 1 actions
            lie between the frames and need `frames` or "taken_at". None: not recorded.
        rewards: (F,) or (F - 1,), aligned as actions are; None: not recorded.
        terminated: as rewards, bool.
        known: as actions, bool: whether each is recorded; None: all are.
        truncated: whether the last frame is where a time limit cut the episode.
        recording: name of the longer recording that this is a part of; None: of none.
        caption: what it shows, in words; None: nobody said.
    """

    name: str
    read: Callable[[], Iterator[RawFrame]]
    frames: int | None = None
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    terminated: np.ndarray | None = None
    known: np.ndarray | None = None
    truncated: bool = False
    recording: str | None = None
    caption: str | None = None


class RawDataset(Protocol):
    """An opened set of episodes. Opening it reads what says what is there, and no frames."""

    @property
    def format(self) -> str:
        """Name of the format in the registry."""

    @property
    def names(self) -> Sequence[str]:
        """Of the episodes, in a stable order, those that cannot be read included."""

    @property
    def action_spec(self) -> ActionSpec:
        """Kind and limits of the actions; "none" if no episode has any."""

    @property
    def alignment(self) -> str:
        """The format's own, one of `ALIGNMENTS`."""

    @property
    def fps(self) -> float:
        """Frames per second of the first readable episode."""

    @property
    def lossy(self) -> str | None:
        """What lossy compression the frames went through ("h264 video"), None if none."""

    @property
    def source(self) -> dict[str, Any]:
        """What is known of where the data come from, JSON-able; at least "path"."""

    def open(self, index: int) -> RawEpisode:
        """The episode `names[index]`.

        Raises:
            DataError: it is damaged; the message names the file, what is wrong, and the remedy.
        """


@dataclass(frozen=True)
class Format:
    """A format of the registry.

    Attributes:
        name: how the user calls it.
        describes: one line on what lies on disk.
        detect: whether a path holds it; looks at names and at small files only.
        open: opens it; raises DataError if the set as a whole cannot be read.
        extra: the optional dependency it needs, as in `pip install worldflow[extra]`.
    """

    name: str
    describes: str
    detect: Callable[[Path], bool]
    open: Callable[[Path], RawDataset] = field(repr=False)
    extra: str | None = None


def readable(names: Sequence[str], read: Callable[[int], T]) -> Iterator[tuple[str, T]]:
    """What `read` gives of each episode that can be read, with its name.

    The others are left out here: opening them says what is wrong.
    """
    for index, name in enumerate(names):
        try:
            value = read(index)
        except DataError:
            continue
        yield name, value
