"""Trainings, their continuations and evaluations start from seeds of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from worldflow.agents.evaluate import AgentPath, EvaluateAgentConfig, evaluate_agent
from worldflow.agents.seeds import episode_seed, training_seed
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.envs.imagination import Imagination
from worldflow.envs.transition import Transition

Quick = Callable[..., TrainAgentConfig]


def test_no_seed_of_training_returns_in_a_resumed_one_or_in_evaluation(
    quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    reset = Imagination.reset

    def watch(
        imagination: Imagination,
        rows: np.ndarray | None = None,
        seeds: Sequence[int | None] | None = None,
        contexts: Sequence[int | None] | None = None,
    ) -> Transition:
        seen[-1].update(seed for seed in seeds or () if seed is not None)
        return reset(imagination, rows, seeds, contexts)

    monkeypatch.setattr(Imagination, "reset", watch)
    seen.append(set())
    out = train_agent(quick(16))
    for steps in (32, 48):
        seen.append(set())
        train_agent(quick(steps, resume=True))
    assert [len(seeds) for seeds in seen] == [2, 2, 2]
    seen.append(set())
    # Seeds that count from the training's, its steps included, would meet here.
    evaluate_agent(
        EvaluateAgentConfig(AgentPath(str(out)), episodes=60, seed=0, real=False, progress=False)
    )
    assert len(seen[-1]) == 60
    assert len(set.union(*seen)) == 66


def test_seeds_depend_on_everything_they_are_of() -> None:
    found = [training_seed(seed, steps) for seed in range(30) for steps in range(0, 300, 10)]
    found += [episode_seed(seed, episode) for seed in range(30) for episode in range(30)]
    assert len(set(found)) == len(found)
    assert all(0 <= seed < 2**31 for seed in found)
