"""The dream that an agent learns in: where it begins to be another game than the world's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from worldflow.envs.starts import Start
from worldflow.errors import ConfigError
from worldflow.flow.guidance import Guidance


def check_dream(
    horizon: int | None, temperature: float | None, guidance: float | None = None
) -> None:
    """Refuse what no dream can have; None is left to another setting.

    Raises:
        ConfigError: a horizon below 1, a negative temperature or a negative guidance.
    """
    if horizon is not None and horizon < 1:
        raise ConfigError(f"world.horizon={horizon} must be at least 1")
    if temperature is not None and temperature < 0:
        raise ConfigError(f"world.temperature={temperature} must not be negative")
    if guidance is not None and not 0.0 <= guidance < math.inf:
        raise ConfigError(f"world.guidance={guidance} must be finite and not negative")


@dataclass
class DreamConfig:
    """The world that an agent is trained in.

    What follows `guidance` changes the dream that the agent learns in: by novelty, to trust the
    world less or more (docs/novelty.md has the formulas), or by how ends are felt. An agent is
    judged in the dream without it.

    Attributes:
        path: a world's name or folder; None for an agent that knows none.
        horizon: steps after which an imagined episode is truncated. They count from the end of
            the starting context, so that a game of at most N steps is dreamed to its end with
            N - (context - 1) steps.
        temperature: factor on the noise of imagined frames.
        prompt: what the dreams are about, for worlds that learned from captions; their first frame
            is dreamed then. None: they begin with the world's contexts.
        guidance: of every frame towards the prompt.
        novelty_window: novelty is that of so many last frames together.
        max_novelty: an imagined episode is truncated where novelty is larger; None: never for this.
        pessimism: reward lost for each standard deviation of novelty (`PessimisticReward`).
        bonus: reward gained for each, up to `NOVELTY_LIMIT` of them (`NoveltyReward`).
        expected_ends: what a state is worth, in units of reward, by which the learner meets the
            probability of an end beside its draw; means do not change, see
            `worldflow.agents.rewards.ExpectedEnds`. 0: off.

    Raises:
        ConfigError: a number is out of range, or there are both a bonus and a penalty.
    """

    path: str | None = None
    horizon: int = 1000
    temperature: float = 1.0
    prompt: str | None = None
    guidance: float = 0.0
    novelty_window: int = 1
    max_novelty: float | None = None
    pessimism: float = 0.0
    bonus: float = 0.0
    expected_ends: float = 0.0

    def __post_init__(self) -> None:
        check_dream(self.horizon, self.temperature, self.guidance)
        if self.novelty_window < 1:
            raise ConfigError(f"world.novelty_window={self.novelty_window} must be at least 1")
        if self.max_novelty is not None and not self.max_novelty > 0.0:
            raise ConfigError(f"world.max_novelty={self.max_novelty} must be positive, or null")
        for name in ("pessimism", "bonus", "expected_ends"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"world.{name}={getattr(self, name)} must be at least 0 and finite"
                )
        if self.pessimism and self.bonus:
            raise ConfigError(
                f"world.pessimism={self.pessimism} punishes novelty and world.bonus={self.bonus} "
                "rewards it: set one of them"
            )

    @property
    def start(self) -> Start:
        """How its episodes begin."""
        return Start(prompt=self.prompt, guidance=Guidance(self.guidance))

    @property
    def uses_novelty(self) -> bool:
        """Whether novelty changes the dream that an agent learns in; it is judged without."""
        return (self.novelty_window, self.max_novelty, self.pessimism, self.bonus) != (
            1,
            None,
            0,
            0,
        )
