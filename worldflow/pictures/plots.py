"""Charts (lines, bars, points) as SVG text, for reports that need no plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 560, 300  # pixels
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 30, 42  # margins
COLOURS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b"),
    *("#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)

Points = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers between `low` and `high`."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10) if m * power >= raw), default=10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """The logarithms to base 10 of round numbers, between `low` and `high`."""
    if high - low < 1:
        return [math.log10(value) for value in ticks(10.0**low, 10.0**high)]
    decades = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 3 else (1,)
    every = 1 + len(decades) // 8
    marks = [d + math.log10(factor) for d in decades[::every] for factor in factors]
    return [mark for mark in marks if low <= mark <= high]


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Points],
    logarithmic: bool = False,
) -> str:
    """An SVG chart of named lines; points that are not finite are left out.

    Args:
        title: above the chart.
        x_label: below the x axis.
        y_label: beside the y axis.
        series: name to x (n,) and y (n,).
        logarithmic: whether the y axis is; points that are not positive are left out then.
    """
    lines = {name: _finite(x, y) for name, (x, y) in series.items()}
    if logarithmic:
        y_label += " (log scale)"
        for name, line in lines.items():
            positive = line[line[:, 1] > 0]
            lines[name] = np.stack([positive[:, 0], np.log10(positive[:, 1])], axis=1)
    lines = {name: line for name, line in lines.items() if len(line)}
    if not lines:
        return _frame(title, x_label, y_label, ['<text x="60" y="150">no data</text>'])
    points = np.concatenate(list(lines.values()))
    x_range, y_range = (_range(points[:, i]) for i in (0, 1))
    parts, names = _axes(x_range, y_range, logarithmic), []
    for index, (name, line) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{_x(a, x_range):.1f},{_y(b, y_range):.1f}" for a, b in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(line) == 1:  # a line of one point is not seen
            spot = f'cx="{_x(line[0, 0], x_range):.1f}" cy="{_y(line[0, 1], y_range):.1f}"'
            parts.append(f'<circle {spot} r="3" fill="{colour}"/>')
        place = f'x="{WIDTH - RIGHT - 4}" y="{TOP + 14 + 15 * index}"'
        names.append(
            f'<text {place} fill="{colour}" text-anchor="end" paint-order="stroke" stroke="#fff" '
            f'stroke-width="3">{escape(name)}</text>'
        )
    return _frame(title, x_label, y_label, parts + names)  # no line crosses a name


def bar_chart(title: str, y_label: str, bars: Mapping[str, tuple[float, float, float]]) -> str:
    """An SVG chart of bars with intervals: name to (value, low, high)."""
    y_range = _range(np.array([0.0, *np.ravel(list(bars.values()))]))
    parts = _axes(None, y_range)
    slot = (WIDTH - LEFT - RIGHT) / len(bars)
    for index, (name, (value, low, high)) in enumerate(bars.items()):
        centre = LEFT + slot * (index + 0.5)
        top, base = sorted((_y(value, y_range), _y(0.0, y_range)))
        parts.append(
            f'<rect x="{centre - slot / 4:.1f}" y="{top:.1f}" width="{slot / 2:.1f}" '
            f'height="{base - top:.1f}" fill="{COLOURS[index % len(COLOURS)]}" opacity="0.75"/>'
        )
        ends = f'y1="{_y(low, y_range):.1f}" y2="{_y(high, y_range):.1f}"'
        parts.append(f'<line x1="{centre:.1f}" x2="{centre:.1f}" {ends} stroke="#222"/>')
        text = f"{escape(name)}: {value:.3f}"
        place = f'x="{centre:.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text {place} text-anchor="middle">{text}</text>')
    return _frame(title, "", y_label, parts)


def scatter_chart(
    title: str,
    x_label: str,
    y_label: str,
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    diagonal: bool = False,
) -> str:
    """An SVG chart of named groups of points, with intervals where these are not empty.

    Args:
        title: above the chart.
        x_label: below the x axis.
        y_label: beside the y axis.
        points: name to x (n, 3) and y (n, 3), each value, low and high, all finite.
        diagonal: whether to draw y = x.
    """
    groups = [(np.ravel(x), np.ravel(y)) for x, y in points.values()]
    if not sum(len(x) for x, _ in groups):
        return _frame(title, x_label, y_label, ['<text x="60" y="150">no data</text>'])
    x_range, y_range = (_range(np.concatenate([g[i] for g in groups])) for i in (0, 1))
    parts = _axes(x_range, y_range)
    if diagonal:
        low, high = max(x_range[0], y_range[0]), min(x_range[1], y_range[1])
        if low < high:
            ends = f'x1="{_x(low, x_range):.1f}" y1="{_y(low, y_range):.1f}"'
            ends += f' x2="{_x(high, x_range):.1f}" y2="{_y(high, y_range):.1f}"'
            parts.append(f'<line {ends} stroke="#999" stroke-dasharray="4 4"/>')
    for index, (name, (xs, ys)) in enumerate(points.items()):
        colour = COLOURS[index % len(COLOURS)]
        for x, y in zip(xs, ys, strict=True):
            column, line = _x(x[0], x_range), _y(y[0], y_range)
            across = f'x1="{_x(x[1], x_range):.1f}" x2="{_x(x[2], x_range):.1f}"'
            up = f'y1="{_y(y[1], y_range):.1f}" y2="{_y(y[2], y_range):.1f}"'
            parts.append(f'<line {across} y1="{line:.1f}" y2="{line:.1f}" stroke="{colour}"/>')
            parts.append(f'<line x1="{column:.1f}" x2="{column:.1f}" {up} stroke="{colour}"/>')
            parts.append(f'<circle cx="{column:.1f}" cy="{line:.1f}" r="3" fill="{colour}"/>')
        place = f'x="{LEFT + 6}" y="{TOP + 12 + 13 * index}"'
        parts.append(
            f'<text {place} fill="{colour}" paint-order="stroke" stroke="#fff" '
            f'stroke-width="3">{escape(name)}</text>'
        )
    return _frame(title, x_label, y_label, parts)


def _finite(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> np.ndarray:
    points = np.stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)], axis=1)
    return points[np.isfinite(points).all(axis=1)]


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or max(abs(low) * 0.05, 0.5)
    return low - margin, high + margin


def _x(value: float, limits: tuple[float, float]) -> float:
    share = (value - limits[0]) / (limits[1] - limits[0])
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(value: float, limits: tuple[float, float]) -> float:
    share = (value - limits[0]) / (limits[1] - limits[0])
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _axes(
    x_range: tuple[float, float] | None, y_range: tuple[float, float], logarithmic: bool = False
) -> list[str]:
    parts = []
    for value in log_ticks(*y_range) if logarithmic else ticks(*y_range):
        shown = 10.0**value if logarithmic else value
        y = _y(value, y_range)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{shown:g}</text>')
    for value in ticks(*x_range) if x_range else []:
        place = f'x="{_x(value, x_range):.1f}" y="{HEIGHT - BOTTOM + 16}"' if x_range else ""
        parts.append(f'<text {place} text-anchor="middle">{value:g}</text>')
    return parts


def _frame(title: str, x_label: str, y_label: str, parts: list[str]) -> str:
    middle, below = HEIGHT // 2, f'x="{WIDTH // 2}" y="{HEIGHT - 8}" text-anchor="middle"'
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
            'font-family="sans-serif" font-size="11" role="img">',
            f'<text x="{LEFT}" y="18" font-size="13" font-weight="bold">{escape(title)}</text>',
            f"<text {below}>{escape(x_label)}</text>",
            f'<text x="14" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 14 {middle})">{escape(y_label)}</text>',
            *parts,
            "</svg>",
        ]
    )
