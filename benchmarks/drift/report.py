"""What the drift report writes: figures, charts, a strip, a table in Markdown and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drift.statistics import FRECHET, STATISTICS, STRANGE
from worldflow.data.metadata import write_atomically
from worldflow.pictures.plots import line_chart
from worldflow.pictures.report import Report
from worldflow.pictures.strips import png, strip

FIGURES, TABLE, PAGE, STRIP = "horizon.json", "horizon.md", "report.html", "strip.png"
UNITS = {FRECHET: "squared latent units", STRANGE: "share of frames"}
FILES = {FRECHET: "frechet", STRANGE: "strange"}  # names of charts that are not those of statistics


def write_report(
    folder: Path, figures: dict[str, Any], pictures: Mapping[str, np.ndarray], shown: np.ndarray
) -> str:
    """Write all to a folder; `horizon.json` comes last.

    Args:
        folder: that exists.
        figures: see `horizon.py`.
        pictures: of each dreamer, (P, H, W, 3) uint8.
        shown: the steps at which they are, (P,).

    Returns:
        the table.
    """
    charts = {name: drift_chart(figures, name) for name in STATISTICS}
    for name, chart in charts.items():
        write_atomically(folder / f"{FILES.get(name, name)}.svg", chart.encode())
    some = next(iter(pictures.values()))
    image = png(strip(pictures, shown, max(1, 64 // some.shape[2])))
    write_atomically(folder / STRIP, image)
    drifted, accuracy = drift_rows(figures), accuracy_rows(figures)
    table = "\n\n".join(markdown(rows) for rows in (drifted, accuracy)) + "\n"
    write_atomically(folder / TABLE, table.encode())
    page = Report("Dreams over a long horizon")
    page.text(protocol(figures))
    page.table(drifted)
    page.svg(*charts.values())
    page.picture(image, "one dream of each, from the same frames under the same actions")
    page.table(accuracy)
    write_atomically(folder / PAGE, page.html().encode())
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / FIGURES, text.encode())
    return table


def protocol(figures: Mapping[str, Any]) -> str:
    """What was done, in words."""
    settings = figures["settings"]
    return (
        f"{settings['rows']} dreams of {settings['steps']} steps from held-out real frames, under "
        f"actions of the policy {settings['policy']!r}; ends are ignored. Each figure of a second "
        f"is of all rows and {figures['second']} steps. Real: the band in which 95% of groups of "
        f"as many held-out real frames lie (of the Fréchet distance and strange frames: below its "
        f"upper edge), of {settings['groups']} groups. Beyond the band: the largest distance of a "
        "second from it, as a share of its nearer edge. Real, once more: as many groups of real "
        "frames as a dream has seconds, drawn anew; and the same frames through the flow's codec, "
        "whose blur is no drift."
    )


def drift_chart(figures: Mapping[str, Any], name: str) -> str:
    """A statistic of each dreamer over the seconds, with the edges of the real band."""
    series = {}
    for dreamer, found in figures["dreamers"].items():
        values = found["over_time"][name]
        series[dreamer] = (np.arange(1, len(values) + 1), np.array(values))
    longest = max(len(x) for x, _ in series.values())
    low, high = figures["band"][name]
    for edge, value in (("real, low", low), ("real, high", high)):
        series[edge] = (np.array([1.0, float(max(longest, 2))]), np.array([value, value]))
    return line_chart(name, "second of the dream", UNITS.get(name, "grey levels"), series)


def drift_rows(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for the band, for real video as long as a dream, and for each dreamer."""
    low_high = {name: "{:.3g} to {:.3g}".format(*figures["band"][name]) for name in STATISTICS}
    rows = [{"": "real, band"} | low_high]
    for dreamer, found in {**figures["as_long"], **figures["dreamers"]}.items():
        cells = {}
        for name in STATISTICS:
            values, worst = found["over_time"][name], found["beyond"][name]
            far = "outside it" if worst is None else f"beyond the band {worst:.0%}"
            ends = f"{values[0]:.3g} → {values[-1]:.3g}"
            shown = ends if dreamer in figures["dreamers"] else f"{np.mean(values):.3g}"
            cells[name] = f"{shown}, {far}"
        cells[STRANGE] = f"{found['strange']:.2%} of all"
        rows.append({"": dreamer} | cells)
    return rows


def accuracy_rows(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row of speed, PSNR and agreement for each dreamer, and of PSNR for what bounds them."""
    sizes = [str(rows) for rows in figures["settings"]["speed_rows"]]
    rows = []
    for name, found in {**figures["dreamers"], **figures["bounds"]}.items():
        times = found.get("step_ms", {})
        row = {"": f"{name}, {found['precision']}" if "precision" in found else name}
        row |= {f"ms a step, {n} rows": f"{times[n]:.1f}" if n in times else "" for n in sizes}
        row |= {f"PSNR at {step}, dB": _interval(e, 1) for step, e in found["psnr"].items()}
        row["agreement of actions"] = _interval(found.get("agreement"), 2)
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, str]]) -> str:
    """A table; the first row's keys are the header."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _interval(estimate: Mapping[str, float] | None, digits: int) -> str:
    if estimate is None:
        return ""
    mean, low, high = (f"{estimate[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
