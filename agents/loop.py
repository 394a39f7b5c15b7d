"""`worldflow train-loop`: collect, learn the world, learn in its dream, be judged; and again."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from worldflow.agents.algorithms import check_actions
from worldflow.agents.demo import optimum
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.evaluation_config import EvaluationConfig
from worldflow.agents.locks import LOCK, held
from worldflow.agents.loop_config import TrainLoopConfig
from worldflow.agents.loop_curve import PAGE, RANDOM, Curve, write_page
from worldflow.agents.loop_judging import judge_agent, judge_random
from worldflow.agents.loop_state import STATE, LoopState
from worldflow.agents.saved import AgentCard
from worldflow.agents.seeds import loop_seed
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.opening import DataConfig
from worldflow.envs.collect import CollectConfig, metadata_of, record_episodes
from worldflow.envs.policies import load_agent as load_player
from worldflow.envs.policies import make_policy
from worldflow.envs.sources import make_source
from worldflow.errors import ConfigError
from worldflow.training.pretrain import PretrainConfig
from worldflow.training.pretrain import main as pretrain

DATA, ROUNDS = "data", "rounds"
AGENT, EXPLORER = 0, 1  # roles, for seeds
CHECKPOINT_STEPS = 10_000  # at most, between two checkpoints of an agent


def train_loop(config: TrainLoopConfig) -> Path:
    """Run the loop until its budget of real steps is spent; continue where it was killed.

    Returns:
        The loop's folder: `data/`, `rounds/<number>/` with `world/world` and `agent`, `loop.json`,
        `evaluations.jsonl`, `tensorboard/`, `report.html`.

    Raises:
        ConfigError: the environment cannot be made, the algorithm cannot take its actions, or the
            folder holds another loop, or another process runs it.
        DataError: the first round's episodes are too few to hold one out.
    """
    return Loop(config).run()


class Loop:
    """A loop and what it has done so far.

    Args:
        config: its settings; the environment is made once, to refuse early.

    Attributes:
        folder: of all that is made.
        state: how far it came.
    """

    def __init__(self, config: TrainLoopConfig) -> None:
        self.config, self.folder = config, Path(config.out)
        with contextlib.closing(make_source(config.source)) as env:
            check_actions(config.agent.algorithm, env.action_spec)
        self.state = LoopState.open(self.folder, config)
        self._stages = {
            "explore": self._explore,
            "collect": self._collect,
            "world": self._learn_world,
            "agent": self._learn_agent,
            "evaluate": self._evaluate,
        }

    def run(self) -> Path:
        """Do all that is left, and return the folder.

        Raises:
            ConfigError: another process runs this loop.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder / LOCK) as mine:
            if not mine:
                raise ConfigError(
                    f"another process runs the loop in {self.folder}: wait for its end, or choose "
                    "another out="
                )
            # again, since another process may have gone on with it until now
            self.state = LoopState.open(self.folder, self.config)
            self.state.save(self.folder)
            while not self.finished:
                self.run_stage()
        return self.folder

    @property
    def finished(self) -> bool:
        """Whether a round would begin that has no real steps left."""
        state = self.state
        begins = state.stage in ("explore", "collect") and state.current.steps == 0
        return begins and state.real_steps >= self.config.real_steps

    def run_stage(self) -> None:
        """Do what comes next, and note that it is done."""
        state, budget = self.state, self.config.real_steps
        if state.stage != "explore" or self._explores:
            print(
                f"[round {state.number}: {state.stage}] {state.real_steps} of {budget} real steps",
                flush=True,
            )
        self._stages[state.stage]()
        state.advance()
        state.save(self.folder)
        if state.stage == "explore":
            self._prune()

    @property
    def _explores(self) -> bool:
        return self.config.explorer.bonus > 0.0 and self.state.agent is not None

    def _place(self, name: str) -> Path:
        """A folder of the current round."""
        return self.folder / ROUNDS / f"{self.state.number:03d}" / name

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def _explore(self) -> None:
        """Make the agent of the round before curious, in the world of the round before.

        It belongs to the round that it collects for, so that none is made that never collects.
        """
        if not self._explores:
            return
        state, explorer = self.state, self.config.explorer
        assert state.world is not None and state.agent is not None
        dream = self.config.dream.curious(str(self.folder / state.world), explorer.bonus)
        out = self._train(dream, explorer.steps, "explorer", EXPLORER, self.folder / state.agent)
        state.explorer = self._name(out)

    def _collect(self) -> None:
        state, config = self.state, self.config
        collection = config.collection
        collector = state.explorer or state.agent
        wanted = collection.first_steps if state.number == 0 else collection.round_steps
        settings = CollectConfig(
            source=config.source,
            steps=min(wanted, config.real_steps - state.real_steps),
            seed=config.seed,
            out=str(self.folder / DATA),
            policy=collection.policy(None if collector is None else str(self.folder / collector)),
            progress=config.progress,
        )
        first = state.episodes
        with contextlib.closing(make_source(config.source)) as env:
            agent = load_player(settings.policy)
            policy = make_policy(settings.policy, env.action_spec, env.frame_shape, agent)
            how = {"loop": asdict(collection) | {"explorer": asdict(config.explorer)}}
            metadata = metadata_of(env, settings, how)
            writer = EpisodeWriter(self.folder / DATA, metadata)
            record_episodes(env, policy, settings, writer, first)
        dataset = EpisodeDataset(self.folder / DATA)
        returns = [float(dataset.steps_of(k).rewards.sum()) for k in range(first, len(dataset))]
        state.current.episodes = len(returns)
        state.current.steps = int((dataset.lengths[first:] - 1).sum())
        state.current.mean_return = float(np.mean(returns))

    def _learn_world(self) -> None:
        state, config = self.state, self.config
        training, initial = config.training, state.world
        if initial is not None:
            initial = str(self.folder / initial)
            training = replace(training, flow=config.finetune.flow(training.flow))
        settings = PretrainConfig(
            data=DataConfig(path=str(self.folder / DATA), held_out=config.held_out),
            world=config.world,
            initial_world=initial,
            training=training,
            growing=True,
            out=str(self._place("world")),
        )
        pretrain(settings)
        state.world = self._name(self._place("world") / "world")

    def _learn_agent(self) -> None:
        state, config = self.state, self.config
        assert state.world is not None
        steps = config.first_agent_steps if state.number == 0 else config.agent_steps
        initial = None if state.agent is None else self.folder / state.agent
        dream = config.dream.of(str(self.folder / state.world))
        state.agent = self._name(self._train(dream, steps, "agent", AGENT, initial))

    def _train(
        self, dream: DreamConfig, steps: int, name: str, role: int, initial: Path | None
    ) -> Path:
        """Train an agent of this round, and count what it learned from."""
        out = train_agent(
            TrainAgentConfig(
                world=dream,
                agent=self.config.agent,
                initial_agent=None if initial is None else str(initial),
                total_steps=steps,
                evaluation=EvaluationConfig(every=0),
                out=str(self._place(name)),
                seed=loop_seed(self.config.seed, self.state.number, role),
                # between two rollouts, so that one at least lies between two of them
                checkpoint_steps=max(min(CHECKPOINT_STEPS, steps // 4), 1),
                device=self.config.device,
                world_device=self.config.device,
                progress=self.config.progress,
            )
        )
        self.state.current.imagined_steps += AgentCard.load(out).steps
        return out

    def _evaluate(self) -> None:
        state, config, curve = self.state, self.config, Curve(self.folder)
        if state.baseline_steps is None:
            row = judge_random(config)
            state.baseline_steps = row["env_steps"]
            stamp = {"round": RANDOM, "real_steps": 0, "imagined_steps": 0}
            curve.replace(RANDOM, [stamp | {"judging_steps": state.judging_steps} | row])
            state.save(self.folder)
        assert state.world is not None and state.agent is not None
        rows = judge_agent(config, self.folder / state.world, self.folder / state.agent)
        state.current.judging_steps = sum(r["env_steps"] for r in rows if r["place"] == "real")
        stamp = {
            "round": state.number,
            "real_steps": state.real_steps,
            "imagined_steps": state.imagined_steps,
            "judging_steps": state.judging_steps,
        }
        curve.replace(state.number, [stamp | row for row in rows])
        best = optimum(asdict(config.source))
        write_page(self.folder, curve, state.rounds, best, config.real_steps)
        last = curve.of("real")[-1]
        print(
            f"real return {last['mean']:.3f} [{last['low']:.3f}, {last['high']:.3f}] after "
            f"{state.real_steps} real steps (random {curve.random['mean']:.3f})",
            flush=True,
        )

    def _prune(self) -> None:
        """Delete the rounds that are not kept; one that begins needs the one before it."""
        if self.config.keep_rounds is None:
            return
        for number in range(self.state.number - self.config.keep_rounds):
            folder = self.folder / ROUNDS / f"{number:03d}"
            if folder.exists():
                shutil.rmtree(folder)


def main(config: TrainLoopConfig) -> None:
    """The command `worldflow train-loop`."""
    folder = train_loop(config)
    state = LoopState.open(folder, config)
    assert state.agent is not None
    print(
        f"the budget of {config.real_steps} real steps is spent; open {folder / PAGE}; next: "
        f"worldflow evaluate-agent agent={folder / state.agent} (paths in {folder / STATE})"
    )
