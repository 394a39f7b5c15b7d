"""What every format of offline data gives: its episodes as they lie on disk.

A format reads and nothing more. Sizes, frame rates and which action led to which frame are made
alike for all of them in `worldflow.data.importing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.errors import DataError

# Which frame the number t of `actions` belongs to: "led_to": it led to frame t, so the first is
# unused. "taken_at": it was taken at frame t and led to frame t + 1.
ALIGNMENTS = ("led_to", "taken_at")
MAX_SIDE = 8192  # pixels; larger frames are refused, as they are files gone wrong or hostile ones


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
    """

    name: str
    read: Callable[[], Iterator[RawFrame]]
    frames: int | None = None
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    terminated: np.ndarray | None = None
    known: np.ndarray | None = None
    truncated: bool = False


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


def inside(root: Path, path: Path) -> Path:
    """`path`, if it lies in `root` once links are followed.

    Raises:
        DataError: it leads out of the data folder.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{path} leads out of the data folder {root}; copy the file into it, links and '..' "
            "are not followed"
        )
    return path


def check_size(name: str, height: int, width: int) -> None:
    """Raises DataError unless frames of this size can be meant."""
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise DataError(
            f"{name}: frames of {height} x {width} pixels; sides from 1 to {MAX_SIDE} are read"
        )


def as_rgb(name: str, image: np.ndarray) -> np.ndarray:
    """An image array as (H, W, 3) uint8: (H, W), (H, W, 1), (H, W, 3), (H, W, 4) or channels first.

    Grey is repeated, alpha dropped. Channels come first where the first axis is 1, 3 or 4 long and
    the last is not.

    Raises:
        DataError: no such image, or not uint8: what 0..1 or 0..4095 mean is not guessed.
    """
    if image.dtype != np.uint8:
        raise DataError(f"{name}: frames are {image.dtype}, not uint8; convert them first")
    if image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[2] not in (1, 3, 4):
        image = image.transpose(1, 2, 0)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise DataError(f"{name}: a frame of shape {image.shape} is no image")
    check_size(name, image.shape[0], image.shape[1])
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def check_actions(name: str, actions: np.ndarray) -> np.ndarray:
    """Actions (F,) or (F, D) of numbers, booleans as integers.

    Raises:
        DataError: another shape, not numbers, or NaN or infinity.
    """
    actions = np.asarray(actions)
    if actions.dtype == np.bool_:
        actions = actions.astype(np.int64)
    if actions.dtype.kind not in "iuf" or actions.ndim not in (1, 2):
        raise DataError(
            f"{name}: actions of shape {actions.shape} and type {actions.dtype}; they must be "
            "numbers, one or one row for each frame"
        )
    bad = np.flatnonzero(~np.isfinite(actions).reshape(len(actions), -1).all(axis=1))
    if bad.size:
        raise DataError(
            f"{name}: the action of frame {bad[0]} is not a number ({bad.size} such frames); "
            "repair the actions or remove the episode"
        )
    return actions


def infer_action_spec(episodes: Iterable[np.ndarray]) -> ActionSpec:
    """The action spec of recorded actions, each (F,) or (F, D) and checked by `check_actions`.

    Whole numbers of one column are discrete, with as many choices as the largest number asks for.
    All else is a box between the smallest and the largest value of each column; a column that never
    changes gets limits of 1 around its value. No episodes: "none".

    Raises:
        DataError: episodes differ in their number of columns, or discrete actions are negative.
    """
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    whole = True
    for actions in episodes:
        if not len(actions):
            continue
        rows = actions.reshape(len(actions), -1)
        if low is not None and len(low) != rows.shape[1]:
            raise DataError(
                f"actions of {len(low)} and of {rows.shape[1]} columns in one dataset; "
                "put them in datasets of their own"
            )
        whole = whole and rows.dtype.kind in "iu"
        least, most = rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)
        low = least if low is None else np.minimum(low, least)
        high = most if high is None else np.maximum(high, most)
    if low is None or high is None:
        return ActionSpec("none")
    if whole and len(low) == 1:
        if low[0] < 0:
            raise DataError(f"discrete actions start at 0, but {int(low[0])} was found")
        return ActionSpec("discrete", n=int(high[0]) + 1)
    constant = low == high
    low, high = np.where(constant, low - 1.0, low), np.where(constant, high + 1.0, high)
    return ActionSpec("box", low=tuple(low.tolist()), high=tuple(high.tolist()))
