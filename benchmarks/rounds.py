"""An agent learns in the dream of a game, and its world from the agent's play where games end.

    python benchmarks/rounds.py world=takecover out=runs/rounds \
        train='[agent=ppo_latents,world.horizon=522,world.expected_ends=200]'

What an agent of a dream exploits first is the head that draws the ends of episodes. Here it is not
to find the same error for long: in each round the agent learns in the dream for `dream_steps`,
plays `real_steps` in the real game (half of the rows its most probable action, the others draw),
and the head learns on from the play of all rounds so far. The agent itself learns in the dream
alone. Of the world nothing else changes; its head must read the episode
(`termination_reads=episode`).

`out` has `world` (with the head of the last round), `agent` (for `worldflow evaluate-agent`) and
`rounds/` with what each round made. The same command continues a run that was killed, from the last
whole round, to the same bits. Settings: `Rounds`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ends.head import HeadTraining, head_of, log_loss, probabilities, teach
from ends.play import Choose, Play, RealGame
from omegaconf import MISSING
from safetensors.torch import load_file, save
from stable_baselines3.common.base_class import BaseAlgorithm
from timing import machine, note, print_table, read_settings

from worldflow.agents.algorithms import build
from worldflow.agents.checkpoints import last_checkpoint, restore, save_checkpoint
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.locks import LOCK, held
from worldflow.agents.places import Places
from worldflow.agents.saved import WEIGHTS, AgentCard, world_digest
from worldflow.agents.seeds import loop_seed
from worldflow.agents.train import TrainAgentConfig
from worldflow.config import load_config
from worldflow.data.metadata import write_atomically
from worldflow.envs.policies import draw_action
from worldflow.errors import ConfigError, WorldflowError
from worldflow.saved_config import differences
from worldflow.storage import load_world, save_world

DREAM, REAL, HEAD = 0, 1, 2  # roles, for seeds
DONE = "round.json"  # written last: without it a round is made again
# not what needs text, which real play is not told
DREAM_SETTINGS = {f.name for f in fields(DreamConfig)} - {"path", "prompt", "guidance"}
NOT_OURS = {"agent.hyperparameters.anneal", "agent.hyperparameters.anneal_to"}


@dataclass
class Rounds:
    """Settings.

    Attributes:
        world: a world learned from a real game, whose head of the end reads the episode.
        out: folder of all that is made.
        rounds: of dreaming and playing.
        dream_steps: steps of the dream that the agent learns from in a round.
        real_steps: real steps that it plays in a round.
        first_steps: real steps of chance before.
        real_envs: games side by side.
        head: how the head learns.
        train: settings of `worldflow train-agent`: `agent=`, `agent.`, and of `world.` those of the
            dream. The learning rate falls in a line over all rounds.
        seed: of all.

    Raises:
        ConfigError: a number is too small, or `train` has settings that nothing here heeds.
    """

    world: str = MISSING
    out: str = MISSING
    rounds: int = 27
    dream_steps: int = 16_384
    real_steps: int = 12_800
    first_steps: int = 25_600
    real_envs: int = 32
    head: HeadTraining = field(default_factory=HeadTraining)
    train: list[str] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rounds, self.dream_steps, self.real_envs) < 1:
            raise ConfigError("rounds, dream_steps and real_envs must be at least 1")
        if min(self.real_steps, self.first_steps) < self.real_envs:
            raise ConfigError("real_steps and first_steps must be one at least in each real env")
        for word in self.train:
            name = word.partition("=")[0]
            dreamed = name.startswith("world.") and name[6:] in DREAM_SETTINGS
            if name in NOT_OURS or not (dreamed or name == "agent" or name.startswith("agent.")):
                raise ConfigError(f"train: {name} is nothing that rounds can have; leave it out")


class Run:
    """Rounds in a folder.

    Args:
        config: its settings.

    Raises:
        ConfigError: they do not fit.
    """

    def __init__(self, config: Rounds) -> None:
        self.config, self.folder = config, Path(config.out)
        words = [*config.train, f"world={config.world}", "evaluation.every=0", "out=agent"]
        self.training = load_config("train_agent", TrainAgentConfig, words)
        if self.training.agent.observation != "latents":
            raise ConfigError("train: the agent must see latents: agent.observation=latents")
        if self.training.agent.algorithm not in ("ppo", "a2c"):
            raise ConfigError("train: a replay buffer does not outlast a round: use ppo or a2c")
        self.places = Places.of(self.training.world, None, False, "cpu")
        assert self.places.world is not None
        self.world = self.places.world
        self.head = head_of(self.world, config.world)
        self.plays: list[Play] = []

    def run(self) -> list[dict[str, Any]]:
        """Do what is left; a row of figures for each round.

        Raises:
            ConfigError: another process is at it, or the folder holds rounds of other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder / LOCK) as mine:
            if not mine:
                raise ConfigError(f"another process makes rounds in {self.folder}: wait for it")
            self._check_settings()
            return self._run()

    def _run(self) -> list[dict[str, Any]]:
        stack = self.training.agent.frame_stack
        rows = []
        with contextlib.closing(RealGame(self.world, self.config.real_envs, stack)) as game:
            for number in range(self.config.rounds + 1):
                folder = self._folder(number)
                if (folder / DONE).exists():
                    self.plays.append(Play.load(folder / "play.pt"))
                    self.head.load_state_dict(load_file(folder / "head.safetensors"))
                    rows.append(json.loads((folder / DONE).read_text()))
                else:
                    folder.mkdir(parents=True, exist_ok=True)
                    rows.append(self._round(number, folder, game))
                note(json.dumps(rows[-1]))
        self._finish()
        return rows

    def _round(self, number: int, folder: Path, game: RealGame) -> dict[str, Any]:
        started = time.monotonic()
        row: dict[str, Any] = {"round": number, "dream_steps": 0, "dreams_last": None}
        if number == 0:
            choose, steps = self._chance(), self.config.first_steps
        else:
            model, lived = self._dream(number, folder)
            row |= {"dream_steps": model.num_timesteps, "dreams_last": lived}
            choose, steps = _half_drawn(model), self.config.real_steps
        play = game.play(choose, steps, self._seed(number, REAL))
        foreseen = float(probabilities(self.head, play).sum())
        self.plays.append(play)
        teach(self.head, self.plays, self.config.head, self._seed(number, HEAD))
        loss = log_loss(self.head, self.plays)
        row |= {
            "real_steps": sum(each.steps for each in self.plays),
            "real_ends": int(play.ended.sum()),
            "foreseen": round(foreseen, 1),
            "real_lasts": round(play.steps / max(int(play.ended.sum()), 1), 1),
            "log_loss": None if loss is None else round(loss, 5),
            "seconds": round(time.monotonic() - started),
        }
        play.save(folder / "play.pt")
        weights = {name: value.contiguous() for name, value in self.head.state_dict().items()}
        write_atomically(folder / "head.safetensors", save(weights))
        write_atomically(folder / DONE, (json.dumps(row) + "\n").encode())
        return row

    def _dream(self, number: int, folder: Path) -> tuple[BaseAlgorithm, float | None]:
        """The agent after one more round of dreams, and how long these last (steps)."""
        agent, config = self.training.agent, self.config
        left = 1.0 - (number - 1) / config.rounds
        rate = left * agent.settings.learning_rate
        settings = replace(agent.settings, learning_rate=rate, anneal=False)
        seed = loop_seed(config.seed, number, DREAM)
        with contextlib.closing(self.places.training_env(agent)) as venv:
            model = build(replace(agent, hyperparameters=settings), venv, seed, "cpu", None)
            if number > 1:
                restore(model, self._agent(number - 1))
            model.learn(config.dream_steps, reset_num_timesteps=False)
            save_checkpoint(model, folder)
        assert model.ep_info_buffer is not None
        lengths = [episode["l"] for episode in model.ep_info_buffer]
        return model, round(float(np.mean(lengths)), 1) if lengths else None

    def _finish(self) -> None:
        """The world with its last head, and the agent beside it."""
        world = load_world(self.config.world)
        head_of(world, self.config.world).load_state_dict(self.head.state_dict())
        card = (
            f"The world `{self.config.world}`, its head of the end taught by "
            "benchmarks/rounds.py:\n\n"
        )
        save_world(world, self.folder / "world", card + json.dumps(asdict(self.config), indent=2))
        training, agent = self.training, self.folder / "agent"
        dream = replace(training.world, path=str(self.folder / "world"))
        saved = AgentCard.of(dream, training.agent, self.config.seed)
        last = self._agent(self.config.rounds)
        saved.steps = saved.kept_steps = int(last.stem)
        agent.mkdir(exist_ok=True)
        write_atomically(agent / WEIGHTS, last.read_bytes())
        saved.save(agent)

    def _chance(self) -> Choose:
        generator = np.random.default_rng(self._seed(0, DREAM))
        spec = self.world.action_spec
        return lambda seen: np.stack([draw_action(spec, generator) for _ in seen])

    def _seed(self, number: int, role: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(loop_seed(self.config.seed, number, role))

    def _folder(self, number: int) -> Path:
        return self.folder / "rounds" / f"{number:03d}"

    def _agent(self, number: int) -> Path:
        """The checkpoint of the agent that a round ended with."""
        found = last_checkpoint(self._folder(number))
        assert found is not None  # of a round that is done
        return found

    def _check_settings(self) -> None:
        """Refuse a folder of other rounds; where it and its world lie is no matter."""
        path, wanted = self.folder / "settings.json", asdict(self.config)
        del wanted["out"], wanted["train"]
        wanted |= {"agent": asdict(self.training.agent), "dream": asdict(self.training.world)}
        del wanted["dream"]["path"]
        wanted["world"] = world_digest(self.config.world)
        if path.exists():
            usual = {"dream": asdict(DreamConfig())}
            changed = differences(json.loads(path.read_text()), wanted, usual)
            if changed:
                raise ConfigError(
                    f"out={self.folder} was begun with other {', '.join(changed)}: use the same, "
                    "or another out="
                )
        write_atomically(path, json.dumps(wanted).encode())


def _half_drawn(model: BaseAlgorithm) -> Choose:
    """The most probable action in every other row, a drawn one in the others."""

    def choose(seen: np.ndarray) -> np.ndarray:
        surest, drawn = (model.predict(seen, deterministic=d)[0] for d in (True, False))
        surest[1::2] = drawn[1::2]
        return surest

    return choose


def main() -> None:
    """Read the settings, run, report."""
    torch.set_num_threads(1)
    try:
        config = read_settings(Rounds)
        run = Run(config)
        rows = run.run()
        print_table(f"rounds of {config.world}, {machine()['cpu']}", rows)
    except WorldflowError as error:
        sys.exit(f"benchmarks/rounds.py: {error}")


if __name__ == "__main__":
    main()
