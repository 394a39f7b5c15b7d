"""The table of a grid of agents: scores in dream and reality, and what caution changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldflow.agents.dream_grid import NEITHER
from worldflow.evaluation.student import t_quantile

LEAST_SEEDS = 3  # for an interval: that of two is 13 standard errors wide to either side
LAST, BEST = "last", "best"
NAMES = {"dream": "the dream", "real": "the real game", "random": "random play"}
Scored = dict[str, Any]  # a cell's scores.json
Row = dict[str, Any]
Figures = dict[str, float | None]


def table_rows(results: Sequence[Scored]) -> list[Row]:
    """One row for each kind of training, over its seeds.

    Args:
        results: of all cells that are finished.

    Returns:
        JSON-able rows with `learned_in`, `temperature`, `variant`, `seeds`, `steps`, the estimates
        `dream`, `real`, and `best_real` (None where no best weights were kept), and `entropy`, of
        the actions taken in the real game.
    """
    groups: dict[tuple[str, float, str | None], list[Scored]] = {}
    for result in results:
        cell = result["cell"]
        key = (cell["kind"], cell["temperature"], cell["variant"])
        groups.setdefault(key, []).append(result)
    rows = []
    for (kind, heat, variant), found in groups.items():
        entropies = [_entropy(result["scores"][LAST]["real"]) for result in found]
        known = [value for value in entropies if value is not None]
        best = [r["scores"][BEST]["real"] for r in found if BEST in r["scores"]]
        rows.append(
            {
                "learned_in": NAMES[kind],
                "temperature": heat,
                "variant": variant,
                "seeds": len(found),
                "steps": max((result.get("steps") or 0 for result in found), default=0),
                "dream": over_seeds([r["scores"][LAST]["dream"] for r in found]),
                "real": over_seeds([r["scores"][LAST]["real"] for r in found]),
                "best_real": over_seeds(best) if len(best) == len(found) else None,
                "entropy": float(np.mean(known)) if known else None,
            }
        )
    return rows


def over_seeds(summaries: Sequence[Mapping[str, Any]]) -> Figures:
    """The mean of means with its interval over seeds; of a single seed, over its episodes."""
    if len(summaries) == 1:
        names = ("mean", "std", "low", "high")
        return {name: summaries[0][name] for name in names} | {"count": 1}
    return student([summary["mean"] for summary in summaries])


def student(values: Sequence[float]) -> Figures:
    """Mean of one value a seed, with `std`, `count` and its 95% interval by Student's t.

    `low` and `high` are None with fewer than `LEAST_SEEDS` seeds.
    """
    mean, std, count = float(np.mean(values)), float(np.std(values, ddof=1)), len(values)
    found: Figures = {"mean": mean, "std": std, "low": None, "high": None, "count": count}
    if count >= LEAST_SEEDS:
        half = t_quantile(0.95, count - 1) * std / count**0.5
        found |= {"low": mean - half, "high": mean + half}
    return found


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Figures | None:
    """Of a - b over the seeds that both have, see `student`; None with fewer than two of them."""
    seeds = sorted(a.keys() & b.keys())
    if len(seeds) < 2:
        return None
    return student([a[seed] - b[seed] for seed in seeds])


def comparisons(results: Sequence[Scored], weights: str = LAST) -> list[Row]:
    """Real returns of cautious variants less those of the same seeds without caution.

    Args:
        results: of all cells that are finished.
        weights: "last" or "best"; cells without such are left out.

    Returns:
        rows with `variant`, `temperature` (None: the mean over all of them, of seeds that have
        all), `weights` and `difference`, an estimate, or None where fewer than two seeds compare.
    """
    returns: dict[tuple[str, float], dict[int, float]] = {}
    for result in results:
        cell = result["cell"]
        if cell["kind"] == "dream" and weights in result["scores"]:
            of_kind = returns.setdefault((cell["variant"], cell["temperature"]), {})
            of_kind[cell["seed"]] = result["scores"][weights]["real"]["mean"]
    rows = []
    for variant in dict.fromkeys(name for name, _ in returns if name != NEITHER):
        heats = [heat for name, heat in returns if name == variant and (NEITHER, heat) in returns]
        for heat in heats:
            found = paired(returns[variant, heat], returns[NEITHER, heat])
            rows.append(_compared(variant, heat, weights, found))
        if len(heats) > 1:
            both = (_mean_over(returns, name, heats) for name in (variant, NEITHER))
            rows.append(_compared(variant, None, weights, paired(*both)))
    return rows


def markdown(rows: Sequence[Row], compared: Sequence[Row]) -> str:
    """Both tables, for a page of results."""
    shown = []
    for row in rows:
        cells = {
            "learned in": row["learned_in"],
            "temperature": f"{row['temperature']:g}",
            "caution": row["variant"] or "",
            "seeds": str(row["seeds"]),
            "steps": f"{row['steps']:,}" if row["steps"] else "",
            "dream score": f"{row['dream']['mean']:.1f} ± {row['dream']['std']:.1f}",
            "real score [95%]": _interval(row["real"]),
        }
        if any(other["best_real"] for other in rows):
            cells["real score of the best weights [95%]"] = _interval(row["best_real"])
        entropy = row["entropy"]
        shown.append(cells | {"entropy of actions": "" if entropy is None else f"{entropy:.2f}"})
    differences = [
        {
            "caution": row["variant"],
            "temperature": "all" if row["temperature"] is None else f"{row['temperature']:g}",
            "weights": row["weights"],
            "seeds": "" if row["difference"] is None else str(row["difference"]["count"]),
            "real return, less that of neither [95%]": _interval(row["difference"]),
        }
        for row in compared
    ]
    text = [
        "Mean returns of the agents of all seeds, ± the deviation between them. Intervals are over",
        f"seeds, by Student's t, and there are none of fewer than {LEAST_SEEDS}; of a single seed,",
        "deviation and interval are over its episodes. Entropies are of the actions taken in the",
        "real game, in nats.",
        "",
        *_lines(shown),
    ]
    if differences:
        text += [
            "",
            f"The same seeds with caution and without. These are {len(differences)} comparisons,",
            "and no interval is corrected for their number: one of 20 excludes 0 by chance alone.",
            'Declared beforehand is that over all temperatures ("all"); those at single',
            "temperatures are exploratory.",
            "",
            *_lines(differences),
        ]
    return "\n".join(text) + "\n"


def _entropy(summary: Mapping[str, Any]) -> float | None:
    """Of the frequencies of discrete actions; of the policy where actions are continuous."""
    return summary.get("action_entropy", summary.get("policy_entropy"))


def _mean_over(
    returns: Mapping[tuple[str, float], Mapping[int, float]], variant: str, heats: Sequence[float]
) -> dict[int, float]:
    """Of each seed that has all temperatures, the mean over them."""
    columns = [returns[variant, heat] for heat in heats]
    seeds = set.intersection(*(set(column) for column in columns))
    return {seed: float(np.mean([column[seed] for column in columns])) for seed in seeds}


def _compared(variant: str, heat: float | None, weights: str, found: Figures | None) -> Row:
    return {"variant": variant, "temperature": heat, "weights": weights, "difference": found}


def _interval(estimate: Mapping[str, float | None] | None) -> str:
    if estimate is None:
        return ""
    if estimate["low"] is None:
        return f"{estimate['mean']:.1f}"
    return f"{estimate['mean']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"


def _lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    header = list(rows[0])
    cells = [header, ["---"] * len(header), *([row[name] for name in header] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in cells]
