"""What some episodes amount to: mean, spread, interval; as a table and as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldflow.agents.play import Played
from worldflow.data.metadata import write_atomically
from worldflow.metrics import bootstrap

FOOTER = """\
Compare policies within one place. A dream starts after the world's context frames and is cut at
world.horizon; a real episode starts at its first frame and is cut at the environment's own limit.
Where episodes are cut, returns of dream and reality are not the same quantity."""


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
        found = bootstrap(played.returns)
        return cls(
            place=place,
            policy=policy,
            episodes=found.count,
            mean=found.mean,
            std=found.std,
            low=found.low,
            high=found.high,
            mean_length=float(played.lengths.mean()),
            returns=played.returns.tolist(),
            lengths=played.lengths.tolist(),
        )


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
    write_atomically(path, (json.dumps(report, indent=2) + "\n").encode())
