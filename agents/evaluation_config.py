"""How an agent is judged while it learns: how often, where, what is kept and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from worldflow.errors import ConfigError

PLACES = ("dream", "real")
LAST = "last"


@dataclass
class StopConfig:
    """When a training ends before its last step.

    Attributes:
        by: whose mean return counts: "dream" or "real"; None: never.
        threshold: the training ends at the first evaluation that reaches it.
        patience: it ends after so many evaluations in a row without a new best return.
        min_delta: by how much a return must exceed the best one to be a new best.

    Raises:
        ConfigError: the settings contradict each other.
    """

    by: str | None = None
    threshold: float | None = None
    patience: int | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.by is not None and self.by not in PLACES:
            raise ConfigError(f"evaluation.stop.by is {self.by!r}; use dream, real or null")
        asked = self.threshold is not None or self.patience is not None
        if (self.by is not None) != asked:
            raise ConfigError(
                f"evaluation.stop.by={self.by} with threshold={self.threshold} and "
                f"patience={self.patience}: an early stop needs `by` and one of the two others"
            )
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"evaluation.stop.patience is {self.patience}; it must be at least 1")
        if self.min_delta < 0:
            raise ConfigError(f"evaluation.stop.min_delta is {self.min_delta}; at least 0, please")


@dataclass
class EvaluationConfig:
    """How an agent is judged while it learns.

    Attributes:
        every: steps between two evaluations; there is one more at the end. 0: none at all.
        episodes: of each evaluation, in each place. They are the same ones, by their seeds, in
            every evaluation of a training.
        seed: of those episodes; `worldflow evaluate-agent` plays others by default, so that what
            is kept here is not judged on what it was chosen by.
        num_envs: episodes that run side by side.
        deterministic: the agent takes its most probable action; otherwise it draws one.
        dream: play in the world; None: where there is one.
        real: play in the real environment; None: where it can be made. Its steps are counted in
            the curve, as a comparison by real steps needs.
        keep: what `agent.zip` holds at the end: the "last" weights, or those with the best mean
            return in the "dream" or in the "real" environment.
        stop: when the training ends early.

    Raises:
        ConfigError: a number is out of range, or something is decided by a place that is not
            played in.
    """

    every: int = 20_000
    episodes: int = 10
    seed: int = 20_000
    num_envs: int = 10
    deterministic: bool = True
    dream: bool | None = None
    real: bool | None = None
    keep: str = LAST
    stop: StopConfig = field(default_factory=StopConfig)

    def __post_init__(self) -> None:
        for name, least in (("every", 0), ("episodes", 1), ("num_envs", 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"evaluation.{name} is {value}; it must be at least {least}")
        if self.keep not in (LAST, *PLACES):
            raise ConfigError(f"evaluation.keep is {self.keep!r}; use last, dream or real")
        for place in self.deciding:
            if self.every == 0 or getattr(self, place) is False:
                raise ConfigError(
                    f"evaluation.keep={self.keep} and evaluation.stop.by={self.stop.by} need "
                    f"evaluations: evaluation.every={self.every} must be above 0 and "
                    f"evaluation.{place} not false"
                )

    @property
    def deciding(self) -> set[str]:
        """The places whose returns decide something."""
        return {place for place in (self.keep, self.stop.by) if place in PLACES}
