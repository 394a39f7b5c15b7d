"""The scores of one agent: returns over seeded episodes, in the dream and in the real game."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed

from worldflow.agents.algorithms import AgentConfig
from worldflow.agents.behaviour import Behaviour
from worldflow.agents.evaluation_config import PLACES
from worldflow.agents.places import Places
from worldflow.agents.play import (
    AgentPolicy,
    Batch,
    DreamBatch,
    Policy,
    RandomPolicy,
    play_episodes,
)
from worldflow.agents.reality import make_real
from worldflow.agents.seeds import episode_seed
from worldflow.agents.summary import Summary
from worldflow.errors import ConfigError


@dataclass(frozen=True)
class Scoring:
    """How agents are scored.

    Attributes:
        episodes: in each place.
        num_envs: of them side by side.
        seed: of the episodes.
        deterministic: the agent takes its most probable action; otherwise it draws one.
    """

    episodes: int
    num_envs: int
    seed: int
    deterministic: bool


def score(
    places: Places, agent: AgentConfig, model: BaseAlgorithm | None, config: Scoring
) -> dict[str, dict[str, Any]]:
    """A `Summary` for each place, as JSON, with what `Behaviour` says of the actions.

    Args:
        places: the world, the real game, and the dream's horizon and temperature.
        agent: what the agent sees.
        model: the agent; None: random play.
        config: how.

    Raises:
        ConfigError: the world was learned from no environment, or it cannot be made here.
    """
    if places.world is None or places.source is None:
        raise ConfigError("scores need a world that was learned from a real environment")
    rows = min(config.num_envs, config.episodes)
    found = {}
    for place in PLACES:
        batch: Batch
        if place == "dream":
            batch = DreamBatch(places.imagination(rows, agent.observation))
        else:
            batch = make_real(places.world, rows, agent.observation, places.source)
        set_random_seed(episode_seed(config.seed, config.episodes))  # of actions that are drawn
        policy: Policy = RandomPolicy(places.actions)
        behaviour = None
        if model is not None:
            policy = AgentPolicy(model, config.deterministic)
            behaviour = Behaviour(model, places.actions)
        with contextlib.closing(batch):
            played = play_episodes(
                batch,
                policy,
                config.episodes,
                config.seed,
                agent.frame_stack,
                watch=None if behaviour is None else behaviour.watch,
            )
        name = "random" if model is None else "agent"
        found[place] = vars(Summary.of(place, name, played))
        found[place] |= {} if behaviour is None else behaviour.summary()
    return found
