"""The cells of a grid of agents: each is trained, then scored in the dream and in the real game.

Each cell is a folder of its own: `agent/`, a training that resumes by itself, and `scores.json`,
which is written when all is done. Several processes can share a grid: each takes the cells that no
other one holds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worldflow.agents.algorithms import AgentConfig
from worldflow.agents.cell_scores import Scoring, score
from worldflow.agents.checkpoints import last_checkpoint
from worldflow.agents.dream_grid import Cell, DreamGridConfig, cell_folder, training_of
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.evaluate import check_fit, check_world
from worldflow.agents.evaluation_config import PLACES
from worldflow.agents.locks import LOCK, held
from worldflow.agents.places import Places
from worldflow.agents.saved import WEIGHTS, AgentCard, load_weights
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.data.metadata import write_atomically
from worldflow.envs.spaces import observation_space
from worldflow.errors import ConfigError
from worldflow.saved_config import differences

SCORES = "scores.json"


def read_scores(config: DreamGridConfig, cell: Cell) -> dict[str, Any] | None:
    """The scores of a finished cell; None while it is not finished.

    Raises:
        ConfigError: it was made with other settings.
    """
    path = cell_folder(config, cell) / SCORES
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    training = training_of(config, cell)
    wanted = settings_of(config, cell, training)
    usual = AgentCard.of(DreamConfig(), AgentConfig(training.agent.algorithm), 0)
    defaults = {"dream": asdict(DreamConfig()), "training": asdict(usual)}
    for name, (old, new) in differences(found["settings"], wanted, defaults).items():
        raise ConfigError(
            f"{path} was made with {name}={old}, not {new}: use the same settings, delete the "
            "cell's folder, or choose another out="
        )
    return found


def settings_of(config: DreamGridConfig, cell: Cell, training: TrainAgentConfig) -> dict[str, Any]:
    """All that a cell's scores depend on, JSON-able.

    Raises:
        ConfigError: a given agent is not finished, or its last weights are gone.
    """
    settings: dict[str, Any] = {"scoring": asdict(_scoring(config))}
    card = AgentCard.of(
        training.world,
        training.agent,
        training.seed,
        None,
        training.evaluation,
        training.initial_agent,
    )
    if cell.kind == "random" or cell.agent is not None:
        dream = training.world
        settings["world"] = card.world_sha256
        names = ("horizon", "temperature", "prompt", "guidance")  # what their scores depend on
        settings["dream"] = {name: getattr(dream, name) for name in names}
        if cell.agent is not None:
            folder = Path(cell.agent)
            if not (folder / WEIGHTS).is_file():
                raise ConfigError(f"real_agents: {cell.agent} holds no finished agent")
            weights = _last_weights(folder, AgentCard.load(folder))
            settings["agent"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    else:
        settings["training"] = {"total_steps": training.total_steps, "real": training.real}
        settings["training"] |= asdict(card)
        del settings["training"]["world"]["path"]  # it may be moved; its digest stays
        # cells of before lack it, and world_sha256 says more
        del settings["training"]["latents_sha256"]
    return settings


def run_cell(config: DreamGridConfig, cell: Cell) -> bool:
    """Train and score a cell, unless that is done; False where another process holds it.

    Raises:
        ConfigError: its settings are wrong, or its folder was made with others.
    """
    folder = cell_folder(config, cell)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / LOCK) as mine:
        if not mine:
            return False
        if read_scores(config, cell) is not None:
            return True
        training = training_of(config, cell)
        result = {"cell": asdict(cell), "settings": settings_of(config, cell, training)}
        result |= _train_and_score(config, cell, training)
        write_atomically(folder / SCORES, (json.dumps(result, indent=1) + "\n").encode())
    return True


def _scoring(config: DreamGridConfig) -> Scoring:
    return Scoring(config.episodes, config.num_envs, config.episode_seed, config.deterministic)


def _last_weights(folder: Path, card: AgentCard) -> Path:
    """The file with the weights at the end of a training, whichever `agent.zip` holds.

    Raises:
        ConfigError: `agent.zip` holds the best ones, and no checkpoint has the last.
    """
    if card.evaluation.keep not in PLACES or card.kept_steps == card.steps:
        return folder / WEIGHTS
    last = last_checkpoint(folder)
    if last is None or int(last.stem) != card.steps:
        raise ConfigError(
            f"{folder}: its {WEIGHTS} holds the best weights by {card.evaluation.keep} return, of "
            f"step {card.kept_steps}, and no checkpoint has those of its last step, {card.steps}: "
            "agents are compared after the same training; restore the checkpoint, or give agents "
            "that were trained with evaluation.keep=last"
        )
    return last


def _train_and_score(
    config: DreamGridConfig, cell: Cell, training: TrainAgentConfig
) -> dict[str, Any]:
    """Steps of the training, and scores of the last weights and of the best ones."""
    if cell.kind == "random":
        places = Places.of(training.world, None, False, training.world_device)
        return {"scores": {"last": score(places, training.agent, None, _scoring(config))}}
    folder = train_agent(training) if cell.agent is None else Path(cell.agent)
    card = AgentCard.load(folder)
    check_world(card, str(folder), config.world)
    places = Places.of(training.world, None, False, training.world_device)

    def judge(weights: Path) -> dict[str, Any]:
        model = load_weights(card.agent.algorithm, weights, device=training.device)
        assert places.world is not None  # it has a path
        seen = observation_space(places.world, card.agent.observation)
        check_fit(model, card, seen, places.actions)
        return score(places, card.agent, model, _scoring(config))

    kept, last = folder / WEIGHTS, _last_weights(folder, card)
    scores = {"last": judge(last)}
    if cell.agent is None and training.evaluation.keep in PLACES:
        scores["best"] = scores["last"] if kept == last else judge(kept)
    return {"steps": card.steps, "kept_steps": card.kept_steps, "scores": scores}
