"""What some episodes amount to: mean, spread, interval; as a table and as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldflow.agents.play import Played

RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """Returns of one policy in one place.

    Args:
        place: "dream" or "real".
        policy: "agent" or "random".
        episodes: number of episodes.
        mean: of the returns.
        std: sample standard deviation of the returns; 0 for a single episode.
        low: lower end of the 95% interval of the mean, by bootstrap over episodes.
        high: upper end.
        mean_length: steps an episode.
        returns: of each episode, in the order of seeds.
        lengths: steps of each episode.
    """

    place: str
    policy: str
    episodes: int
    mean: float
    std: float
    low: float
    high: float
    mean_length: float
    returns: list[float]
    lengths: list[int]

    @classmethod
    def of(cls, place: str, policy: str, played: Played) -> Summary:
        """The summary of some episodes."""
        returns = played.returns
        low, high = bootstrap_interval(returns)
        return cls(
            place=place,
            policy=policy,
            episodes=len(returns),
            mean=float(returns.mean()),
            std=float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
            low=low,
            high=high,
            mean_length=float(played.lengths.mean()),
            returns=returns.tolist(),
            lengths=played.lengths.tolist(),
        )


def bootstrap_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean under resampling of `values` (N,), with a fixed seed."""
    generator = np.random.default_rng(0)
    means = [
        values[generator.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def table(summaries: list[Summary]) -> str:
    """The summaries as lines of text."""
    lines = [f"{'':16}{'episodes':>9}{'mean':>11}{'std':>10}  {'95% interval':^23}{'steps':>9}"]
    for row in summaries:
        interval = f"[{row.low:.2f}, {row.high:.2f}]"
        lines.append(
            f"{row.place + ' ' + row.policy:16}{row.episodes:>9}{row.mean:>11.2f}{row.std:>10.2f}"
            f"  {interval:^23}{row.mean_length:>9.1f}"
        )
    return "\n".join(lines)


def save_report(summaries: list[Summary], settings: dict[str, Any], path: Path) -> None:
    """Write settings and summaries as JSON, whole or not at all."""
    report = {"settings": settings, "results": [vars(summary) for summary in summaries]}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    temporary.replace(path)
