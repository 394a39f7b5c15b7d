"""What novelty says of the next frame where an agent is: in the real game, and in a dream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ends.play import Play
from worldflow.envs.imagination import Imagination
from worldflow.envs.policies import FrameStack
from worldflow.randomness import normal
from worldflow.scoring import dreamed_scores
from worldflow.world_model import WorldModel

AT_ONCE = 32  # episodes that are read together


@torch.no_grad()
def novelty_of_steps(world: WorldModel, play: Play, generator: torch.Generator) -> Tensor:
    """Novelty of the frame that a dream would show next, from each real past, (steps,).

    Args:
        world: that dreams; in eval mode, calibrated.
        play: real episodes.
        generator: of the dreamed frames.

    Returns:
        episode after episode, as `ends.head.probabilities`.
    """
    flow = world.flow
    noisy = play.noisy.split(play.lengths.tolist())
    condition = play.condition.split(play.lengths.tolist())
    found: list[Tensor] = [torch.zeros(0)] * len(noisy)
    for some in play.lengths.argsort().split(AT_ONCE):  # those of like length together
        episodes = some.tolist()
        seen, led = (
            pad_sequence([x[e].float() for e in episodes], True) for x in (noisy, condition)
        )
        state, columns = flow.empty_state(len(episodes)), []
        for t in range(seen.shape[1]):
            if t:
                z = normal(generator, len(episodes), (world.tokens, world.channels), like=seen)
                chance = flow.draw_chance(generator, z)
                _, drawn, _ = flow.step(state, z, led[:, t], chance=chance)
                columns.append(dreamed_scores(world, drawn).novelty)
            state, _ = flow.observe(state, seen[:, t], led[:, t])
        for row, e in enumerate(episodes):
            found[e] = torch.stack(columns)[: len(noisy[e]) - 1, row]
    return torch.cat(found)


@dataclass(frozen=True)
class Dreamed:
    """Steps of dreams.

    Attributes:
        novelty: of their frames, (steps,).
        ends: chances of the end, (steps,).
    """

    novelty: np.ndarray
    ends: np.ndarray


def dreamed_steps(
    world: WorldModel,
    model: BaseAlgorithm,
    frame_stack: int,
    horizon: int,
    rows: int,
    steps: int,
    seed: int,
) -> Dreamed:
    """About `steps` steps of dreams in which an agent takes its most probable action.

    Args:
        world: that dreams.
        model: an agent on its latents.
        frame_stack: latents of so many frames are seen at once.
        horizon: steps after which a dream is cut.
        rows: dreams side by side.
        steps: over all rows.
        seed: of the dreams.
    """
    imagination = Imagination(world, rows, horizon, observation="latents")
    stack, fresh = FrameStack(frame_stack), np.ones(rows, np.bool_)
    seen = imagination.reset(seeds=[seed + row for row in range(rows)]).observations
    novelty, ends = [], []
    for _ in range(steps // rows):
        actions, _ = model.predict(stack.push(seen, ~fresh, fresh), deterministic=True)
        moved = imagination.step(actions)
        novelty.append(moved.scores["novelty"])
        ends.append(moved.scores["termination_probability"])
        seen, fresh = moved.observations, moved.terminated | moved.truncated
        if fresh.any():
            seen = imagination.reset(fresh).observations
    return Dreamed(np.concatenate(novelty), np.concatenate(ends))
