"""Agents on disk: `agent.zip` (Stable-Baselines3), `agent.yaml`, and `checkpoints/` beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from yaml import YAMLError

from worldflow.agents.algorithms import ALGORITHMS, AgentConfig
from worldflow.errors import ConfigError

CARD, WEIGHTS, CHECKPOINTS = "agent.yaml", "agent.zip", "checkpoints"


@dataclass
class DreamConfig:
    """The world that an agent is trained in.

    Attributes:
        path: a world's name or folder.
        horizon: steps after which an imagined episode is truncated.
        temperature: factor on the noise of imagined frames.
    """

    path: str = MISSING
    horizon: int = 1000
    temperature: float = 1.0


@dataclass
class AgentCard:
    """`agent.yaml`: what an agent is and how it came to be.

    Attributes:
        world: where it was trained.
        agent: algorithm, network and what it sees.
        seed: seed of the training.
        steps: imagined steps it was trained for.
    """

    world: DreamConfig = field(default_factory=DreamConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    seed: int = 0
    steps: int = 0

    def save(self, folder: Path) -> None:
        """Write `agent.yaml`, whole or not at all."""
        temporary = folder / f".{CARD}.tmp"
        OmegaConf.save(OmegaConf.structured(self), temporary)
        temporary.replace(folder / CARD)

    @classmethod
    def load(cls, folder: Path) -> AgentCard:
        """Read `agent.yaml`.

        Raises:
            ConfigError: it is missing, or holds an unknown or ill-typed field.
        """
        path = folder / CARD
        if not path.is_file():
            raise ConfigError(f"{folder} holds no agent: {CARD} is missing")
        try:
            merged = OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.load(path))
            card = OmegaConf.to_object(merged)
        except (OmegaConfBaseException, YAMLError) as error:
            raise ConfigError(f"{path} is not an agent's card: {error}") from error
        assert isinstance(card, cls)
        return card


def save_weights(model: BaseAlgorithm, path: Path) -> None:
    """Write an agent's zip file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.zip")
    model.save(temporary)
    temporary.replace(path)


def save_checkpoint(model: BaseAlgorithm, folder: Path) -> Path:
    """Write `checkpoints/<steps>.zip` and return its path."""
    path = folder / CHECKPOINTS / f"{model.num_timesteps:012d}.zip"
    save_weights(model, path)
    return path


def last_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint with the most steps, or None where there is none yet."""
    found = sorted((Path(folder) / CHECKPOINTS).glob("[0-9]*.zip"))
    return found[-1] if found else None


def load_weights(
    algorithm: str, path: Path, venv: VecEnv | None = None, device: str = "auto"
) -> BaseAlgorithm:
    """The agent in a zip file, on `venv` if it is to learn on.

    The file is Stable-Baselines3's own and holds pickled Python objects: load no stranger's agent.

    Raises:
        ConfigError: the file is missing or does not fit `venv`.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing: train the agent to its end, or resume=true")
    try:
        return ALGORITHMS[algorithm].load(path, env=venv, device=device)
    except ValueError as error:
        raise ConfigError(f"{path} does not fit: {error}") from error


def load_agent(folder: str | Path, device: str = "auto") -> tuple[BaseAlgorithm, AgentCard]:
    """A trained agent and its card.

    Raises:
        ConfigError: the folder holds no finished agent.
    """
    card = AgentCard.load(Path(folder))
    return load_weights(card.agent.algorithm, Path(folder) / WEIGHTS, device=device), card
