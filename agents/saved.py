"""Agents on disk: `agent.zip` (Stable-Baselines3) and `agent.yaml`, which says what it is."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import safe_open
from stable_baselines3.common.base_class import BaseAlgorithm
from yaml import YAMLError

from worldflow.agents.algorithms import LOADABLE, AgentConfig
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.evaluation_config import EvaluationConfig
from worldflow.data.metadata import write_atomically
from worldflow.envs.sources import SourceConfig
from worldflow.errors import ConfigError
from worldflow.storage import SHIPPED
from worldflow.storage import WEIGHTS as WORLD_WEIGHTS

CARD, WEIGHTS = "agent.yaml", "agent.zip"
ENCODER = ("codec.encoder.", "codec.scale.")  # weights that decide what latents mean


@dataclass
class AgentCard:
    """`agent.yaml`: what an agent is and how it came to be.

    Attributes:
        world: where it was trained, or whose latents it sees.
        agent: algorithm and what it sees.
        seed: seed of the training.
        steps: steps it was trained for.
        world_sha256: digest of the world's weights, see `world_digest`; None without a world.
        latents_sha256: digest of what its latents mean, see `latents_digest`; None without a world,
            and in cards of before.
        source: the real environment that it was trained in; None if that was the world.
        evaluation: how it was judged during the training.
        kept_steps: steps after which it had the weights that are in `agent.zip`; None while it
            is trained.
        initial_agent: folder of the agent whose network was the start; None: random weights.
        initial_sha256: digest of that agent's `agent.zip`.
    """

    world: DreamConfig = field(default_factory=DreamConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    seed: int = 0
    steps: int = 0
    world_sha256: str | None = None
    latents_sha256: str | None = None
    source: SourceConfig | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    kept_steps: int | None = None
    initial_agent: str | None = None
    initial_sha256: str | None = None

    @classmethod
    def of(
        cls,
        world: DreamConfig,
        agent: AgentConfig,
        seed: int,
        source: SourceConfig | None = None,
        evaluation: EvaluationConfig | None = None,
        initial_agent: str | None = None,
    ) -> AgentCard:
        """The card of a training that begins; folders are named by their absolute paths.

        So the agent can be used from any working directory.

        Raises:
            ConfigError: the initial agent is missing.
        """
        card = cls(
            world,
            replace(agent, hyperparameters=agent.settings),  # all of them, in writing
            seed,
            source=source,
            evaluation=EvaluationConfig() if evaluation is None else evaluation,
        )
        if world.path is not None:
            path = absolute_world(world.path)
            card.world, card.world_sha256 = replace(world, path=path), world_digest(path)
            card.latents_sha256 = latents_digest(path)
        if initial_agent is not None:
            initial = Path(initial_agent).resolve()
            if not (initial / WEIGHTS).is_file():
                raise ConfigError(f"initial_agent={initial_agent} holds no finished agent")
            card.initial_agent, card.initial_sha256 = str(initial), sha256(initial / WEIGHTS)
        return card

    def shares_latents(self, world_sha256: str | None, latents_sha256: str | None) -> bool:
        """Whether latents mean here what they mean where these digests are of."""
        if self.world_sha256 == world_sha256:
            return True
        return self.latents_sha256 is not None and self.latents_sha256 == latents_sha256

    def save(self, folder: Path) -> None:
        """Write `agent.yaml`, whole or not at all."""
        content = OmegaConf.to_yaml(OmegaConf.create(asdict(self)))
        write_atomically(folder / CARD, content.encode())

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


def absolute_world(name: str) -> str:
    """A world's folder as an absolute path; the name of a shipped world as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def world_digest(name: str) -> str:
    """SHA-256 of the weights of a world, which `load_world` must be able to load."""
    return sha256(_weights(name))


def latents_digest(name: str) -> str:
    """SHA-256 of a world's encoder and its scale, in half precision, in which worlds ship."""
    digest = hashlib.sha256()
    with safe_open(_weights(name), "pt") as file:
        for key in sorted(k for k in file.keys() if k.startswith(ENCODER)):  # noqa: SIM118
            digest.update(key.encode())
            digest.update(file.get_tensor(key).half().numpy().tobytes())
    return digest.hexdigest()


def knows_latents(card: AgentCard, name: str) -> bool:
    """Whether the latents of a world mean what they did where an agent was trained on some.

    Training that leaves the codec as it is does not change them.
    """
    return card.shares_latents(world_digest(name), latents_digest(name))


def _weights(name: str) -> Path:
    folder = Path(name) if Path(name).is_dir() else SHIPPED / name
    return folder / WORLD_WEIGHTS


def save_weights(model: BaseAlgorithm, path: Path) -> None:
    """Write an agent's zip file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("wb") as stream:
        model.save(stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def load_weights(algorithm: str, path: Path, device: str = "auto") -> BaseAlgorithm:
    """The agent in a zip file.

    The file is Stable-Baselines3's own and holds pickled Python objects: load no stranger's agent.

    Raises:
        ConfigError: the file is missing or is of another algorithm.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing; an agent is written there when its training ends; "
            "the same worldflow train-agent command continues an unfinished one"
        )
    try:
        return LOADABLE[algorithm].load(path, device=device)
    except (ValueError, AttributeError) as error:  # the latter: it is of another algorithm
        raise ConfigError(f"{path} does not fit {algorithm}: {error}") from error


def load_agent(folder: str | Path, device: str = "auto") -> tuple[BaseAlgorithm, AgentCard]:
    """A trained agent and its card.

    Raises:
        ConfigError: the folder holds no finished agent.
    """
    card = AgentCard.load(Path(folder))
    return load_weights(card.agent.algorithm, Path(folder) / WEIGHTS, device=device), card


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
