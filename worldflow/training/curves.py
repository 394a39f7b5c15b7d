"""What a training logged, read back from metrics.jsonl and from TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import (
    IMAGES,
    SCALARS,
    EventAccumulator,
)

from worldflow.errors import DataError

Curve = tuple[np.ndarray, np.ndarray]  # steps (n,), values (n,)


def read_metrics(path: Path) -> dict[str, Curve]:
    """Every figure of a `metrics.jsonl` by its tag, in order of the steps.

    Raises:
        DataError: the file is missing or damaged.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    try:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            points.setdefault(entry["tag"], []).append((int(entry["step"]), float(entry["value"])))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}; run the training again to another folder") from error
    return {
        tag: (np.array([s for s, _ in found]), np.array([v for _, v in found]))
        for tag, found in points.items()
    }


def thinned(curve: Curve, most: int) -> Curve:
    """A curve of at most `most` points: means over neighbours, each at the last of its steps."""
    steps, values = curve
    if len(steps) <= most:
        return curve
    ends = np.linspace(0, len(steps), most + 1).round().astype(int)
    means = np.add.reduceat(values, ends[:-1]) / np.diff(ends)
    return steps[ends[1:] - 1], means


def read_pictures(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The last picture of every tag that was logged below `folder`: tag to step and PNG."""
    pictures: dict[str, tuple[int, bytes]] = {}
    for events in _events(folder):
        for tag in events.Tags()["images"]:
            last = events.Images(tag)[-1]  # the later file counts where a step was logged again
            if tag not in pictures or last.step >= pictures[tag][0]:
                pictures[tag] = (last.step, last.encoded_image_string)
    return pictures


def read_scalars(folder: Path) -> dict[str, Curve]:
    """Every scalar that a run logged below `folder`: tag to steps (n,) and values (n,).

    Where a resumed run logged a step again, the later value counts.

    Raises:
        DataError: there are no event files.
    """
    values: dict[str, dict[int, float]] = {}
    for events in _events(folder):
        for tag in events.Tags()["scalars"]:
            points = values.setdefault(tag, {})
            points.update((event.step, event.value) for event in events.Scalars(tag))
    return {
        tag: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for tag, points in values.items()
    }


def _events(folder: Path) -> Iterator[EventAccumulator]:
    """Each event file below a folder, the oldest first, with all scalars and the last pictures."""
    files = sorted(folder.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise DataError(f"{folder} holds no TensorBoard events; run the training again")
    for path in files:
        yield EventAccumulator(str(path), size_guidance={SCALARS: 0, IMAGES: 1}).Reload()
