"""The settings of `worldflow train-loop`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from omegaconf import MISSING

from worldflow.agents.algorithms import AgentConfig
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.evaluation_config import EvaluationConfig
from worldflow.config import flatten
from worldflow.envs.policies import PolicyConfig
from worldflow.envs.sources import SourceConfig
from worldflow.errors import ConfigError
from worldflow.heads.termination import EPISODE
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.settings import TrainingConfig
from worldflow.world_spec import WorldConfig

# What may differ when a loop goes on: how far it shall come, what is kept of it, and where it is
# computed, on which results depend by rounding alone.
OPEN = {"real_steps", "keep_rounds", "out", "device", "progress"}


@dataclass
class CollectionConfig:
    """How real steps are taken.

    Attributes:
        first_steps: real steps of round 0, by chance alone. All that the codec ever learns from.
        round_steps: real steps of each later round.
        agent_probability: share of the later rounds' episodes that the agent plays; chance plays
            the others.
        sticky: of chance, the probability of repeating the last action.
        weights: of chance, how often it draws each discrete action; null: all alike.
    """

    first_steps: int = 2_000
    round_steps: int = 1_000
    agent_probability: float = 0.7
    sticky: float = 0.5
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        if min(self.first_steps, self.round_steps) < 1:
            raise ConfigError(
                f"collection.first_steps={self.first_steps} and collection.round_steps="
                f"{self.round_steps} must be at least 1"
            )
        for name in ("agent_probability", "sticky"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise ConfigError(f"collection.{name} is {value}; it must be 0 to 1")

    def policy(self, agent: str | None) -> PolicyConfig:
        """What acts in a round; chance alone where there is no agent."""
        if agent is None:
            return PolicyConfig(sticky=self.sticky, weights=self.weights)
        return PolicyConfig(
            "mixture",
            self.sticky,
            self.weights,
            agent=agent,
            agent_probability=self.agent_probability,
        )


@dataclass
class FinetuneConfig:
    """How the world goes on learning in later rounds: as `training.flow`, but for this.

    Attributes:
        steps: updates a round.
        learning_rate: peak; null: that of `training.flow`.
        warmup: updates of linear warm-up.
    """

    steps: int = 600
    learning_rate: float | None = None
    warmup: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 0:
            raise ConfigError(
                f"finetune.steps={self.steps} must be at least 1, finetune.warmup={self.warmup} "
                "not negative"
            )

    def flow(self, training: FlowTraining) -> FlowTraining:
        """The settings of a later round's training."""
        rate = training.learning_rate if self.learning_rate is None else self.learning_rate
        return replace(training, steps=self.steps, warmup=self.warmup, learning_rate=rate)


@dataclass
class DreamSettings:
    """The dream that agents learn in; see `worldflow.agents.dreams.DreamConfig`.

    The explorer's has neither limit nor penalty, see `curious`.

    Attributes:
        horizon: steps after which an imagined episode is truncated.
        temperature: factor on the noise of imagined frames.
        novelty_window: novelty is that of so many last frames together.
        max_novelty: an imagined episode is truncated where novelty is larger; null: never for this.
        pessimism: reward lost for each standard deviation of novelty.
        expected_ends: what a state is worth, by which ends are felt before they come.
    """

    horizon: int = 1000
    temperature: float = 1.0
    novelty_window: int = 1
    max_novelty: float | None = None
    pessimism: float = 0.0
    expected_ends: float = 0.0

    def __post_init__(self) -> None:
        try:
            self.of(None)
        except ConfigError as error:  # the same numbers have another name there
            raise ConfigError(str(error).replace("world.", "dream.")) from error

    def of(self, world: str | None) -> DreamConfig:
        """The judged agent's dream of a world."""
        return DreamConfig(world, **asdict(self))

    def curious(self, world: str, bonus: float) -> DreamConfig:
        """The explorer's: neither limit nor penalty, which would keep it from where it shall go."""
        return DreamConfig(
            world,
            self.horizon,
            self.temperature,
            novelty_window=self.novelty_window,
            bonus=bonus,
            expected_ends=self.expected_ends,
        )


@dataclass
class ExplorerConfig:
    """A second agent, that collects in the first one's place.

    Attributes:
        bonus: reward for each standard deviation of novelty in its dream; 0: there is no explorer,
            and the judged agent collects.
        steps: imagined steps that make it of the judged agent, each round.
    """

    bonus: float = 0.0
    steps: int = 10_000

    def __post_init__(self) -> None:
        if not 0.0 <= self.bonus < float("inf") or self.steps < 1:
            raise ConfigError(
                f"explorer.bonus={self.bonus} must be at least 0 and finite, explorer.steps="
                f"{self.steps} at least 1"
            )


