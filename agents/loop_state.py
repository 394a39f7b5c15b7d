"""How far a loop came: `loop.json`, written after each stage, whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from worldflow.agents.algorithms import AgentConfig
from worldflow.agents.loop_config import TrainLoopConfig
from worldflow.data.metadata import write_atomically
from worldflow.envs.sources import SourceConfig
from worldflow.errors import ConfigError, DataError
from worldflow.saved_config import differences

STATE = "loop.json"
VERSION = 1
# In this order, in each round. What one needs of the round before is there when it begins.
STAGES = ("explore", "collect", "world", "agent", "evaluate")


@dataclass
class Round:
    """What a round has done so far.

    Attributes:
        episodes: real episodes recorded.
        steps: real steps in them.
        mean_return: of these episodes, whoever played them.
        imagined_steps: that agents learned from.
        judging_steps: real steps of the evaluation.
    """

    episodes: int = 0
    steps: int = 0
    mean_return: float | None = None
    imagined_steps: int = 0
    judging_steps: int = 0


@dataclass
class LoopState:
    """What a loop has done so far.

    Attributes:
        settings: under which it runs, see `TrainLoopConfig.settings`.
        stage: of `STAGES`, that comes next, in the last of the rounds.
        rounds: all that began.
        baseline_steps: real steps of judging chance.
        world: folder of the newest world, relative to the loop's.
        agent: of the newest judged agent.
        explorer: of the newest explorer, where there is one.
    """

    settings: dict[str, Any]
    stage: str = STAGES[0]
    rounds: list[Round] = field(default_factory=lambda: [Round()])
    baseline_steps: int | None = None
    world: str | None = None
    agent: str | None = None
    explorer: str | None = None

    @classmethod
    def open(cls, folder: Path, config: TrainLoopConfig) -> LoopState:
        """The state of the loop in a folder; that of a new one where there is none.

        Raises:
            ConfigError: it was begun with other settings.
            DataError: its file is damaged.
        """
        wanted: dict[str, Any] = json.loads(json.dumps(config.settings()))
        path = folder / STATE
        if not path.exists():
            return cls(wanted)
        try:
            values = json.loads(path.read_text())
            version = values.pop("version")
            rounds = [Round(**entry) for entry in values.pop("rounds")]
            state = cls(rounds=rounds, **values)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}): begin anew in another out=") from error
        if version != VERSION or state.stage not in STAGES:
            raise DataError(f"{path} is of another worldflow: begin anew in another out=")
        usual = SourceConfig(config.source.env_id), AgentConfig(config.agent.algorithm)
        defaults = TrainLoopConfig(usual[0], agent=usual[1]).settings()
        for name, (old, new) in differences(state.settings, wanted, defaults).items():
            raise ConfigError(
                f"{folder} was begun with {name}={old}, not {new}: continue it with the same "
                "settings, or begin anew in another out="
            )
        return state

    def save(self, folder: Path) -> None:
        """Write it."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"version": VERSION} | asdict(self), indent=2) + "\n"
        write_atomically(folder / STATE, text.encode())

    def advance(self) -> None:
        """The stage is done; the next one comes."""
        following = STAGES.index(self.stage) + 1
        if following == len(STAGES):
            self.rounds.append(Round())
        self.stage = STAGES[following % len(STAGES)]

    @property
    def number(self) -> int:
        """Of the round, from 0 on."""
        return len(self.rounds) - 1

    @property
    def current(self) -> Round:
        """The round that the stage belongs to."""
        return self.rounds[-1]

    @property
    def real_steps(self) -> int:
        """That the world may learn from, of all rounds."""
        return sum(entry.steps for entry in self.rounds)

    @property
    def episodes(self) -> int:
        """In which these were taken."""
        return sum(entry.episodes for entry in self.rounds)

    @property
    def imagined_steps(self) -> int:
        """That agents learned from, of all rounds."""
        return sum(entry.imagined_steps for entry in self.rounds)

    @property
    def judging_steps(self) -> int:
        """Real steps of all evaluations."""
        judged = sum(entry.judging_steps for entry in self.rounds)
        return judged + (self.baseline_steps or 0)
