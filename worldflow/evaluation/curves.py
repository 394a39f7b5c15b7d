"""Training curves, read back from TensorBoard's event files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from worldflow.errors import DataError


def read_scalars(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every scalar that a run logged below `folder`: tag to steps (n,) and values (n,).

    Where a resumed run logged a step again, the later value counts.

    Raises:
        DataError: there are no event files.
    """
    files = sorted(folder.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise DataError(f"{folder} holds no TensorBoard events; run the training again")
    values: dict[str, dict[int, float]] = {}
    for path in files:
        events = EventAccumulator(str(path), size_guidance={SCALARS: 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            points = values.setdefault(tag, {})
            points.update((event.step, event.value) for event in events.Scalars(tag))
    return {
        tag: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for tag, points in values.items()
    }
