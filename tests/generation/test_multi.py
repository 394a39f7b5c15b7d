"""The shipped world of several games: its prompts choose the game and the side.

Judged without a probe: in Catch the ball alone is white, and only its sky is dark blue.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldflow.flow.guidance import Guidance
from worldflow.generation.dreaming import Request, dream_video
from worldflow.generation.inputs import no_actions
from worldflow.storage import load_world
from worldflow.text.encoder import embed, encoder_of
from worldflow.text.pretrained import MINILM_PACKAGE

EACH = 8


def test_prompts_choose_the_game_and_the_side() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip(MINILM_PACKAGE)
    world = load_world("multi")
    prompts = [f"catch, the ball falls on the {s} and is missed" for s in ("left", "right")]
    prompts.append("doom corridor, monsters shooting, the player keeps to the left")
    told = [prompt for prompt in prompts for _ in range(EACH)]
    actions, known = no_actions(world.action_spec, 4)
    request = Request(
        torch.zeros((len(told), 0, *world.frame_shape), dtype=torch.uint8),
        torch.from_numpy(np.stack([actions] * len(told))),
        torch.from_numpy(np.stack([known] * len(told))),
        embed(encoder_of(world.spec.text), told),
        Guidance(1.0, "text"),
        1.0,
    )
    frames = dream_video(world, request, torch.Generator().manual_seed(0)).frames.numpy()
    sky = np.abs(frames[:, 1, 16:40].astype(int) - (18, 22, 48)).sum(-1) < 40  # rows 2 to 4
    is_catch = sky.mean(axis=(1, 2)) > 0.8
    assert is_catch.tolist() == [True] * 2 * EACH + [False] * EACH
    white = (frames[: 2 * EACH, :, :48] > 180).all(-1).sum(axis=(1, 2))  # in each column
    left, right = white[:, :32].sum(1), white[:, 32:].sum(1)
    obeyed = np.r_[(left > right)[:EACH], (right > left)[EACH:]]
    assert obeyed.sum() >= 2 * EACH - 2
