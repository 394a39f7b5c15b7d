"""What an action is: discrete, continuous (a box) or none at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from worldflow.errors import DataError

KINDS = ("discrete", "box", "none")


@dataclass(frozen=True)
class ActionSpec:
    """The kind and the limits of the actions of a world.

    Args:
        kind: "discrete" (`n` choices), "box" (a vector within `low` and `high`) or "none".
        n: number of choices of a discrete action.
        low: lower limits of a box, one per dimension.
        high: upper limits of a box, one per dimension.

    Raises:
        DataError: the fields do not fit the kind.
    """

    kind: str
    n: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"action kind {self.kind!r} is unknown; use one of {', '.join(KINDS)}")
        if self.kind == "discrete" and self.n < 1:
            raise DataError(f"a discrete action needs n >= 1, got n={self.n}")
        if self.kind == "box":
            if not self.low or len(self.low) != len(self.high):
                raise DataError("a box action needs `low` and `high` of the same, non-zero length")
            finite = np.isfinite(self.low).all() and np.isfinite(self.high).all()
            if not finite or not np.less(self.low, self.high).all():
                raise DataError("a box action needs finite limits with low < high")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: () or (dimensions,)."""
        return (len(self.low),) if self.kind == "box" else ()

    @property
    def has_alternatives(self) -> bool:
        """Whether there is more than one action."""
        return self.kind == "box" or self.n > 1

    @property
    def dtype(self) -> type[np.int64] | type[np.float32]:
        """Dtype in which actions are stored and given."""
        return np.float32 if self.kind == "box" else np.int64

    def validate(self, actions: np.ndarray) -> np.ndarray:
        """Actions of any leading shape, checked against the limits and cast to `dtype`.

        Raises:
            DataError: wrong trailing shape, not a number, or outside the limits.
        """
        actions = np.asarray(actions)
        tail = actions.shape[actions.ndim - len(self.shape) :]
        if tail != self.shape:
            raise DataError(f"actions of shape {actions.shape} do not end in {self.shape}")
        if self.kind == "box":
            if not np.isfinite(actions).all():
                raise DataError("actions contain NaN or infinity")
            inside = (actions >= np.subtract(self.low, 1e-4)) & (actions <= np.add(self.high, 1e-4))
            if not inside.all():
                raise DataError(f"actions lie outside the box {self.low} .. {self.high}")
        elif not np.equal(actions, actions.astype(np.int64)).all():
            raise DataError(f"{self.kind} actions must be whole numbers")
        elif self.kind == "discrete" and not ((actions >= 0) & (actions < self.n)).all():
            raise DataError(f"discrete actions must lie in 0..{self.n - 1}")
        return actions.astype(self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ActionSpec:
        """The spec that `to_dict` wrote.

        Raises:
            DataError: a field is missing or unknown.
        """
        unknown = set(values) - {"kind", "n", "low", "high"}
        if unknown or "kind" not in values:
            raise DataError(f"action spec {dict(values)} needs `kind` and only n, low, high")
        return cls(
            kind=str(values["kind"]),
            n=int(values.get("n", 0)),
            low=tuple(float(v) for v in values.get("low", ())),
            high=tuple(float(v) for v in values.get("high", ())),
        )
