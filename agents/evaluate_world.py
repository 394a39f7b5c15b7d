"""`worldflow evaluate`: a world on held-out episodes, and as a simulator beside its real game."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldflow.agents.compare import CompareConfig, compare, horizon_within
from worldflow.compiled import compile_step
from worldflow.envs.decisions import (
    DecisionsConfig,
    decision_figures,
    decision_strip,
    dream_plans,
    find_decisions,
)
from worldflow.envs.replay import Replay
from worldflow.envs.sources import SourceConfig, make_source
from worldflow.errors import ConfigError
from worldflow.evaluation.evaluate import EvaluateConfig, deliver, evaluate
from worldflow.evaluation.game_report import DECISIONS
from worldflow.storage import load_world
from worldflow.world_model import WorldModel


@dataclass
class EvaluateWorldConfig(EvaluateConfig):
    """Settings of `worldflow evaluate`: those of `EvaluateConfig`, and of the real game.

    Attributes:
        real: also measure what needs the real environment, where the world was learned from one.
        decisions: do dream and reality rank plans alike?
        compare: do dream and reality rank agents alike?
    """

    real: bool = True
    decisions: DecisionsConfig = field(default_factory=DecisionsConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)


def why_not(world: WorldModel) -> str | None:
    """Why a world cannot be measured beside its real game; None where it can."""
    if not world.spec.source.get("env_id"):
        return "The world was learned from video of no environment that could be asked."
    if world.reward_head is None or world.termination_head is None:
        return "The world does not predict both reward and termination, so it is no game."
    return None


def beside_the_game(
    config: EvaluateWorldConfig,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Decision fidelity, and dreamed against real returns of the same agents.

    Returns:
        figures and pictures; the figures are a `reason` where the world has no game.

    Raises:
        ConfigError: the environment cannot be made, or does not have what was asked for.
        DataError: the environment does not repeat itself.
    """
    path, heat = config.world.path, config.world.temperature
    world = load_world(path)
    if (reason := why_not(world)) is not None:
        return {"reason": reason}, {}
    world = compile_step(world)
    settings, pictures = config.decisions, {}
    figures: dict[str, Any] = {"decisions": None}
    with contextlib.closing(make_source(SourceConfig(**world.spec.source))) as env:
        replay = Replay(env, settings.info)
        found, figures["looked_at"] = find_decisions(
            replay, settings, world.config.context, config.seed, config.progress
        )
    if found:
        dreamed = [
            dream_plans(world, decision, settings, heat, config.seed + number)
            for number, decision in enumerate(found)
        ]
        figures["decisions"] = decision_figures(found, dreamed, replay.has_chance)
        pictures[DECISIONS] = decision_strip(found[0], dreamed[0])
    figures["compare"] = compare(config.compare, world, path, heat, config.seed, config.progress)
    return figures, pictures


def _check_game(world: WorldModel, captions: bool, compared: CompareConfig) -> None:
    if why_not(world) is not None:
        return
    if captions and world.spec.text is not None:
        raise ConfigError(
            "captions=true, but what is measured beside the real game is told none: set real=false"
        )
    try:
        horizon_within(compared.horizon, world)  # which makes the environment
    except ConfigError as error:
        raise ConfigError(f"{error}; or leave the real environment out: real=false") from error


def main(config: EvaluateWorldConfig) -> None:
    """The command `worldflow evaluate`.

    Raises:
        ConfigError: the real environment cannot be made, or would be asked beside captions; tried
            before anything is measured.
    """
    if config.real:
        _check_game(load_world(config.world.path), config.captions, config.compare)
    evaluation = evaluate(config)
    if config.real:
        evaluation.figures["game"], pictures = beside_the_game(config)
        evaluation.pictures.update(pictures)
    deliver(config, evaluation)
