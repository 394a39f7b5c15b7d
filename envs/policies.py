"""What acts while episodes are collected: chance, a trained agent, or now one and now the other."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from worldflow.actions import ActionSpec
from worldflow.errors import ConfigError

KINDS = ("random", "agent", "mixture")


@dataclass
class PolicyConfig:
    """What acts.

    Args:
        kind: "random", "agent" or "mixture" (one of the two for each whole episode).
        sticky: random: probability of repeating the last action instead of drawing a new one.
        agent: folder that `worldflow train-agent` wrote.
        agent_probability: mixture: probability that an episode is the agent's.

    Raises:
        ConfigError: an unknown kind, no probability, or a missing agent.
    """

    kind: str = "random"
    sticky: float = 0.5
    agent: str | None = None
    agent_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"policy.kind is {self.kind!r}; use one of {', '.join(KINDS)}")
        for name in ("sticky", "agent_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"policy.{name} is {getattr(self, name)}; it must be 0 to 1")
        if (self.kind == "random") != (self.agent is None):
            raise ConfigError(
                f"policy.kind={self.kind} with policy.agent={self.agent}: an agent's folder "
                "belongs to the kinds agent and mixture, and only to these"
            )


class Policy(Protocol):
    """Acts through one episode at a time."""

    def begin(self, generator: np.random.Generator) -> None:
        """Start an episode; all chance comes from its generator."""

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The action on a frame (H, W, 3) uint8, of the action spec's shape and dtype."""


class RandomPolicy:
    """Uniformly random actions, each repeated with probability `sticky` at every step."""

    def __init__(self, spec: ActionSpec, sticky: float) -> None:
        self.spec = spec
        self.sticky = sticky

    def begin(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._last: np.ndarray | None = None

    def act(self, frame: np.ndarray) -> np.ndarray:
        if self._last is None or self._generator.random() >= self.sticky:
            self._last = np.asarray(self._draw(), dtype=self.spec.dtype)
        return self._last

    def _draw(self) -> ArrayLike:
        if self.spec.kind == "box":
            return self._generator.uniform(self.spec.low, self.spec.high)
        return int(self._generator.integers(max(self.spec.n, 1)))


class AgentPolicy:
    """A trained agent's most probable actions, on the CPU.

    Args:
        folder: what `worldflow train-agent` wrote.
        spec: actions of the environment it is to act in.

    Raises:
        ConfigError: the folder holds no agent, or the agent has other actions.
    """

    def __init__(self, folder: str, spec: ActionSpec) -> None:
        # By name: Stable-Baselines3 takes seconds to import, and envs/ must not depend on agents/.
        saved = importlib.import_module("worldflow.agents.saved")
        self._model, card = saved.load_agent(folder, device="cpu")
        self._frames = int(card.agent.frame_stack)
        self.spec = spec
        space = self._model.action_space
        if space.shape != spec.shape or (spec.kind == "discrete" and space.n != spec.n):
            raise ConfigError(f"the agent in {folder} acts in {space}, the source takes {spec}")

    def begin(self, generator: np.random.Generator) -> None:
        self._stacked: np.ndarray | None = None

    def act(self, frame: np.ndarray) -> np.ndarray:
        if self._stacked is None:
            # Zeros before the first frame, as in Stable-Baselines3's VecFrameStack.
            self._stacked = np.zeros((*frame.shape[:2], 3 * self._frames), dtype=np.uint8)
        self._stacked = np.concatenate([self._stacked[..., 3:], frame], axis=-1)
        action, _ = self._model.predict(self._stacked, deterministic=True)
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


def make_policy(config: PolicyConfig, spec: ActionSpec) -> Policy:
    """The policy of a config.

    Raises:
        ConfigError: the agent cannot be loaded or does not fit the action spec.
    """
    chance = RandomPolicy(spec, config.sticky)
    if config.agent is None:
        return chance
    agent = AgentPolicy(config.agent, spec)
    if config.kind == "agent":
        return agent
    return MixturePolicy(agent, chance, config.agent_probability)


def describe_policy(config: PolicyConfig) -> dict[str, Any]:
    """The settings that shape the data, JSON-able, with the digest of the agent's weights."""
    if config.agent is None:
        return {"kind": config.kind, "sticky": config.sticky}
    saved = importlib.import_module("worldflow.agents.saved")
    weights = (Path(config.agent) / saved.WEIGHTS).read_bytes()
    return {**asdict(config), "agent_sha256": hashlib.sha256(weights).hexdigest()}
