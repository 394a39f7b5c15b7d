"""Precision, recall and timing of hand-made tables."""

from __future__ import annotations

import numpy as np
import pytest

from worldflow.evaluation.events import RewardEvents, first_only, match
from worldflow.evaluation.signals import reward_figures, termination_figures


def table(*rows: str) -> np.ndarray:
    """'..x' to bool."""
    return np.array([[mark == "x" for mark in row] for row in rows])


def test_matches_within_a_tolerance() -> None:
    actual = table("..x......x", "....x.....", "..........")
    made = table("..x.....x.", ".x........", "....x.....")
    exact, near = match(made, actual, 0), match(made, actual, 2)
    assert exact.matched.tolist() == [1, 0, 0]
    assert near.matched.tolist() == [2, 0, 0]
    assert near.late.tolist() == [-1, 0, 0]  # one right, one a step early
    assert near.off.tolist() == [1, 0, 0]
    found = near.figures()
    assert found["predicted"] == 4
    assert found["actual"] == 3
    assert found["precision"]["mean"] == pytest.approx(2 / 4)
    assert found["recall"]["mean"] == pytest.approx(2 / 3)
    assert found["late"]["mean"] == pytest.approx(-0.5)
    assert found["off"]["mean"] == pytest.approx(0.5)
    assert exact.figures()["precision"]["mean"] == pytest.approx(1 / 4)


def test_an_event_is_matched_once_and_with_the_nearest() -> None:
    found = match(table("x.xx"), table("...x"), 3)
    assert found.matched.tolist() == [1]
    assert found.off.tolist() == [0]


def test_nothing_predicted_has_no_precision() -> None:
    found = match(table("...."), table("..x."), 1).figures()
    assert found["precision"] is None
    assert found["recall"]["mean"] == 0.0
    assert found["off"] is None


def test_only_the_first_end_counts() -> None:
    np.testing.assert_array_equal(first_only(table(".x.x", "....")), table(".x..", "...."))


def test_reward_events() -> None:
    kind = RewardEvents.of(np.array([4.0, 4.0, 4.0, 2.0, 1.0, 4.0]))
    assert kind == RewardEvents(4.0, 1.0)
    assert kind.of_rewards(np.array([3.5, 2.9, 5.5])).tolist() == [False, True, True]
    assert RewardEvents.of(np.ones(4)) is None
    assert RewardEvents.of(np.arange(9.0)) is None


def test_reward_figures() -> None:
    true = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 9.0]])
    valid = table("xxx", "xx.")
    on_real = np.array([[0.0, 0.2, 0.9], [0.0, 0.1, 7.0]])
    dreamed = np.stack([true, true + 0.5])
    alive = np.stack([valid, table("x..", "xx.")])
    found = reward_figures(true, on_real, dreamed, valid, alive)
    assert found["error"]["on real frames"]["mean"] == pytest.approx((0.2 + 0.1 + 1.1) / 5)
    assert found["error"]["in dreams"]["mean"] == pytest.approx(3 * 0.5 / 8)
    assert found["error"]["the mean reward"]["mean"] == pytest.approx(2 / 5)
    events = found["events"]["on real frames"]["0"]
    assert events["precision"]["mean"] == 1.0  # 0.9 is the only event, and one
    assert events["recall"]["mean"] == 0.5
    assert found["over_time"]["real"] == [0.0, -0.5, 1.0]


def test_termination_figures() -> None:
    true = table("..x..", ".....", "...x.")
    valid = table("xxx..", "xxxxx", "xxxx.")
    on_real = np.zeros((3, 5))
    on_real[0, 2], on_real[1, 0], on_real[2, 3] = 0.75, 0.5, 0.25
    on_real[0, 4] = 1.0  # after the end: not counted
    dreamed = np.stack([table("...xx", ".....", ".x.x."), table("..x..", ".....", ".....")])
    found = termination_figures(true, on_real, dreamed, valid)
    real = found["on real frames"]["0"]
    assert real["precision"]["mean"] == 0.5
    assert real["recall"]["mean"] == 0.5
    drawn = found["drawn on real frames"]
    assert drawn["precision"]["mean"] == pytest.approx(1.0 / 1.5)
    assert drawn["recall"]["mean"] == pytest.approx(1.0 / 2)
    dreams = found["in dreams"]
    assert dreams["0"]["predicted"] == 1.5  # a dream
    assert dreams["0"]["recall"]["mean"] == pytest.approx(1 / 4)
    assert dreams["2"]["recall"]["mean"] == pytest.approx(3 / 4)
    assert dreams["any"]["off"]["mean"] == pytest.approx((1 + 2 + 0) / 3)
    assert dreams["any"]["late"]["mean"] == pytest.approx((1 - 2 + 0) / 3)
    assert found["rate"]["real"]["mean"] == pytest.approx(2 / 12)
    # first dream: 3 + 5 + 2 steps and one end among them; second: 3 + 5 + 4 and one
    assert found["rate"]["in dreams"]["mean"] == pytest.approx(2 / 22)
    assert found["running"]["real"] == pytest.approx([1, 1, 2 / 3, 1 / 3, 1 / 3])
