"""The worlds that come with the package open, and Catch obeys the rules of Catch."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import worldflow
from worldflow.envs.sources.catch import ACTIONS, BACKGROUND, BALL, CELLS, PADDLE
from worldflow.storage import shipped_worlds

ROWS = 32


def cells(frames: np.ndarray) -> np.ndarray:
    """Which colour each cell is nearest to: (B, 8, 8), 0 background, 1 ball, 2 paddle."""
    blocks = frames.reshape(len(frames), CELLS, 8, CELLS, 8, 3).mean(axis=(2, 4))
    colours = np.array([BACKGROUND, BALL, PADDLE])
    return np.abs(blocks[:, :, :, None] - colours).sum(-1).argmin(-1)


@pytest.mark.parametrize("name", shipped_worlds())
def test_a_shipped_world_steps(name: str) -> None:
    env = gym.make("StarFlowWorld-v0", world=name)
    frame, _ = env.reset(seed=0)
    frame, reward, _, _, info = env.step(env.action_space.sample())
    assert frame.shape == worldflow.load_world(name).frame_shape
    assert np.isfinite([reward, info["log_likelihood"], info["novelty"]]).all()
    env.close()


def test_catch_is_shipped() -> None:
    assert "catch" in shipped_worlds()


def test_dreamed_catch_keeps_the_rules() -> None:
    """The paddle goes where it is sent, the ball falls a row a step, the end comes with it."""
    env = gym.make_vec("StarFlowWorld-v0", num_envs=ROWS, world="catch")
    frames, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    paddle = (cells(frames)[:, -1] == 2).argmax(1)
    paddle_right = ball_right = shown = 0
    going = np.ones(ROWS, dtype=bool)
    for step in range(1, CELLS):
        actions = rng.integers(3, size=ROWS)
        frames, rewards, terminated, _, _ = env.step(actions)
        paddle = np.clip(paddle + np.array(ACTIONS)[actions], 0, CELLS - 2)
        seen = cells(frames)
        if step < CELLS - 1:  # on the last row the ball may hide a cell of the paddle
            going &= ~terminated  # a dream in which the ball was lost may end early
            shown += going.sum()
            paddle_right += (seen[np.arange(ROWS), -1, paddle] == 2)[going].sum()
            ball_right += (seen[:, step] == 1).any(1)[going].sum()
            assert np.abs(rewards[going]).max() < 0.1
        else:
            ends = np.abs(np.abs(rewards[going]) - 1) < 0.1
            assert terminated[going].all() and ends.mean() > 0.95
    env.close()
    assert going.mean() > 0.95
    assert paddle_right / shown > 0.95 and ball_right / shown > 0.95
