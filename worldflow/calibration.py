"""What held-out data say of a world's likelihoods, as its folder keeps it (`calibration.json`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from worldflow.errors import DataError, WorldFormatError
from worldflow.novelty import DREAMED, SEEN, TAILS, WINDOWS, Measure, Table

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
KINDS = {"seen": SEEN, "dreamed": DREAMED}
LEAST_FITTED = 2  # frames of which there is a spread
LEAST = 100  # frames of which a table is made; one for single frames is always made
REMEDY = "run `worldflow calibrate world=FOLDER data=DATA` with the data it learned from"


@dataclass(frozen=True)
class Calibration:
    """How the likelihoods of held-out real frames are distributed, given their past.

    Attributes:
        mean: of the log-likelihood of a frame, nats.
        std: of the same.
        quantiles: of the same, at `QUANTILES`; for readers of the file.
        frames: number of held-out frames measured.
        seen: novelty of frames that were seen, from `SEEN`; None of a world without calibration.
        dreamed: novelty of dreamed frames, from `DREAMED`; None likewise.
        where: the file, for errors.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...]
    frames: int
    seen: Measure | None = None
    dreamed: Measure | None = None
    where: str = field(default="this world", compare=False)

    @classmethod
    def fit(
        cls, log_prob: Tensor, seen: Sequence[Tensor], dreamed: Sequence[Tensor]
    ) -> Calibration:
        """From held-out frames.

        Args:
            log_prob: of each, any shape.
            seen: token statistics (T, N, J) of each run of T frames, see `worldflow.scoring`.
            dreamed: the same, (T, N, 1).

        Raises:
            DataError: too few frames, or their likelihoods have no finite spread.
        """
        values = log_prob.flatten().double()
        if len(values) < LEAST_FITTED:
            raise DataError(
                f"{len(values)} held-out frames with enough past are too few to calibrate on, "
                f"{LEAST_FITTED} are needed; hold out longer episodes or lower world.context"
            )
        if not (bool(values.isfinite().all()) and bool((values != values[0]).any())):
            raise DataError(
                f"the log-likelihoods of {len(values)} held-out frames are all alike or not "
                "finite, so nothing can be calibrated on them; train the world anew"
            )
        levels = torch.tensor(QUANTILES, dtype=torch.float64)
        return cls(
            mean=float(values.mean()),
            std=float(values.std()),
            quantiles=tuple(torch.quantile(values, levels).tolist()),
            frames=len(values),
            seen=_measure(seen, one_sided=False),
            dreamed=_measure(dreamed, one_sided=True),
        )

    @property
    def tokens(self) -> int | None:
        """N of the world that was measured; None without a calibration."""
        return None if self.seen is None else len(self.seen.tokens.mean)

    def novelty(self, kind: str, statistics: Tensor) -> Tensor:
        """Novelty (...) of single frames; NaN where the world is not calibrated.

        Args:
            kind: "seen" or "dreamed".
            statistics: (..., J).
        """
        measure: Measure | None = getattr(self, kind)
        if measure is None:
            return statistics.new_full(statistics.shape[:-1], math.nan)
        return measure.novelty(statistics)

    def require(self, kind: str) -> Measure:
        """The measure of "seen" or "dreamed" frames.

        Raises:
            WorldFormatError: there is none, as the world is not calibrated.
        """
        measure = getattr(self, kind)
        if measure is None:
            raise WorldFormatError(
                f"{self.where}: calibration field `{kind}` is missing, and with it p-values, "
                f"windows and pictures of novelty; {REMEDY}"
            )
        assert isinstance(measure, Measure)
        return measure

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; `from_dict` is its inverse.

        Raises:
            WorldFormatError: the world is not calibrated.
        """
        result: dict[str, Any] = {
            name: getattr(self, name) for name in ("mean", "std", "quantiles", "frames")
        }
        for kind in KINDS:
            measure = self.require(kind)
            windows = {str(n): _plain(table) for n, table in measure.windows.items()}
            result[kind] = {"windows": windows, "tokens": _plain(measure.tokens)}
        return result

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Calibration:
        """What `to_dict` wrote; `where` names the file in errors."""
        try:
            result = cls(
                mean=float(values["mean"]),
                std=float(values["std"]),
                quantiles=tuple(float(q) for q in values["quantiles"]),
                frames=int(values["frames"]),
                **{kind: _read_measure(values[kind], kind) for kind in KINDS},
                where=where,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise WorldFormatError(
                f"{where}: calibration field is missing or not a number ({error}); "
                f"{REMEDY}, or restore the file"
            ) from error
        if not (math.isfinite(result.mean) and math.isfinite(result.std) and result.std > 0):
            raise WorldFormatError(f"{where}: `mean` and `std` must be finite and std > 0")
        return result


def _measure(runs: Sequence[Tensor], one_sided: bool) -> Measure:
    windows = {}
    frames = [run.double().mean(dim=1) for run in runs]
    for window in WINDOWS:
        means = [f.unfold(0, window, 1).mean(dim=-1) for f in frames if len(f) >= window]
        joined = torch.cat(means) if means else torch.empty(0)
        if window == 1 or len(joined) >= LEAST:
            windows[window] = Table.fit(joined, one_sided)
    return Measure(windows, Table.fit(torch.cat(list(runs)), one_sided))


def _plain(table: Table) -> dict[str, Any]:
    values = asdict(table)
    del values["one_sided"]  # it belongs to the kind
    return values


def _read_measure(values: dict[str, Any], kind: str) -> Measure:
    windows = {
        int(n): _read_table(table, kind, (len(KINDS[kind]),))
        for n, table in values["windows"].items()
    }
    if 1 not in windows:
        raise KeyError(f"{kind}.windows.1")
    tokens = len(values["tokens"]["mean"])
    return Measure(windows, _read_table(values["tokens"], kind, (tokens, len(KINDS[kind]))))


def _read_table(values: dict[str, Any], kind: str, shape: tuple[int, ...]) -> Table:
    parts = {}
    for name, size in (("mean", shape), ("std", shape), ("levels", (len(TAILS),))):
        part = torch.tensor(values[name], dtype=torch.float64)
        if tuple(part.shape) != size or not bool(part.isfinite().all()):
            raise ValueError(f"{kind}: `{name}` must be finite numbers of shape {size}")
        parts[name] = part
    if not bool((parts["std"] > 0).all()) or not bool((parts["levels"].diff() >= 0).all()):
        raise ValueError(f"{kind}: `std` must be positive and `levels` must not fall")
    lists = {name: _tuple(part.tolist()) for name, part in parts.items()}
    return Table(**lists, one_sided=kind == "dreamed")


def _tuple(values: Any) -> Any:
    return tuple(_tuple(v) for v in values) if isinstance(values, list) else values


UNCALIBRATED = Calibration(math.nan, math.nan, (math.nan,) * len(QUANTILES), 0)
