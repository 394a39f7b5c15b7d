"""Shifted actions are found, those that are right are not suspected."""

from __future__ import annotations

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.alignment_check import check_alignment

DISCRETE = ActionSpec("discrete", n=3)
BOX = ActionSpec("box", low=(-1.0,), high=(1.0,))


def moving_dot(
    spec: ActionSpec, episodes: int = 12, length: int = 60, sticky: float = 0.5
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A soft dot on a ring of 16 places, which the action moves; `actions[t]` led to frame t."""
    rng = np.random.default_rng(0)
    frames, actions = [], []
    for _ in range(episodes):
        chosen = rng.integers(0, 3, length)
        for t in range(1, length):
            if rng.random() < sticky:
                chosen[t] = chosen[t - 1]
        moves = chosen - 1.0
        moves[0] = 0
        place = 16 * rng.random() + np.cumsum(moves)
        gap = (np.arange(16) - place[:, None] + 8) % 16 - 8
        frames.append(np.exp(-(gap**2) / 4) + 0.02 * rng.standard_normal((length, 16)))
        actions.append(chosen if spec.kind == "discrete" else moves[:, None])
    return frames, actions


@pytest.mark.parametrize("spec", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize(
    ("recorded", "suspected", "remedy"),
    [(0, None, None), (1, 1, "led_to"), (-1, -1, "taken_at")],
    ids=["right", "a frame late", "a frame early"],
)
def test_a_shift_is_found(
    spec: ActionSpec, recorded: int, suspected: int | None, remedy: str | None
) -> None:
    frames, actions = moving_dot(spec)
    shifted = [np.roll(each, recorded, axis=0) for each in actions]
    check = check_alignment(frames, shifted, spec)
    assert check is not None
    assert check.suspected == suspected
    if remedy is None:
        assert check.warning() is None
        assert max(check.gains.values()) < 0
    else:
        assert f"data.alignment={remedy}" in str(check.warning())


def test_actions_that_do_nothing_are_not_suspected() -> None:
    frames, actions = moving_dot(DISCRETE)
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 3, len(each)) for each in actions]
    check = check_alignment(frames, noise, DISCRETE)
    assert check is not None
    assert check.suspected is None


def test_where_nothing_can_be_said() -> None:
    frames, actions = moving_dot(DISCRETE, episodes=3)
    assert check_alignment(frames, actions, DISCRETE) is None
    assert check_alignment(frames, actions, ActionSpec("none")) is None
