"""The spaces in a Minari dataset's metadata: where its images lie, and what its actions are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.data.formats.recorded_actions import box_spec

IMAGE_NAMES = ("image", "pixels", "rgb")  # taken first where there are several images
MIN_SIDE = 32  # as in Minari: smaller arrays are symbols, such as the 7 x 7 grid of MiniGrid


def images_of(space: Any) -> dict[str, tuple[int, ...]]:
    """Where the images of an observation space lie in an episode, and their shapes; best first."""

    def preference(image: tuple[str, tuple[int, ...]]) -> tuple[int, str]:
        last = image[0].rsplit("/", 1)[-1]
        return (IMAGE_NAMES.index(last) if last in IMAGE_NAMES else len(IMAGE_NAMES), image[0])

    return dict(sorted(_images(space, "observations"), key=preference))


def sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W) of an image of this shape, (0, 0) if it is none."""
    if len(shape) == 2 or shape[2] in (1, 3):
        return shape[:2]
    return shape[1:] if shape[0] in (1, 3) else (0, 0)


def parse_actions(space: Any) -> tuple[str, int, ActionSpec | None]:
    """Kind, the first of discrete actions, and the spec; None if the data must tell the limits."""
    kind = space["type"]
    if kind == "Discrete":
        return kind, int(space["start"]), ActionSpec("discrete", n=int(space["n"]))
    if kind == "Box":
        limits = np.array([space["low"], space["high"]], dtype=float).reshape(2, -1)
        if np.isfinite(limits).all():
            return kind, 0, box_spec(*limits)
    return kind, 0, None


def _images(space: Any, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    parts = space.get("subspaces", {})
    if isinstance(parts, list):  # of a Tuple
        parts = {f"_index_{i}": part for i, part in enumerate(parts)}
    for key, part in parts.items():
        yield from _images(part, f"{name}/{key}")
    shape = tuple(space.get("shape", ()))
    box = space["type"] == "Box" and space["dtype"] == "uint8"
    if box and len(shape) in (2, 3) and min(sides(shape)) >= MIN_SIDE:
        yield name, shape
