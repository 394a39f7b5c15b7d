"""What acts while episodes are collected: chance, a trained agent, or now one and now the other."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from worldflow.actions import ActionSpec
from worldflow.envs.policy_config import PolicyConfig
from worldflow.errors import ConfigError

# What makes an `Agent` of a path and an algorithm. By name, the only one of its kind in envs/:
# agents/ imports envs/ and not the other way round, and Stable-Baselines3 takes seconds to import.
AGENT_LOADER = "worldflow.agents.player:load_player"


class Agent(Protocol):
    """What collecting must know of a trained agent."""

    sha256: str
    """Digest of the file of its weights."""
    action_space: Any
    """Gymnasium's space of its actions."""
    frame_shape: tuple[int, int, int]
    """(H, W, 3) of one frame."""
    frame_stack: int
    """Observations that it sees at once."""

    def see(self, frame: np.ndarray) -> np.ndarray:
        """What it observes, (..., C), of a frame (H, W, 3) uint8."""

    def act(self, stacked: np.ndarray) -> np.ndarray:
        """The most probable action on its last observations (..., C * frame_stack)."""


class Policy(Protocol):
    """Acts through one episode at a time."""

    def begin(self, generator: np.random.Generator) -> None:
        """Start an episode; all chance comes from its generator."""

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The action on a frame (H, W, 3) uint8, of the action spec's shape and dtype."""


class FrameStack:
    """The last k observations of each row along the channels, the newest last, zeros before them.

    The same as Stable-Baselines3's `VecFrameStack`, with which agents are trained, but rows can be
    left alone. The rule holds in the dream and in reality alike: also the first observation of a
    dream, which has a past in its starting context, shows one frame (or its latents) and zeros.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._stacked: np.ndarray | None = None

    def push(self, observations: np.ndarray, moved: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """Add (B, ..., C) observations to rows that `moved` or are `fresh` (begin an episode).

        Returns:
            (B, ..., C * k) of the same dtype, a copy.
        """
        channels = observations.shape[-1]
        if self._stacked is None:
            shape = (*observations.shape[:-1], channels * self._size)
            self._stacked = np.zeros(shape, observations.dtype)
        past = self._stacked[..., channels:]
        pushed = np.concatenate([past, observations], axis=-1)
        started = np.concatenate([np.zeros_like(past), observations], axis=-1)
        self._stacked[moved] = pushed[moved]
        self._stacked[fresh] = started[fresh]
        return self._stacked.copy()


def draw_action(spec: ActionSpec, generator: np.random.Generator) -> np.ndarray:
    """A uniformly random action, of the spec's shape and dtype."""
    if spec.kind == "box":
        return generator.uniform(spec.low, spec.high).astype(spec.dtype)
    return np.asarray(generator.integers(max(spec.n, 1)), dtype=spec.dtype)


class RandomPolicy:
    """Random actions, each repeated with probability `sticky` at every step.

    Args:
        spec: actions of the environment.
        sticky: probability of repeating the last action.
        weights: of drawing each discrete action, relative to the others; None: all alike.

    Raises:
        ConfigError: there are weights, but not one for each of the discrete actions.
    """

    def __init__(self, spec: ActionSpec, sticky: float, weights: list[float] | None = None) -> None:
        if weights is not None and (spec.kind != "discrete" or len(weights) != spec.n):
            raise ConfigError(
                f"policy.weights={weights} has {len(weights)} numbers and belongs to discrete "
                f"actions, one for each; the source takes {spec}"
            )
        self.spec = spec
        self.sticky = sticky
        self._probabilities: np.ndarray | None = None
        if weights is not None:
            self._probabilities = np.asarray(weights, np.float64) / sum(weights)

    def begin(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._last: np.ndarray | None = None

    def act(self, frame: np.ndarray) -> np.ndarray:
        if self._last is None or self._generator.random() >= self.sticky:
            self._last = self._draw()
        return self._last

    def _draw(self) -> np.ndarray:
        if self._probabilities is None:
            return draw_action(self.spec, self._generator)
        drawn = self._generator.choice(self.spec.n, p=self._probabilities)
        return np.asarray(drawn, dtype=self.spec.dtype)


class AgentPolicy:
    """A trained agent's most probable actions on what it saw last.

    Args:
        agent: see `load_agent`.
        spec: actions of the environment it is to act in.
        frame_shape: (H, W, 3), frames of that environment.

    Raises:
        ConfigError: the agent has other actions, or sees frames of another size.
    """

    def __init__(self, agent: Agent, spec: ActionSpec, frame_shape: tuple[int, ...]) -> None:
        space = agent.action_space
        if space.shape != spec.shape or (spec.kind == "discrete" and space.n != spec.n):
            raise ConfigError(f"policy.agent acts in {space}, the source takes {spec}")
        if agent.frame_shape != tuple(frame_shape):
            raise ConfigError(
                f"policy.agent sees frames {agent.frame_shape}, the source gives {frame_shape}; "
                "set source.frame_size"
            )
        self._agent = agent
        self.spec = spec

    def begin(self, generator: np.random.Generator) -> None:
        self._stack = FrameStack(self._agent.frame_stack)
        self._fresh = True

    def act(self, frame: np.ndarray) -> np.ndarray:
        fresh = np.array([self._fresh])
        stacked = self._stack.push(self._agent.see(frame)[None], ~fresh, fresh)[0]
        self._fresh = False
        action = self._agent.act(stacked)
        return np.asarray(action, dtype=self.spec.dtype).reshape(self.spec.shape)


class MixturePolicy:
    """Plays each episode with `first` (with the given probability) or with `second`."""

    def __init__(self, first: Policy, second: Policy, probability: float) -> None:
        self.first = first
        self.second = second
        self.probability = probability

    def begin(self, generator: np.random.Generator) -> None:
        self.acting = self.first if generator.random() < self.probability else self.second
        self.acting.begin(generator)

    def act(self, frame: np.ndarray) -> np.ndarray:
        return self.acting.act(frame)


def load_agent(config: PolicyConfig) -> Agent | None:
    """The agent of a config, on the CPU; None where chance alone acts.

    Raises:
        ConfigError: there is no such agent, or it sees neither colour frames nor a world's latents.
    """
    if config.agent is None:
        return None
    module, name = AGENT_LOADER.split(":")
    agent: Agent = getattr(importlib.import_module(module), name)(config.agent, config.algorithm)
    return agent


def make_policy(
    config: PolicyConfig, spec: ActionSpec, frame_shape: tuple[int, ...], agent: Agent | None
) -> Policy:
    """The policy of a config.

    Args:
        config: what acts.
        spec: actions of the environment.
        frame_shape: (H, W, 3), its frames.
        agent: what `load_agent` gives for the config.

    Raises:
        ConfigError: the agent or the weights do not fit the environment.
    """
    chance = RandomPolicy(spec, config.sticky, config.weights)
    if agent is None:
        return chance
    acting = AgentPolicy(agent, spec, frame_shape)
    if config.kind == "agent":
        return acting
    return MixturePolicy(acting, chance, config.agent_probability)


def describe_policy(config: PolicyConfig, agent: Agent | None) -> dict[str, Any]:
    """The settings that shape the data, JSON-able, with the digest of the agent's weights."""
    if agent is None:
        found: dict[str, Any] = {"kind": config.kind, "sticky": config.sticky}
    else:
        found = {**asdict(config), "agent_sha256": agent.sha256}
    # named only where given: folders that were begun before there were weights can be continued
    found.pop("weights", None)
    return found if config.weights is None else {**found, "weights": list(config.weights)}
