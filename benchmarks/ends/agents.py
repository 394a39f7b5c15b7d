"""Agents on a world's latents, as they play the real game."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from ends.play import Play, RealGame
from worldflow.agents.saved import AgentCard, knows_latents, load_agent
from worldflow.errors import ConfigError
from worldflow.world_model import WorldModel


def played(
    world: WorldModel, name: str, agents: Sequence[str], rows: int, steps: int, seed: int
) -> Iterator[tuple[str, BaseAlgorithm, AgentCard, Play]]:
    """Each agent, its card and its play of the real game, its most probable action.

    Args:
        world: encodes the frames.
        name: of the world, or its folder.
        agents: folders.
        rows: games side by side.
        steps: real steps of each.
        seed: of the episodes.

    Raises:
        ConfigError: an agent sees something else than the world's latents.
    """
    for folder in agents:
        model, card = load_agent(folder, "cpu")
        if card.agent.observation != "latents" or not knows_latents(card, name):
            raise ConfigError(f"agents: {folder} does not see latents of world={name}")
        with contextlib.closing(RealGame(world, rows, card.agent.frame_stack)) as game:
            play = game.play(
                lambda seen, model=model: model.predict(seen, deterministic=True)[0],
                steps,
                np.random.SeedSequence(seed),
            )
        yield folder, model, card, play
