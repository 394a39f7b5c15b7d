"""`worldflow data inspect SRC`: what lies in a folder, before hours are spent on it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from omegaconf import MISSING
from tqdm import tqdm

from worldflow.actions import ActionSpec
from worldflow.data.formats.base import RawDataset, RawEpisode
from worldflow.data.formats.registry import open_recordings
from worldflow.data.resize import fit_frame
from worldflow.data.steps import Steps
from worldflow.errors import ConfigError, DataError

THUMBNAIL = 96
COLUMNS = 8


@dataclass
class InspectConfig:
    """Settings of `worldflow data inspect`.

    Attributes:
        src: file or folder of recordings.
        format: see `worldflow.data.importing.ImportConfig`.
        out: picture to write, a row of frames for each of the first recordings.
        rows: how many recordings the picture shows.
        limit: how many recordings are decoded, the first ones; null: all.
    """

    src: str = MISSING
    format: str = "auto"
    out: str = "contact_sheet.png"
    rows: int = 16
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.rows < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError(f"rows={self.rows} and limit={self.limit} must be positive")


@dataclass
class Inspection:
    """What was found.

    Attributes:
        frames: of all decoded recordings.
        sizes: how many recordings are of which (height, width).
        rates: how many are of which frames a second, rounded to a tenth.
        steps: how many hold actions, rewards, terminations.
        terminations: how many frames terminate.
        damaged: what is wrong with those that cannot be read.
        duplicates: names of recordings whose frames are those of an earlier one: (name, earlier).
        coverage: of the actions, see `Coverage`.
        sheet: rows of thumbnails, each (COLUMNS, THUMBNAIL, THUMBNAIL, 3) uint8.
    """

    frames: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    rates: Counter[float] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    terminations: int = 0
    damaged: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    coverage: list[str] = field(default_factory=list)
    sheet: list[np.ndarray] = field(default_factory=list)


def main(config: InspectConfig) -> Inspection:
    """Print what lies at `src` and write its contact sheet.

    Raises:
        DataError: nothing there can be read at all.
    """
    raw = open_recordings(Path(config.src), config.format)
    found = inspect(raw, config.limit, config.rows)
    print(describe(raw, found, config.limit))
    if found.sheet:
        sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in found.sheet])
        out = Path(config.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out), sheet[..., ::-1])
        print(f"contact sheet: {out}")
    return found


def inspect(raw: RawDataset, limit: int | None = None, rows: int = 16) -> Inspection:
    """Decode recordings one frame after another and look at everything."""
    found, coverage = Inspection(), Coverage(raw.action_spec)
    seen: dict[str, str] = {}  # digest of all frames: name
    for index in tqdm(range(len(raw.names))[:limit], desc="inspect", unit="recording"):
        name = raw.names[index]
        try:
            recording = raw.open(index)
            look = _look_at(recording)
            steps = Steps(recording, raw.action_spec, raw.alignment, "last")
            steps.after(look.frames - 1, look.frames)  # raises where their numbers do not fit
        except DataError as error:
            found.damaged.append(str(error))
            continue
        found.frames += look.frames
        found.sizes[look.size] += 1
        found.rates[round(look.fps or raw.fps, 1)] += 1
        for key in ("actions", "rewards", "terminated"):
            found.steps[key] += getattr(recording, key) is not None
        if recording.terminated is not None:
            found.terminations += int(np.sum(recording.terminated))
        actions = steps.recorded()
        if actions is not None:
            coverage.add(actions)
        earlier = seen.setdefault(look.digest, name)
        if earlier != name:
            found.duplicates.append((name, earlier))
        if len(found.sheet) < rows:
            found.sheet.append(_row(look.thumbnails))
    found.coverage = coverage.lines()
    return found


class Coverage:
    """Which actions there are: how often each choice, or how each dimension of a box is filled.

    Args:
        spec: of the actions.
    """

    def __init__(self, spec: ActionSpec) -> None:
        self._spec, self._count = spec, 0
        self._counts = np.zeros(spec.n, np.int64)
        shape = len(spec.low)
        self._least, self._most = np.full(shape, np.inf), np.full(shape, -np.inf)
        self._sums = np.zeros((2, shape))  # from the middle of the range, and its squares
        self._tenths = np.zeros((10, shape), np.bool_)

    def add(self, actions: np.ndarray) -> None:
        """Count the actions (F, ...) of a recording."""
        spec = self._spec
        if spec.kind == "none" or not len(actions):
            return
        self._count += len(actions)
        if spec.kind == "discrete":
            self._counts += np.bincount(actions.reshape(-1).astype(np.int64), minlength=spec.n)
            return
        rows = actions.reshape(len(actions), -1).astype(np.float64)
        low, high = np.array(spec.low), np.array(spec.high)
        self._least = np.minimum(self._least, rows.min(axis=0))
        self._most = np.maximum(self._most, rows.max(axis=0))
        centred = rows - (low + high) / 2
        self._sums += centred.sum(axis=0), np.square(centred).sum(axis=0)
        places = np.clip((rows - low) / (high - low) * 10, 0, 9).astype(int)
        self._tenths[places, np.arange(rows.shape[1])] = True

    def lines(self) -> list[str]:
        """A line for each choice of a discrete action, or for each dimension of a box."""
        spec = self._spec
        if not self._count:
            return []
        if spec.kind == "discrete":
            shares = enumerate(zip(self._counts, 100.0 * self._counts / self._count, strict=True))
            return [f"action {k}: {count} ({share:.1f}%)" for k, (count, share) in shares]
        mean, square = self._sums / self._count
        deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        mean += (np.array(spec.low) + np.array(spec.high)) / 2
        return [
            f"dimension {k}: {self._least[k]:.3g} to {self._most[k]:.3g}, mean {mean[k]:.3g}, "
            f"deviation {deviation[k]:.3g}, {self._tenths[:, k].sum()} of 10 parts of its range "
            "used"
            for k in range(len(spec.low))
        ]


def describe(raw: RawDataset, found: Inspection, limit: int | None) -> str:
    """The report as text."""
    total = len(raw.names)
    looked = total if limit is None else min(limit, total)
    good = looked - len(found.damaged)
    alike = ", ".join
    spec = raw.action_spec
    lines = [
        f"format       {raw.format}{f', frames were {raw.lossy}' if raw.lossy else ', lossless'}",
        f"recordings   {total}, {looked} looked at, {good} readable",
        f"frames       {found.frames}",
        f"resolutions  {alike(f'{h} x {w} ({n})' for (h, w), n in found.sizes.most_common())}",
        f"frame rates  {alike(f'{rate:g} ({n})' for rate, n in found.rates.most_common())}",
        f"actions      {_actions(spec)}, in {found.steps['actions']} recordings, {raw.alignment}",
        *(f"             {line}" for line in found.coverage),
        f"rewards      in {found.steps['rewards']} recordings",
        f"terminations in {found.steps['terminated']} recordings, {found.terminations} in all",
        f"duplicates   {len(found.duplicates)}",
        *(f"             {name} = {earlier}" for name, earlier in found.duplicates),
        f"damaged      {len(found.damaged)}",
        *(f"             {reason}" for reason in found.damaged),
    ]
    return "\n".join(lines)


def _actions(spec: ActionSpec) -> str:
    if spec.kind == "box":
        return f"box of {len(spec.low)} dimensions"
    return f"{spec.n} choices" if spec.kind == "discrete" else "none"


class _Look(NamedTuple):
    """All frames of a recording, seen once; `fps` is None for a single frame."""

    frames: int
    size: tuple[int, int]
    fps: float | None
    digest: str
    thumbnails: list[np.ndarray]


def _look_at(recording: RawEpisode) -> _Look:
    digest, thumbnails = hashlib.sha256(), []
    count, every, seconds = 0, 1, 0.0
    size = (0, 0)
    for frame in recording.read():
        digest.update(frame.pixels.tobytes())
        if count % every == 0:
            thumbnails.append(fit_frame(frame.pixels, THUMBNAIL, "pad"))
        if len(thumbnails) == 4 * COLUMNS:  # how many frames will come is not known
            thumbnails, every = thumbnails[::2], 2 * every
        size, seconds, count = frame.pixels.shape[:2], frame.seconds, count + 1
    if not count:
        raise DataError(f"{recording.name}: holds no frames; remove it")
    fps = (count - 1) / seconds if seconds else None
    return _Look(count, size, fps, digest.hexdigest(), thumbnails)


def _row(thumbnails: list[np.ndarray]) -> np.ndarray:
    """`COLUMNS` of them, evenly spread; black where there are fewer."""
    picks = np.unique(np.linspace(0, len(thumbnails) - 1, COLUMNS).round().astype(int))
    row = np.zeros((COLUMNS, THUMBNAIL, THUMBNAIL, 3), np.uint8)
    row[: len(picks)] = [thumbnails[k] for k in picks]
    return row
