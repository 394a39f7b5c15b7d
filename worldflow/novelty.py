"""From what the flow says of frames to scores for agents; docs/novelty.md explains them.

Novelty is made of statistics v_j of a frame, each the mean over its tokens:

    r = sqrt(sum_j ((v_j - mean_j) / std_j)^2)       of a frame that was seen
    r = (v - mean) / std                             of a dreamed one, whose v is its uncertainty
    novelty = Phi^-1(1 - p / 2),  p = the share of held-out real frames with an r at least as large

so it is 0 for the least remarkable frame, its unit is one standard deviation of a normal
distribution, and p = erfc(novelty / sqrt(2)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import torch
from torch import Tensor

from worldflow.errors import ConfigError

# Shares of the held-out frames beyond a level, and the novelty of that level.
TAILS = (1.0, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 0.001)
SEEN = ("energy", "correlation", "detail")  # the statistics of a frame that was seen
DREAMED = ("uncertainty",)  # and of a dreamed one
WINDOWS = (1, 2, 4, 8, 16)  # frames whose novelty is measured together


def novelty_of(p_value: float) -> float:
    """The novelty that a share `p_value` of held-out real frames reaches: Phi^-1(1 - p / 2).

    Raises:
        ValueError: the share is not in (0, 1].
    """
    if not 0.0 < p_value <= 1.0:
        raise ValueError(f"p_value={p_value} must be a share of the frames, in (0, 1]")
    return 0.0 if p_value == 1.0 else NormalDist().inv_cdf(1.0 - p_value / 2.0)


def p_value_of(novelty: Tensor) -> Tensor:
    """The share of held-out real frames that are at least as novel: erfc(novelty / sqrt(2))."""
    return torch.erfc(novelty / math.sqrt(2.0))


@dataclass(frozen=True)
class Table:
    """How statistics of held-out real frames are distributed.

    Attributes:
        mean: of each statistic (J,); of tokens (N, J).
        std: of the same.
        levels: r at which a share `TAILS` of the frames lies beyond; rises.
        one_sided: whether r is signed: only larger values are strange.
    """

    mean: tuple[float, ...] | tuple[tuple[float, ...], ...]
    std: tuple[float, ...] | tuple[tuple[float, ...], ...]
    levels: tuple[float, ...]
    one_sided: bool

    @classmethod
    def fit(cls, statistics: Tensor, one_sided: bool) -> Table:
        """From statistics (M, J) of M frames, or (M, N, J) of their tokens."""
        values = statistics.double()
        mean, std = values.mean(dim=0), values.std(dim=0, correction=0)
        # a statistic that never varies, as in frames of one colour, still has a unit
        std = std.clamp(min=1e-6)
        r = _distance((values - mean) / std, one_sided).flatten()
        levels = torch.quantile(r, 1.0 - torch.tensor(TAILS, dtype=torch.float64))
        return cls(_tuples(mean), _tuples(std), tuple(levels.tolist()), one_sided)

    def novelty(self, statistics: Tensor) -> Tensor:
        """Statistics (..., J), or (..., N, J) of tokens, to novelty (...) or (..., N).

        Beyond the rarest level it grows with r, one for one.
        """
        mean, std, levels, scores = self._like(statistics)
        r = _distance((statistics - mean) / std, self.one_sided)
        above = torch.searchsorted(levels, r.contiguous(), right=True).clamp(1, len(levels) - 1)
        low, high = levels[above - 1], levels[above]
        share = ((r - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)
        inside = torch.lerp(scores[above - 1], scores[above], share)
        return torch.where(r > levels[-1], scores[-1] + r - levels[-1], inside)

    def _like(self, statistics: Tensor) -> tuple[Tensor, ...]:
        """Mean, std, levels and their novelty, as tensors where the statistics are."""
        key = (statistics.device, statistics.dtype)
        if key not in self._tensors:
            parts = (self.mean, self.std, self.levels, [novelty_of(p) for p in TAILS])
            with torch.inference_mode(False):  # they may be used where gradients are taken
                made = (torch.tensor(part, dtype=torch.float64) for part in parts)
                self._tensors[key] = tuple(t.to(statistics) for t in made)
        return self._tensors[key]

    @cached_property
    def _tensors(self) -> dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]]:
        return {}


@dataclass(frozen=True)
class Measure:
    """Novelty of one kind of frames.

    Attributes:
        windows: the table of the mean over 1, 2, 4, ... frames in a row; 1 is always there.
        tokens: the table of single tokens.
    """

    windows: dict[int, Table]
    tokens: Table

    def require_window(self, window: int, name: str = "window") -> None:
        """Refuse a window that the world was not calibrated for.

        Args:
            window: frames measured together.
            name: of the setting, for the message.

        Raises:
            ConfigError: there is no table of it.
        """
        if window not in self.windows:
            raise ConfigError(
                f"{name}={window}: this world is calibrated for windows of {sorted(self.windows)} "
                "frames; choose one of them, or recalibrate it on longer episodes "
                "(worldflow calibrate)"
            )

    def novelty(self, statistics: Tensor) -> Tensor:
        """Of single frames: statistics (..., J) to (...)."""
        return self.windows[1].novelty(statistics)

    def over(self, statistics: Tensor, window: int) -> Tensor:
        """Of the last `window` frames together, or as many as there are: (B, T, J) to (B, T).

        Where fewer frames are there, the largest window that they fill counts.

        Raises:
            ConfigError: the world was calibrated for no such window.
        """
        running = RunningNovelty(self, window, len(statistics))
        frames = [running.add(statistics[:, t]) for t in range(statistics.shape[1])]
        return torch.stack(frames, dim=1)


class RunningNovelty:
    """Novelty over the last frames of B episodes, frame by frame.

    Args:
        measure: of the kind of frames.
        window: frames measured together.
        rows: B.

    Raises:
        ConfigError: the world was calibrated for no such window.
    """

    def __init__(self, measure: Measure, window: int, rows: int) -> None:
        measure.require_window(window)
        self.window = window
        self._tables = {n: t for n, t in measure.windows.items() if n <= window}
        self._ages = torch.zeros(rows, dtype=torch.int64)  # frames of each, at most `window`
        self._last: Tensor | None = None  # (B, window, J), the last one at the end

    def reset(self, row: int) -> None:
        """Forget a row's frames: its episode ended."""
        self._ages[row] = 0

    def add(self, statistics: Tensor, rows: Sequence[bool] | None = None) -> Tensor:
        """Add a frame (B, J) to each row; returns novelty (B,).

        Args:
            statistics: of the frames.
            rows: which rows have one; None: all. The others get NaN.
        """
        if self._last is None:
            self._last = torch.stack([torch.zeros_like(statistics)] * self.window, dim=1)
        added = torch.ones_like(self._ages, dtype=torch.bool)
        if rows is not None:
            added = torch.tensor(rows, dtype=torch.bool)
        self._ages = torch.where(added, (self._ages + 1).clamp(max=self.window), self._ages)
        ages, added = (x.to(statistics.device) for x in (self._ages, added))
        shifted = torch.cat((self._last[:, 1:], statistics[:, None]), dim=1)
        self._last = torch.where(added[:, None, None], shifted, self._last)
        novelty = statistics.new_full((len(ages),), math.nan)
        for size, table in sorted(self._tables.items()):
            # the largest window that a row fills is the last that overwrites
            over = table.novelty(self._last[:, -size:].mean(dim=1))
            novelty = torch.where(added & (ages >= size), over, novelty)
        return novelty


def bits_per_dim(log_prob: Tensor, dimensions: int) -> Tensor:
    """-log2 p of a frame's noisy latents, divided by their number."""
    return -log_prob / (dimensions * math.log(2.0))


def noise_floor(sigma: float) -> float:
    """The least NLL a latent can have, in nats: the entropy of its noise."""
    return 0.5 * math.log(2.0 * math.pi * math.e * sigma**2)


def prediction_entropy(log_scale: Tensor, dimensions: int) -> Tensor:
    """Estimate of the predicted frame's entropy in nats: the standard normal's, plus log scales.

    The scales are those along one frame, a sample of the prediction in a dream.
    """
    return log_scale + 0.5 * dimensions * (1.0 + math.log(2.0 * math.pi))


def _distance(standard: Tensor, one_sided: bool) -> Tensor:
    return standard[..., 0] if one_sided else standard.square().sum(dim=-1).sqrt()


def _tuples(values: Tensor) -> tuple[float, ...] | tuple[tuple[float, ...], ...]:
    rows = values.tolist()
    return tuple(tuple(row) if isinstance(row, list) else row for row in rows)
