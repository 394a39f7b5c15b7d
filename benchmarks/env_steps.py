"""Env steps as an agent sees them, split into the parts of the world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from one_pass import one_pass
from timing import Result, milliseconds, timed
from torch import nn

from worldflow.world_model import WorldModel

SAMPLERS = ("jacobi", "sequential")
PARTS = ("flow", "denoiser_and_heads", "decoder")
# of the paired loop, whose process is warm already
PAIRED_WARMUP = 2


class PartMeter:
    """Splits what a call costs into the parts of a world, by wrapping their methods.

    Args:
        world: whose methods are wrapped from `__enter__` to `__exit__`.
        clock: a growing number: milliseconds, or operations so far.
    """

    def __init__(self, world: WorldModel, clock: Callable[[], float] = milliseconds) -> None:
        self._clock = clock
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._methods: list[tuple[str, nn.Module, str]] = [
            ("flow", world.flow, "step"),
            ("denoiser_and_heads", world.denoiser, "step"),
            ("decoder", world.codec, "decode_frames"),
        ]
        for head, names in (
            (world.reward_head, ("forward", "mean")),
            (world.termination_head, ("step", "probability")),
        ):
            if head is not None:
                self._methods += [("denoiser_and_heads", head, name) for name in names]

    def __enter__(self) -> PartMeter:
        for part, module, name in self._methods:
            setattr(module, name, self._wrapped(part, getattr(module, name)))
        return self

    def __exit__(self, *error: object) -> None:
        for _, module, name in self._methods:
            delattr(module, name)  # the class's own method shows again

    def measure(self, call: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
        """The call's result, and its cost: of each part, of the "rest", and of the "whole"."""
        self._spent = dict.fromkeys(PARTS, 0.0)
        before = self._clock()
        result = call()
        whole = self._clock() - before
        return result, {**self._spent, "rest": whole - sum(self._spent.values()), "whole": whole}

    def _wrapped(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            before = self._clock()
            result = method(*args, **kwargs)
            self._spent[part] += self._clock() - before
            return result

        return wrapper


class SteppedEnv:
    """`rows` dreams under random actions; those that end are reset, which is not measured."""

    def __init__(self, world: WorldModel, rows: int, seed: int) -> None:
        self.world, self.rows = world, rows
        self._env = gym.make_vec(
            "StarFlowWorld-v0",
            num_envs=rows,
            world=world,
            horizon=10**9,
            autoreset_mode=AutoresetMode.DISABLED,
        )
        self._env.reset(seed=seed)
        self._env.action_space.seed(seed)

    def step(self, meter: PartMeter, method: str) -> tuple[dict[str, float], np.ndarray]:
        """One env step by a sampling method: its cost by part, and passes of blocks (blocks,)."""
        flow, actions = self.world.config.flow, self._env.action_space.sample()
        own, flow.sampler = flow.sampler, replace(flow.sampler, method=method)
        (_, _, terminated, _, info), cost = meter.measure(lambda: self._env.step(actions))
        flow.sampler = own
        if terminated.any():
            self._env.reset(options={"reset_mask": terminated})
        return cost, info["jacobi_iterations"].mean(axis=0)

    def close(self) -> None:
        """Close the env."""
        self._env.close()


@dataclass
class BatchFigures:
    """What one batch size gave; each a row of its table, in milliseconds and ratios."""

    env_steps: list[dict[str, Any]]
    speedup: dict[str, Any]
    parts: dict[str, Any]
    floor: dict[str, Any]


def measure_batch(
    world: WorldModel, rows: int, steps: int, paired_steps: int, warmup: int, seed: int
) -> BatchFigures:
    """Time env steps of `rows` rows.

    First Jacobi alone. Then, in turn, so that a machine whose speed drifts slows all of them alike:
    a step by Jacobi, one pass of everything, a step by sequential inversion.

    Args:
        steps: by Jacobi alone.
        paired_steps: rounds of the second part.
        warmup: steps before the first part.
    """
    env, floor = SteppedEnv(world, rows, seed), one_pass(world, rows, seed)
    alone, floors = [], []
    paired: dict[str, list[tuple[dict[str, float], np.ndarray]]] = {name: [] for name in SAMPLERS}
    with PartMeter(world) as meter:
        for _ in range(warmup + steps):
            alone.append(env.step(meter, "jacobi"))
        for _ in range(PAIRED_WARMUP + paired_steps):
            paired["jacobi"].append(env.step(meter, "jacobi"))
            floors.append(timed(floor)[1])
            paired["sequential"].append(env.step(meter, "sequential"))
    env.close()
    alone, floors = alone[warmup:], floors[PAIRED_WARMUP:]
    paired = {name: costs[PAIRED_WARMUP:] for name, costs in paired.items()}
    jacobi, sequential = _of(paired["jacobi"], "whole"), _of(paired["sequential"], "whole")
    flow_ratio = _of(paired["sequential"], "flow") / _of(paired["jacobi"], "flow")
    return BatchFigures(
        env_steps=[
            _env_steps(rows, "jacobi", alone),
            _env_steps(rows, "sequential", paired["sequential"]),
        ],
        speedup={
            "rows": rows,
            "env_step": _median(sequential / jacobi),
            "flow_step": _median(flow_ratio),
        },
        parts=_parts(rows, alone),
        floor={
            "rows": rows,
            "floor_ms": _median(np.array(floors)),
            "env_step_ms": _median(jacobi),
            "ratio": _median(jacobi / np.array(floors)),
        },
    )


def _env_steps(
    rows: int, method: str, steps: list[tuple[dict[str, float], np.ndarray]]
) -> dict[str, Any]:
    """Speed, percentiles and mean passes; frames a second are those of the median step."""
    p50, p95, p99 = np.percentile(_of(steps, "whole"), [50, 95, 99]).tolist()
    return {
        "rows": rows,
        "sampler": method,
        "frames_per_second": 1e3 * rows / p50,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "passes": np.mean([passes for _, passes in steps], axis=0).tolist(),
    }


def _parts(rows: int, steps: list[tuple[dict[str, float], np.ndarray]]) -> dict[str, Any]:
    """Medians of each part, and their share of the median step."""
    whole = _median(_of(steps, "whole"))
    figures: dict[str, Any] = {"rows": rows, "step_ms": whole}
    for part in (*PARTS, "rest"):
        figures[f"{part}_ms"] = _median(_of(steps, part))
    for part in (*PARTS, "rest"):
        figures[f"{part}_percent"] = 100.0 * figures[f"{part}_ms"] / whole
    return figures


def _of(steps: list[tuple[dict[str, float], np.ndarray]], part: str) -> np.ndarray:
    return np.array([cost[part] for cost, _ in steps])


def _median(values: np.ndarray) -> float:
    return float(np.median(values))
