"""Novelty beside the ends that come, with known answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ends import novelty as measured
from ends.novelty import dreamed_steps, novelty_of_steps
from ends.play import Play
from novelty_and_ends import NoveltyAndEnds, by_novelty
from torch import Tensor

from worldflow.errors import ConfigError
from worldflow.testing import tiny_world


def play(lengths: list[int], ended: list[bool]) -> Play:
    """Frames are numbered from 1 on, over all episodes; conditions are a thousandth of that."""
    numbers = torch.arange(1, sum(lengths) + 1, dtype=torch.float16)
    return Play(
        numbers[:, None, None].clone(),
        numbers[:, None] / 1000,
        torch.tensor(lengths),
        torch.tensor(ended),
    )


class Summing:
    """A flow whose state is the sum of the frames that it saw, and which draws that sum."""

    def empty_state(self, rows: int) -> Tensor:
        return torch.zeros(rows)

    def observe(self, state: Tensor, noisy: Tensor, condition: Tensor) -> tuple[Tensor, None]:
        return state + noisy[:, 0, 0], None

    def draw_chance(self, generator: torch.Generator, z: Tensor) -> None:
        return None

    def step(self, state: Tensor, z: Tensor, condition: Tensor, chance: None) -> tuple[Any, ...]:
        return None, state + condition[:, 0], None


def test_each_step_is_drawn_from_its_own_past(monkeypatch: pytest.MonkeyPatch) -> None:
    world: Any = SimpleNamespace(flow=Summing(), tokens=1, channels=1)
    monkeypatch.setattr(measured, "dreamed_scores", lambda _, drawn: SimpleNamespace(novelty=drawn))
    found = novelty_of_steps(world, play([4, 2, 3], [True, True, False]), torch.Generator())
    past = torch.tensor([1, 1 + 2, 1 + 2 + 3, 5, 7, 7 + 8], dtype=torch.float32)
    led = torch.tensor([2, 3, 4, 6, 8, 9], dtype=torch.float16) / 1000
    torch.testing.assert_close(found, past + led)


def test_ends_over_those_foreseen_by_parts() -> None:
    """100 steps of which the 10 most novel have all ends, each foreseen with a tenth."""
    episodes = play([11] * 10, [True] * 5 + [False] * 5)
    novelty = torch.arange(100.0).reshape(10, 10).T.flatten()  # the last of each episode
    came = torch.zeros(100, dtype=torch.bool)
    came[[9, 19, 29, 39, 49]] = True
    rows = by_novelty(novelty, torch.full((100,), 0.1, dtype=torch.float64), came, episodes)
    assert [row["steps"] for row in rows] == [50, 40, 10]
    assert [row["ends"] for row in rows] == [0, 0, 5]
    assert [row["foreseen"] for row in rows] == [5.0, 4.0, 1.0]
    assert [row["ends_over_foreseen"] for row in rows] == [0.0, 0.0, 5.0]
    assert rows[0]["low"] is None and rows[2]["low"] < 5.0 < rows[2]["high"]


def test_dreamed_steps_are_an_agents() -> None:
    taken: list[int] = []

    def predict(seen: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
        assert deterministic and seen.shape == (2, 16, 4)  # of two frames with two channels each
        taken.append(len(seen))
        return np.zeros(2, np.int64), None

    model: Any = SimpleNamespace(predict=predict)
    found = dreamed_steps(tiny_world(), model, 2, horizon=3, rows=2, steps=11, seed=0)
    assert len(taken) == 5 and len(found.novelty) == len(found.ends) == 10
    assert np.isfinite(found.novelty).all() and ((found.ends > 0) & (found.ends < 1)).all()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="give agents="):
        NoveltyAndEnds("takecover", [])
    for wrong in ({"steps": 10, "rows": 20}, {"rows": 0}, {"horizon": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is .*must be at least"):
            NoveltyAndEnds("takecover", ["a"], **wrong)
