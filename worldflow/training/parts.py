"""The parts of a world that the second stage can train alone."""

from __future__ import annotations

from dataclasses import dataclass

from worldflow.training.initial import HEADS, OUTCOMES


@dataclass(frozen=True)
class Part:
    """A value of `training.flow.part`.

    Attributes:
        about: what it is.
        learns: beginnings of the names of weights that it may find untrained, as it trains them.
    """

    about: str
    learns: tuple[str, ...]


PARTS = {
    "all": Part("flow, denoiser and heads", ("",)),
    "within": Part("the maps within a frame", (OUTCOMES,)),
    "denoiser": Part("the denoiser and the heads", HEADS),
    "heads": Part("the heads", HEADS),
    "end": Part("the head of the end", ("termination_head.",)),
}
