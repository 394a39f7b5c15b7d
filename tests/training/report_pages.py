"""What a report says, read back from its HTML."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from xml.etree import ElementTree

import numpy as np

SVG = "{http://www.w3.org/2000/svg}"


def sections(page: str) -> dict[str, str]:
    """Heading to the HTML below it."""
    parts = re.split(r"<h2>(.*?)</h2>", page)
    return {
        unescape(name): unescape(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def tables(html: str) -> list[list[dict[str, str]]]:
    """The rows of each table."""
    found = []
    for table in re.findall(r"<table>(.*?)</table>", html, re.DOTALL):
        header = re.findall(r"<th>(.*?)</th>", table)
        rows = re.findall(r"<tr>(<td>.*?)</tr>", table)
        cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
        found.append([dict(zip(header, row, strict=True)) for row in cells])
    return found


def charts(page: str) -> dict[str, str]:
    """The title of each chart to its SVG."""
    found = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    return {ElementTree.fromstring(svg).findtext(f"{SVG}text", ""): svg for svg in found}


def lines_of(svg: str) -> dict[str, np.ndarray]:
    """The lines of a chart, x and y (n, 2) in the units of its axes, by their names."""
    root = ElementTree.fromstring(svg)
    texts = [(t.attrib, t.text or "") for t in root.iter(f"{SVG}text")]
    # labels of the axes: those of y end left of it, those of x are centred below it
    y_labels = [(float(a["y"]) - 4, t) for a, t in texts if a.get("x") == "50"]
    x_labels = [(float(a["x"]), t) for a, t in texts if a.get("y") == "274" and "x" in a]
    names = {a["fill"]: t for a, t in texts if "fill" in a}
    logarithmic = "(log scale)" in svg
    to_x = _axis([(place, float(t)) for place, t in x_labels])
    to_y = _axis(
        [(place, np.log10(float(t)) if logarithmic else float(t)) for place, t in y_labels]
    )
    lines = {}
    for line in root.iter(f"{SVG}polyline"):
        points = np.array([p.split(",") for p in line.attrib["points"].split()], dtype=float)
        x, y = to_x(points[:, 0]), to_y(points[:, 1])
        lines[names[line.attrib["stroke"]]] = np.stack([x, 10**y if logarithmic else y], axis=1)
    return lines


def _axis(labels: list[tuple[float, float]]) -> Callable[[np.ndarray], np.ndarray]:
    """From pixels to the values that the labels of an axis have."""
    places, values = np.array(labels).T
    slope, start = np.polyfit(places, values, 1)
    return lambda pixels: slope * pixels + start
