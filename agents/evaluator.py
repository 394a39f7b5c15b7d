"""Judging an agent while it learns, without touching the chance that it learns by."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed

from worldflow.agents.algorithms import AgentConfig
from worldflow.agents.behaviour import Behaviour
from worldflow.agents.evaluation_config import EvaluationConfig
from worldflow.agents.places import Places
from worldflow.agents.play import AgentPolicy, Batch, DreamBatch, RealBatch, play_episodes
from worldflow.agents.reality import make_real
from worldflow.agents.seeds import episode_seed
from worldflow.agents.summary import Summary
from worldflow.errors import ConfigError

FIGURES = ("mean", "std", "low", "high", "episodes", "mean_length")


class Evaluator:
    """Plays the same seeded episodes with an agent again and again.

    Args:
        places: where it may play.
        agent: what the agent sees.
        config: how.

    Raises:
        ConfigError: it shall play where it cannot.
    """

    def __init__(self, places: Places, agent: AgentConfig, config: EvaluationConfig) -> None:
        self._config, self._frame_stack = config, agent.frame_stack
        self._spec = places.actions
        self._batches: dict[str, Batch] = {}
        self._real: RealBatch | None = None
        rows = min(config.num_envs, config.episodes)
        if config.dream and places.world is None:
            raise ConfigError("evaluation.dream=true needs a world to dream in: give world=...")
        if config.dream is not False and places.world is not None:
            self._batches["dream"] = DreamBatch(places.imagination(rows, agent.observation))
        if config.real and places.source is None:
            raise ConfigError(
                "evaluation.real=true needs a real environment, and this world was learned from "
                "none: set evaluation.real=false"
            )
        if config.real is not False and places.source is not None:
            try:
                self._real = make_real(places.world, rows, agent.observation, places.source)
            except ConfigError as error:
                if config.real:
                    raise
                print(f"no evaluation in the real environment: {error}", flush=True)
            else:
                self._batches["real"] = self._real
        if missing := sorted(config.deciding - set(self._batches)):
            self.close()
            raise ConfigError(
                f"evaluation.keep and evaluation.stop.by ask for returns of: {missing[0]}, where "
                "this training cannot play"
            )

    def evaluate(self, model: BaseAlgorithm) -> list[dict[str, Any]]:
        """One row a place, see `worldflow.agents.evaluation_history`; `steps` are the model's."""
        config = self._config
        rows = []
        for place, batch in self._batches.items():
            behaviour = Behaviour(model, self._spec)
            with own_randomness(model, episode_seed(config.seed, config.episodes)):
                played = play_episodes(
                    batch,
                    AgentPolicy(model, config.deterministic),
                    config.episodes,
                    config.seed,
                    self._frame_stack,
                    watch=behaviour.watch,
                )
            summary = vars(Summary.of(place, "agent", played))
            row = {"steps": model.num_timesteps, "place": place}
            row |= {name: summary[name] for name in FIGURES}
            rows.append(row | {"env_steps": int(played.lengths.sum())} | behaviour.summary())
        return rows

    def close(self) -> None:
        """Close the real environments."""
        if self._real is not None:
            self._real.close()


@contextlib.contextmanager
def own_randomness(model: BaseAlgorithm, seed: int) -> Iterator[None]:
    """Global generators of their own inside, those from before afterwards.

    So an agent learns the same whether and how often it is judged.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    sampler = model.action_space.np_random.bit_generator
    drawn = sampler.state
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        set_random_seed(seed, using_cuda=model.device.type == "cuda")
        model.action_space.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
            model.action_space.np_random.bit_generator.state = drawn
