"""How dreams drift over a long horizon: the flow, the flow with clean feedback, and diffusion.

    python benchmarks/horizon.py world=takecover data.path=runs/data/takecover steps=481 \
        diffusion=runs/horizon/diffusion out=runs/horizon/481
    python benchmarks/horizon.py world=takecover data.path=runs/data/takecover steps=5000 rows=8 \
        dreamers=[flow,clean] out=runs/horizon/5000

Definitions are in `drift/statistics.py` and docs/results/horizon.md. Each dreamer's measurements
are kept in files of their own in `out`, so that an interrupted run continues with the next one, and
a dreamer can be added later; the report is of all dreamers that are named.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from drift.report import write_report
from drift.run import Measurement, device_name
from drift.settings import Horizon
from drift.statistics import (
    ONE_SIDED,
    STATISTICS,
    STRANGE,
    Frames,
    Gaussian,
    band,
    beyond,
    group_figures,
    over_time,
    real_groups,
)
from timing import note, read_settings

from worldflow.errors import WorldflowError


def summary(
    values: dict[str, list[float]], edges: dict[str, tuple[float, float]]
) -> dict[str, Any]:
    """How far beyond the band the worst second (or group) is, and how many lie outside.

    Args:
        values: `STATISTICS` of each second.
        edges: of the band.

    Returns:
        JSON-able: `beyond`, None for a statistic beyond an edge of 0, of which there is no share;
        `outside`, the share of the seconds; `strange`, the share of all frames.
    """
    worst, outside = {}, {}
    for name in STATISTICS:
        far = beyond(values[name], edges[name], name in ONE_SIDED)
        worst[name] = float(far.max()) if np.isfinite(far).all() else None
        outside[name] = float((far > 0).mean())
    strange = float(np.mean(values[STRANGE]))
    return {"over_time": values, "beyond": worst, "outside": outside, "strange": strange}


def main() -> None:
    """Measure what is not measured yet, and write the report."""
    settings = read_settings(Horizon)
    folder = Path(settings.out)
    folder.mkdir(parents=True, exist_ok=True)
    run = Measurement(settings)
    note(f"{settings.world} on {device_name(run.judge)}")
    real, coded, lengths = run.measure_real(False), run.measure_real(True), run.real_lengths
    half = len(lengths) // 2  # clips of the reference; the others are compared with it
    known = np.arange(real.novelty.shape[1]) < lengths[:, None]
    reference = Gaussian.of(real.features[:half][known[:half]])

    def groups(of: Frames, count: int, seed: int) -> dict[str, list[float]]:
        others = Frames(of.image[half:], of.features[half:], of.novelty[half:])
        index = real_groups(lengths[half:], settings.rows, run.second, count, settings.seed + seed)
        return group_figures(others, index, reference)

    edges = band(groups(real, settings.groups, 8))
    seconds = settings.steps // run.second
    figures: dict[str, Any] = {
        "settings": asdict(settings),
        "second": run.second,
        "real": {"clips": len(lengths), "frames": int(lengths.sum())},
        "band": edges,
        "as_long": {
            "real, once more": summary(groups(real, seconds, 9), edges),
            "real, through the codec": summary(groups(coded, seconds, 9), edges),
        },
        "bounds": run.bounds(),
        "dreamers": {},
    }
    pictures = {}
    for name in settings.dreamers:
        dream, pictures[name], found = run.measure_dreamer(name)
        found |= summary(over_time(dream, run.second, reference), edges)
        figures["dreamers"][name] = found
    print(write_report(folder, figures, pictures, run.shown))


if __name__ == "__main__":
    try:
        main()
    except WorldflowError as error:
        sys.exit(f"horizon: {error}")
