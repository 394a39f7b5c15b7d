"""Agreement of scripted worlds: 0 for one that ignores actions, 1 for a perfect one."""

from __future__ import annotations

import numpy as np
import pytest

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.controllability import agreement_figures, other_actions
from worldflow.evaluation.simulate import Dreams

CONTEXT, STEPS, SIZE = 1, 6, 16


def clips(count: int = 40) -> RealClips:
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, (count, CONTEXT + STEPS))
    valid = np.ones(actions.shape, dtype=bool)
    valid[0, 4:] = False
    chance = rng.integers(-20, 21, (count, CONTEXT + STEPS))
    return RealClips(play(actions, chance), actions, valid)


def play(actions: np.ndarray, chance: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """A game: the grey level tells where the sum of actions is, and chance is added."""
    moves = 2 * actions - 1
    moves[:, :CONTEXT] = 0
    grey = 128 + strength * 8 * moves.cumsum(axis=1) + chance
    return np.broadcast_to(
        grey[..., None, None, None].astype(np.uint8), (*grey.shape, SIZE, SIZE, 3)
    ).copy()


def agreement(strength: float) -> float:
    """Of a world with its own chance that moves as far as the game, times `strength`."""
    real = clips()
    changed = other_actions(real, CONTEXT)
    assert changed is not None
    other, valid = changed
    chance = np.random.default_rng(1).integers(-20, 21, real.actions.shape)
    nothing = np.zeros(0)
    true, wrong = (
        Dreams(
            play(a.copy(), chance, strength)[None, :, CONTEXT:], nothing, nothing, nothing, nothing
        )
        for a in (real.actions, other.actions)
    )
    found = agreement_figures(real, true, wrong, valid, CONTEXT)["agreement"]
    assert found["low"] <= found["mean"] <= found["high"]
    return float(found["mean"])


def test_a_world_that_ignores_actions_has_none() -> None:
    assert agreement(0.0) == 0.0


def test_a_perfect_world_agrees() -> None:
    assert agreement(1.0) == pytest.approx(1.0, abs=0.2)


def test_a_world_that_goes_the_other_way_disagrees() -> None:
    assert agreement(-1.0) == pytest.approx(-1.0, abs=0.2)


def test_a_weak_world_is_above_one() -> None:
    assert agreement(0.5) == pytest.approx(2.0, abs=0.4)


def test_other_actions_are_those_of_the_next_clip() -> None:
    real = clips(3)
    changed = other_actions(real, 2)
    assert changed is not None
    other, valid = changed
    np.testing.assert_array_equal(other.actions[:, :2], real.actions[:, :2])
    np.testing.assert_array_equal(other.actions[2, 2:], real.actions[0, 2:])
    assert valid.sum(axis=1).tolist() == [2, 5, 2]  # clip 0 is short, and lends its actions to 2
    assert other_actions(clips(1), 2) is None
