"""Judging in a loop: the agent in dream and reality, and chance, on the same seeded episodes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from worldflow.agents.evaluator import FIGURES, Evaluator
from worldflow.agents.loop_config import TrainLoopConfig
from worldflow.agents.loop_curve import Row
from worldflow.agents.places import Places
from worldflow.agents.play import RandomPolicy, play_episodes
from worldflow.agents.reality import make_real
from worldflow.agents.saved import load_agent
from worldflow.agents.summary import Summary


def judge_agent(config: TrainLoopConfig, world: Path, agent: Path) -> list[Row]:
    """A row for each place, see `worldflow.agents.evaluation_history`, without `steps`."""
    places = Places.of(config.dream.of(str(world)), None, False, config.device)
    evaluator = Evaluator(places, config.agent, config.evaluation.evaluation())
    with contextlib.closing(evaluator):
        rows = evaluator.evaluate(load_agent(agent, config.device)[0])
    return [{name: value for name, value in row.items() if name != "steps"} for row in rows]


def judge_random(config: TrainLoopConfig) -> Row:
    """The row of uniformly random actions in the real environment, without `steps`."""
    judging = config.evaluation
    num_envs = min(judging.num_envs, judging.episodes)
    with contextlib.closing(make_real(None, num_envs, "frames", config.source)) as real:
        policy = RandomPolicy(real.action_spec)
        played = play_episodes(real, policy, judging.episodes, judging.seed)
    summary = vars(Summary.of("real", "random", played))
    row: Row = {"place": "real"} | {name: summary[name] for name in FIGURES}
    return row | {"env_steps": int(played.lengths.sum())}
