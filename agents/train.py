"""`worldflow train-agent`: an agent learns inside a world, never in the real environment."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from omegaconf import MISSING
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from worldflow.agents.algorithms import AgentConfig, build
from worldflow.agents.saved import (
    WEIGHTS,
    AgentCard,
    DreamConfig,
    last_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from worldflow.agents.sb3 import ImaginedVecEnv, wrap
from worldflow.agents.seeds import training_seed
from worldflow.compiled import compile_step
from worldflow.config import flatten
from worldflow.envs.imagination import Imagination
from worldflow.errors import ConfigError
from worldflow.storage import load_world


@dataclass
class TrainAgentConfig:
    """Settings of `worldflow train-agent`.

    Attributes:
        world: the world to dream in.
        agent: algorithm, network and what it sees.
        total_steps: imagined steps, over all rows; rounded up to whole rollouts.
        out: folder of the agent, its checkpoints and its TensorBoard logs.
        seed: from which those of the network, of the policy and of the dream's rows are drawn,
            see `worldflow.agents.seeds`.
        checkpoint_steps: imagined steps between two checkpoints.
        resume: continue from the last checkpoint in `out`.
        device: where the policy learns: "cpu", "cuda" or "auto".
        progress: show a progress bar.
    """

    world: DreamConfig = field(default_factory=DreamConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    total_steps: int = 40_000
    out: str = MISSING
    seed: int = 0
    checkpoint_steps: int = 10_000
    resume: bool = False
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        if min(self.total_steps, self.checkpoint_steps) < 1 or self.seed < 0:
            raise ConfigError(
                f"total_steps={self.total_steps} and checkpoint_steps={self.checkpoint_steps} must "
                f"be at least 1, seed={self.seed} not negative"
            )


class DreamCallback(BaseCallback):
    """Writes checkpoints, and logs how strange the world finds what it is made to dream.

    An agent that exploits the world's errors shows as novelty that climbs with the return.

    Args:
        folder: the agent's folder.
        every: imagined steps between two checkpoints.
        bar: shows the steps done; closed by whoever made it.
    """

    def __init__(self, folder: Path, every: int, bar: tqdm) -> None:
        super().__init__()
        self._folder = folder
        self._every = every
        self._bar = bar
        self._saved_at = 0

    def _on_training_start(self) -> None:
        self._saved_at = self.num_timesteps

    def _on_rollout_start(self) -> None:
        # Between rollouts, so that no half of one is lost by resuming.
        if self.num_timesteps - self._saved_at >= self._every:
            save_checkpoint(self.model, self._folder)
            self._saved_at = self.num_timesteps

    def _on_step(self) -> bool:
        self._bar.update(self.num_timesteps - self._bar.n)
        infos = self.locals["infos"]
        for name in ("novelty", "uncertainty", "bits_per_dim"):
            self.logger.record_mean(f"dream/{name}", sum(i[name] for i in infos) / len(infos))
        return True


def train_agent(config: TrainAgentConfig) -> Path:
    """Train an agent in a world and save it.

    Returns:
        The agent's folder, see `worldflow.agents.saved`. A resumed run goes on with the saved
        weights and optimiser, and starts new episodes under seeds of their own.

    Raises:
        ConfigError: `out` already holds another agent, or there is nothing to resume.
        WorldFormatError: the world cannot be loaded.
    """
    out = Path(config.out)
    world = compile_step(load_world(config.world.path))
    card = AgentCard.of(config.world, config.agent, config.seed)
    checkpoint = _checkpoint(config, out, card)
    settings = card.world
    dream = Imagination(
        world,
        config.agent.num_envs,
        settings.horizon,
        settings.temperature,
        config.agent.observation,
    )
    venv = wrap(ImaginedVecEnv(dream), config.agent.frame_stack)
    if checkpoint is None:
        out.mkdir(parents=True, exist_ok=True)
        card.save(out)
        seed = training_seed(config.seed, 0)
        model = build(config.agent, venv, seed, config.device, out / "tensorboard")
    else:
        model = load_weights(config.agent.algorithm, checkpoint, venv, config.device)
        model.tensorboard_log = str(out / "tensorboard")
        # Not the seeds of the start: that would repeat the same dreams.
        model.set_random_seed(training_seed(config.seed, model.num_timesteps))
    _learn(model, config, out)
    card.steps = model.num_timesteps
    card.save(out)
    venv.close()
    return out


def _learn(model: BaseAlgorithm, config: TrainAgentConfig, out: Path) -> None:
    remaining = config.total_steps - model.num_timesteps
    if remaining > 0:
        # Stable-Baselines3's own bar starts at zero when resuming, and warns of being experimental.
        with tqdm(
            total=config.total_steps,
            initial=model.num_timesteps,
            unit="step",
            disable=not config.progress,
        ) as bar:
            model.learn(
                remaining,
                callback=DreamCallback(out, config.checkpoint_steps, bar),
                tb_log_name=config.agent.algorithm,
                reset_num_timesteps=False,
            )
        save_checkpoint(model, out)
    save_weights(model, out / WEIGHTS)


def _checkpoint(config: TrainAgentConfig, out: Path, card: AgentCard) -> Path | None:
    """The checkpoint to start from, after making sure that nothing is overwritten."""
    found = last_checkpoint(out)
    if not config.resume:
        if found is not None or (out / WEIGHTS).exists():
            raise ConfigError(
                f"{out} already holds an agent: set resume=true to continue it, or another out="
            )
        return None
    if found is None:
        raise ConfigError(f"there is no checkpoint in {out} to resume from; set resume=false")
    saved, wanted = flatten(asdict(AgentCard.load(out))), flatten(asdict(card))
    for name, value in wanted.items():
        if name != "steps" and value != saved[name]:
            raise ConfigError(
                f"{out} was begun with {name}={saved[name]}, not {value}: resume it with the same "
                "settings, or begin anew in another out="
            )
    return found


def main(config: TrainAgentConfig) -> None:
    """The command `worldflow train-agent`."""
    out = train_agent(config)
    print(f"agent saved in {out}; next: worldflow evaluate-agent agent={out}")
