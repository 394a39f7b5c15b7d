"""The same agents in the dream and in the real game: do better dreams mean better play?"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.utils import set_random_seed

from worldflow.actions import ActionSpec
from worldflow.agents.checkpoints import checkpoints
from worldflow.agents.evaluate import check_fit, check_world
from worldflow.agents.play import AgentPolicy, Batch, DreamBatch, Played, Policy, play_episodes
from worldflow.agents.reality import make_real, source_of
from worldflow.agents.saved import AgentCard, load_weights
from worldflow.agents.seeds import episode_seed
from worldflow.envs.imagination import Imagination
from worldflow.envs.policies import draw_action
from worldflow.envs.sources import make_source
from worldflow.envs.spaces import observation_space
from worldflow.errors import ConfigError
from worldflow.evaluation.association import interval, pearson, spearman
from worldflow.metrics import bootstrap
from worldflow.world_model import WorldModel


@dataclass
class CompareConfig:
    """Whose returns are compared.

    Attributes:
        agents: folders that `worldflow train-agent` wrote; their checkpoints play too.
        checkpoints: of each agent, at most, evenly spaced from the first to the last.
        sticky: random policies, by the probability of repeating the last action; 1 holds the first
            action to the end.
        episodes: of each policy, in the dream and in reality.
        num_envs: episodes side by side.
        horizon: dreamed steps after which an episode is cut, fewer where the real game declares a
            limit that is less. A real one is cut at the same frame, `context - 1` steps later, as a
            dream begins after the world's context.
        deterministic: agents take their most probable action.
    """

    agents: list[str] = field(default_factory=list)
    checkpoints: int = 5
    sticky: list[float] = field(default_factory=lambda: [0.0, 0.5, 0.9, 1.0])
    episodes: int = 64
    num_envs: int = 16
    horizon: int = 1000
    deterministic: bool = True

    def __post_init__(self) -> None:
        for name in ("checkpoints", "episodes", "num_envs", "horizon"):
            if getattr(self, name) < 1:
                raise ConfigError(f"compare.{name} is {getattr(self, name)}; it must be at least 1")
        if len(set(self.agents)) < len(self.agents):
            raise ConfigError(f"compare.agents={self.agents} names a folder twice")
        if not all(0.0 <= share <= 1.0 for share in self.sticky):
            raise ConfigError(f"compare.sticky={self.sticky} holds probabilities, 0 to 1")


@dataclass(frozen=True)
class Candidate:
    """A policy, and how it sees.

    Attributes:
        name: for people.
        policy: who acts.
        frame_stack: observations that it sees at once.
        observation: "frames" or "latents".
    """

    name: str
    policy: Policy
    frame_stack: int = 1
    observation: str = "frames"


class StickyPolicy:
    """Random actions that are repeated with some probability, from each row's own generator."""

    def __init__(self, spec: ActionSpec, sticky: float) -> None:
        self._spec, self._sticky = spec, sticky
        self._rows: list[tuple[np.random.Generator, np.ndarray] | None] = []

    def __call__(
        self, observations: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> np.ndarray:
        """See `worldflow.agents.play.Policy`; a row with another generator begins an episode."""
        self._rows += [None] * (len(generators) - len(self._rows))
        for row, generator in enumerate(generators):
            last = self._rows[row]
            fresh = last is None or last[0] is not generator
            if fresh or generator.random() >= self._sticky:
                self._rows[row] = (generator, draw_action(self._spec, generator))
        return np.stack([row[1] for row in self._rows if row is not None])


def candidates(config: CompareConfig, world: WorldModel, path: str) -> list[Candidate]:
    """The policies of a config.

    Args:
        config: who.
        world: in which they shall play.
        path: its name or folder.

    Raises:
        ConfigError: an agent is missing or does not fit the world.
    """
    found = [
        Candidate(
            "random" if share == 0 else f"sticky {share:g}", StickyPolicy(world.action_spec, share)
        )
        for share in config.sticky
    ]
    names = [Path(folder).name for folder in config.agents]
    for folder, name in zip(config.agents, names, strict=True):
        label = name if names.count(name) == 1 else folder
        card = AgentCard.load(Path(folder))
        check_world(card, folder, path)
        files = checkpoints(folder)
        if not files:
            raise ConfigError(f"{folder} holds no checkpoints: train the agent first")
        picks = np.unique(np.linspace(0, len(files) - 1, config.checkpoints).round().astype(int))
        for file in (files[pick] for pick in picks):
            model = load_weights(card.agent.algorithm, file)
            space = observation_space(world, card.agent.observation)
            check_fit(model, card, space, world.action_spec)
            policy = AgentPolicy(model, config.deterministic)
            said = f"{label}, {int(file.stem)} steps"
            found.append(Candidate(said, policy, card.agent.frame_stack, card.agent.observation))
    return found


def compare(
    config: CompareConfig, world: WorldModel, path: str, heat: float, seed: int, progress: bool
) -> dict[str, Any]:
    """Play every policy in the dream and in reality, on the same seeds.

    Args:
        config: who, and how long.
        world: with both heads and contexts.
        path: its name or folder.
        heat: factor on the noise of dreamed frames.
        seed: of the episodes.
        progress: show progress bars.

    Returns:
        see `comparison_figures`; `horizon`: dreamed steps after which episodes were cut.

    Raises:
        ConfigError: an agent does not fit the world, or there is no real game, or it ends its
            episodes before a dream could begin.
    """
    rows = min(config.num_envs, config.episodes)
    horizon = horizon_within(config.horizon, world)
    limit = horizon + world.config.context - 1
    places: dict[tuple[str, str], Batch] = {}
    played: dict[str, dict[str, Played]] = {}
    with contextlib.ExitStack() as stack:
        for who in candidates(config, world, path):
            played[who.name] = {}
            for place in ("dream", "real"):
                key = (place, who.observation)
                if key not in places:
                    batch = (
                        DreamBatch(Imagination(world, rows, horizon, heat, who.observation))
                        if place == "dream"
                        else make_real(world, rows, who.observation, limit=limit)
                    )
                    places[key] = stack.enter_context(contextlib.closing(batch))
                set_random_seed(episode_seed(seed, config.episodes))  # for agents that draw
                label = f"{who.name}, {place}" if progress else None
                played[who.name][place] = play_episodes(
                    places[key], who.policy, config.episodes, seed, who.frame_stack, None, label
                )
    found = comparison_figures(
        {name: (places["dream"].returns, places["real"].returns) for name, places in played.items()}
    )
    return {"horizon": horizon, **found}


def horizon_within(horizon: int, world: WorldModel) -> int:
    """Dreamed steps that a real episode can have too.

    Args:
        horizon: at most.
        world: learned from a real game, which may declare a limit of its own.

    Raises:
        ConfigError: by that limit an episode is over before a dream could begin.
    """
    source = source_of(world)
    with contextlib.closing(make_source(source)) as env:
        limit = env.limit
    if limit is None:
        return horizon
    if (possible := limit - world.config.context + 1) < 1:
        raise ConfigError(
            f"{source.env_id} truncates its episodes after {limit} steps, and a dream begins after "
            f"{world.config.context} frames: nothing can be compared"
        )
    return min(horizon, possible)


def comparison_figures(returns: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """How mean returns in dream and reality go together over agents.

    Args:
        returns: name to returns of its episodes, dreamed (N,) and real (N,).

    Returns:
        JSON-able. `agents`: both means of each, with intervals over episodes. `pearson` and
        `spearman` of the means over agents; their intervals resample the episodes of each agent,
        and are not about other agents. None where the means do not vary or there are fewer than
        three agents.
    """
    agents = [
        {
            "name": name,
            "dream": bootstrap(dreamed).to_dict(),
            "real": bootstrap(real).to_dict(),
        }
        for name, (dreamed, real) in returns.items()
    ]
    figures: dict[str, Any] = {"agents": agents, "pearson": None, "spearman": None}
    if len(returns) < 3:
        return figures
    dreams, reals = (np.stack([pair[i] for pair in returns.values()]) for i in (0, 1))
    episodes = dreams.shape[1]
    for name, measure in (("pearson", pearson), ("spearman", spearman)):

        def statistic(rows: np.ndarray, measure: Any = measure) -> float:
            # the same resampled episodes for all agents, as they play on the same seeds
            return float(measure(dreams[:, rows].mean(axis=1), reals[:, rows].mean(axis=1)))

        figures[name] = interval(statistic, episodes)
    return figures
