"""Decision fidelity: 1 where the dream is the simulator itself, chance where it ignores actions."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from worldflow.envs.decisions import (
    DecisionsConfig,
    decision_figures,
    decision_strip,
    dream_plans,
    find_decisions,
)
from worldflow.envs.replay import Replay
from worldflow.envs.sources import SourceConfig, make_source
from worldflow.envs.sources.catch import ACTIONS, BACKGROUND, BALL, CELLS, PADDLE
from worldflow.errors import ConfigError
from worldflow.testing import tiny_world

CONFIG = DecisionsConfig(starts=8, plans=5, horizon=6, sticky=0.5, given=3, real=2, dreams=3)


@dataclass
class CatchState:
    """Rows of (row, ball, paddle), 2 cells wide."""

    cells: torch.Tensor


class CatchAsWorld:
    """Catch without drift behind a world's interface; `obeys` tells whether actions do anything."""

    frame_shape = (64, 64, 3)

    def __init__(self, obeys: bool) -> None:
        self.obeys = obeys

    def initial_state(self, frames: torch.Tensor, actions: torch.Tensor, _: Any) -> CatchState:
        rows = []
        for frame in frames[:, -1].numpy():
            cells = frame[::8, ::8]
            row, ball = np.argwhere((cells == BALL).all(axis=-1))[0]
            paddle = np.flatnonzero((cells[-1] == PADDLE).all(axis=-1))[0]
            rows.append((row, ball, paddle))
        return CatchState(torch.tensor(np.array(rows)))

    def fork(self, state: CatchState, rows: list[int]) -> CatchState:
        return CatchState(state.cells[rows])

    def step(
        self, state: CatchState, action: torch.Tensor, _: Any, heat: float
    ) -> tuple[CatchState, Any]:
        assert heat == 0.7
        row, ball, paddle = state.cells.T
        running = row < CELLS - 1
        moves = torch.tensor(ACTIONS)[action] if self.obeys else torch.zeros_like(action)
        paddle = torch.where(running, (paddle + moves).clamp(0, CELLS - 2), paddle)
        row = torch.where(running, row + 1, row)
        ended = running & (row == CELLS - 1)
        caught = (paddle <= ball) & (ball < paddle + 2)
        reward = torch.where(ended, torch.where(caught, 1.0, -1.0), 0.0)
        cells = torch.stack([row, ball, paddle], dim=1)
        made = SimpleNamespace(
            reward=reward, terminated=ended, termination_probability=ended.float(), latents=cells
        )
        return CatchState(cells), made

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        frames = np.full((len(latents), CELLS, CELLS, 3), BACKGROUND, np.uint8)
        for frame, (row, ball, paddle) in zip(frames, latents.tolist(), strict=True):
            frame[-1, paddle : paddle + 2] = PADDLE
            frame[row, ball] = BALL
        return torch.from_numpy(frames.repeat(8, axis=1).repeat(8, axis=2))


def figures(obeys: bool) -> dict[str, Any]:
    env = make_source(SourceConfig("worldflow/Catch-v0", {"drift": 0.0}))
    found, looked = find_decisions(Replay(env), CONFIG, context=1, seed=0)
    assert len(found) == 8 <= looked
    world: Any = CatchAsWorld(obeys)
    dreamed = [dream_plans(world, decision, CONFIG, 0.7, 0) for decision in found]
    return decision_figures(found, dreamed, has_chance=True)


def test_the_simulator_itself_is_perfect() -> None:
    found = figures(obeys=True)
    ranking = found["by_return"]
    for name in ("spearman", "concordance", "top_1", "gain"):
        assert ranking[name]["mean"] == pytest.approx(1.0), name
    assert ranking["ceiling"]["spearman"]["mean"] == pytest.approx(1.0)
    assert ranking["chance"]["mean"] < 1.0
    assert found["real_returns"] == found["dreamed_returns"]
    assert found["controllability"]["mean"] == pytest.approx(1.0)
    assert found["by_info"] is None


def test_a_world_that_ignores_actions_knows_nothing() -> None:
    found = figures(obeys=False)
    ranking = found["by_return"]
    assert ranking["spearman"]["mean"] == 0.0
    assert ranking["top_1"]["mean"] == pytest.approx(ranking["chance"]["mean"])
    assert ranking["gain"]["mean"] == pytest.approx(0.0)
    assert found["controllability"]["mean"] == 0.0


def test_a_learned_world_dreams_the_same_noise_under_every_plan() -> None:
    world = tiny_world()
    env = make_source(SourceConfig("worldflow/Catch-v0"))
    decision = find_decisions(Replay(env), CONFIG, world.config.context, seed=1)[0][0]
    same = decision.plans.copy()
    same[1] = same[0]
    twins = type(decision)(decision.start, same, decision.real)
    made = dream_plans(world, twins, CONFIG, 1.0, seed=0)
    assert made.expected.shape == made.drawn.shape == (5, 3)
    assert made.frames.shape == (5, 2, 6, 64, 64, 3)
    np.testing.assert_array_equal(made.frames[0], made.frames[1])
    assert not np.array_equal(made.frames[0, 0], made.frames[0, 1])
    again = dream_plans(world, twins, CONFIG, 1.0, seed=0)
    np.testing.assert_array_equal(made.expected, again.expected)
    assert decision_strip(decision, made).shape[2] == 3


def test_decisions_are_chosen_by_reality() -> None:
    env = make_source(SourceConfig("worldflow/Catch-v0"))
    found, looked = find_decisions(Replay(env), CONFIG, context=1, seed=0)
    assert all(np.ptp(decision.returns.mean(axis=1)) > 0 for decision in found)
    assert looked <= CONFIG.starts * CONFIG.tries
    again, _ = find_decisions(Replay(env), CONFIG, context=1, seed=0)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.plans, other.plans)
        np.testing.assert_array_equal(one.returns, other.returns)


@pytest.mark.parametrize("change", [{"starts": 0}, {"plans": 1}, {"sticky": 1.0}])
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"decisions.{next(iter(change))}"):
        DecisionsConfig(**change)