@dataclass
class JudgingConfig:
    """How the agent is judged at the end of each round: as `evaluation.` of `train-agent`.

    Attributes:
        episodes: in the dream and in the real environment each; the same ones in every round.
        seed: of those episodes.
        num_envs: episodes that run side by side.
        deterministic: the agent takes its most probable action; otherwise it draws one.
        dream: play in the world too.
    """

    episodes: int = 50
    seed: int = 20_000
    num_envs: int = 10
    deterministic: bool = True
    dream: bool = True

    def __post_init__(self) -> None:
        self.evaluation()

    def evaluation(self) -> EvaluationConfig:
        """For `worldflow.agents.evaluator.Evaluator`."""
        return EvaluationConfig(
            every=1,
            episodes=self.episodes,
            seed=self.seed,
            num_envs=self.num_envs,
            deterministic=self.deterministic,
            dream=self.dream,
            real=True,
        )


@dataclass
class TrainLoopConfig:
    """Settings of `worldflow train-loop`.

    Attributes:
        source: the real environment.
        real_steps: budget of real steps that the world learns from; the last episode is played to
            its end. Steps of judging are counted apart.
        collection: how they are taken.
        held_out: share of the episodes that the world is measured on and never learns from.
        world: what the world is built of.
        training: how the first world is trained, and later ones but for `finetune`.
        finetune: how later ones are.
        dream: what the agent learns in.
        agent: algorithm, network and what it sees: frames.
        first_agent_steps: imagined steps that the agent learns from in round 0.
        agent_steps: in each later round, from the weights of the round before.
        explorer: who collects.
        evaluation: how the agent is judged.
        keep_rounds: folders of so many last rounds are kept; null: all.
        out: folder of all that is made.
        seed: of the real episodes and of the agents; the world's is `training.seed`.
        device: where agents learn, their worlds dream and both are judged: "cpu", "cuda" or "auto".
            Worlds learn on a GPU where there is one.
        progress: show progress bars.
    """

    source: SourceConfig
    real_steps: int = 6_000
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    held_out: float = 0.1
    world: WorldConfig = field(default_factory=WorldConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    dream: DreamSettings = field(default_factory=DreamSettings)
    agent: AgentConfig = field(default_factory=AgentConfig)
    first_agent_steps: int = 20_000
    agent_steps: int = 10_000
    explorer: ExplorerConfig = field(default_factory=ExplorerConfig)
    evaluation: JudgingConfig = field(default_factory=JudgingConfig)
    keep_rounds: int | None = None
    out: str = MISSING
    seed: int = 0
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        least = {"real_steps": 1, "first_agent_steps": 1, "agent_steps": 1, "seed": 0}
        for name, minimum in least.items():
            if (value := getattr(self, name)) < minimum:
                raise ConfigError(f"{name} is {value}; it must be at least {minimum}")
        if self.keep_rounds is not None and self.keep_rounds < 1:
            raise ConfigError(f"keep_rounds is {self.keep_rounds}; it must be at least 1, or null")
        if not 0.0 < self.held_out <= 0.5:
            raise ConfigError(f"held_out is {self.held_out}; it must lie between 0 and 1/2")
        if self.training.is_joint:
            raise ConfigError(
                "training.codec_mode=joint trains the codec too, and a loop keeps that of its "
                "first round: use two-stage"
            )
        if self.agent.observation != "frames":
            raise ConfigError(
                f"agent.observation={self.agent.observation}: the agent is judged and collects on "
                "real frames, which a loop shows to agents on frames only: use frames"
            )
        if self.training.flow.part != "all":
            raise ConfigError(
                f"training.flow.part={self.training.flow.part}: a loop trains whole worlds; use all"
            )
        if self.world.heads.termination_reads == EPISODE:
            raise ConfigError(
                "world.heads.termination_reads=episode is for a head that is trained by itself, on "
                "whole episodes (training.flow.part=end); in a loop use frame or past"
            )
        if self.world.denoiser.lookahead:
            raise ConfigError(
                "world.denoiser.lookahead=1 cannot dream step by step, as agents need; use 0"
            )
        if False in (self.world.heads.reward, self.world.heads.termination):
            raise ConfigError(
                "world.heads.reward and world.heads.termination must not be false: an agent learns "
                "from what they predict"
            )

    def settings(self) -> dict[str, Any]:
        """What the results depend on, flat and JSON-able."""
        agent = replace(self.agent, hyperparameters=self.agent.settings)
        flat = flatten(asdict(replace(self, agent=agent)))
        return {name: value for name, value in flat.items() if name not in OPEN}
