"""`worldflow train-agent`: an agent learns inside a world, or in a real environment."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omegaconf import MISSING
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from worldflow.agents.algorithms import AgentConfig, build
from worldflow.agents.callbacks import (
    EarlyStopError,
    KeeperCallback,
    StepCallback,
    best_weights,
    prune_best,
)
from worldflow.agents.checkpoints import last_checkpoint, restore
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.evaluation_config import PLACES, EvaluationConfig
from worldflow.agents.evaluation_history import EvaluationHistory
from worldflow.agents.evaluator import Evaluator
from worldflow.agents.initial import start_from
from worldflow.agents.places import Places
from worldflow.agents.saved import WEIGHTS, AgentCard, save_weights
from worldflow.agents.seeds import training_seed
from worldflow.envs.sources import SourceConfig
from worldflow.errors import ConfigError
from worldflow.saved_config import differences

# What may differ when a training goes on: how far it came, when it shall end, and a digest that
# cards of before lack (world_sha256 says more).
OPEN = ("steps", "kept_steps", "evaluation.stop.", "latents_sha256")


@dataclass
class TrainAgentConfig:
    """Settings of `worldflow train-agent`.

    Attributes:
        world: the world to dream in; its path may be None where `source` is given and the agent
            sees frames.
        source: a real environment to learn in instead of the dream.
        real: learn in the real environment that the world was learned from.
        processes: give each real environment that the agent learns in a process of its own;
            refused in a dream.
        agent: algorithm, network and what it sees.
        initial_agent: folder of an agent, of the same algorithm and network, whose weights are the
            start; null: random weights.
        total_steps: steps, over all envs; rounded up to whole rollouts.
        evaluation: how the agent is judged while it learns.
        out: folder of the agent, its checkpoints, evaluations and TensorBoard logs.
        seed: from which those of the network, of the policy and of the episodes are drawn, see
            `worldflow.agents.seeds`.
        checkpoint_steps: steps between two checkpoints.
        resume: continue what `out` holds, if anything; otherwise refuse a folder with an agent.
        device: where the policy learns: "cpu", "cuda" or "auto".
        world_device: where the world dreams: "cpu", "cuda" or "auto". Worth it from some hundred
            `agent.num_envs`.
        progress: show a progress bar.
    """

    world: DreamConfig = field(default_factory=DreamConfig)
    source: SourceConfig | None = None
    real: bool = False
    processes: bool = False
    agent: AgentConfig = field(default_factory=AgentConfig)
    initial_agent: str | None = None
    total_steps: int = 40_000
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    out: str = MISSING
    seed: int = 0
    checkpoint_steps: int = 10_000
    resume: bool = True
    device: str = "auto"
    world_device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        if min(self.total_steps, self.checkpoint_steps) < 1 or self.seed < 0:
            raise ConfigError(
                f"total_steps={self.total_steps} and checkpoint_steps={self.checkpoint_steps} must "
                f"be at least 1, seed={self.seed} not negative"
            )


def train_agent(config: TrainAgentConfig) -> Path:
    """Train an agent and save it; continue where an earlier call was killed.

    Returns:
        The agent's folder, see `worldflow.agents.saved`. A resumed run goes on with what
        `worldflow.agents.checkpoints.restore` restores, and starts new episodes under seeds of
        their own.

    Raises:
        ConfigError: the settings name nothing to learn in or contradict each other, or `out`
            holds another agent.
        DataError: a prompt for a world that learned from no captions.
        WorldFormatError: the world cannot be loaded.
    """
    out = Path(config.out)
    places = Places.of(config.world, config.source, config.real, config.world_device)
    reality = places.source if places.learns_in_reality else None
    card = AgentCard.of(
        config.world, config.agent, config.seed, reality, config.evaluation, config.initial_agent
    )
    checkpoint = _checkpoint(config, out, card)
    evaluator = None
    with contextlib.ExitStack() as stack:
        venv = places.training_env(config.agent, config.processes)
        stack.callback(_close, venv)
        if config.evaluation.every > 0:
            evaluator = Evaluator(places, config.agent, config.evaluation)
            stack.enter_context(contextlib.closing(evaluator))
        out.mkdir(parents=True, exist_ok=True)
        if checkpoint is None:
            card.save(out)
        seed = training_seed(config.seed, 0)
        model = build(config.agent, venv, seed, config.device, out / "tensorboard")
        if checkpoint is not None:
            restore(model, checkpoint)
            # Not the seeds of the start: that would repeat the same episodes.
            model.set_random_seed(training_seed(config.seed, model.num_timesteps))
        elif card.initial_agent is not None:
            start_from(model, card)
        history = EvaluationHistory(out, model.num_timesteps)
        prune_best(out, history, config.evaluation.keep)
        keeper = KeeperCallback(out, config.checkpoint_steps, evaluator, config.evaluation, history)
        _learn(model, config, keeper, history)
        card.steps = model.num_timesteps
        card.kept_steps = _keep(model, config, out, history)
        card.save(out)
    return out


def _close(venv: VecEnv) -> None:
    """Close environments; a process of theirs that has died cannot answer, and is no matter here.

    If it died during the training, stepping it has raised that already.
    """
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        venv.close()


def _learn(
    model: BaseAlgorithm,
    config: TrainAgentConfig,
    keeper: KeeperCallback,
    history: EvaluationHistory,
) -> None:
    begun = model.num_timesteps
    reason = history.stop_reason(config.evaluation.stop)
    if reason is None and begun < config.total_steps:
        # Stable-Baselines3's own bar starts at zero when resuming, and warns of being experimental.
        with tqdm(
            total=config.total_steps, initial=begun, unit="step", disable=not config.progress
        ) as bar:
            try:
                model.learn(
                    config.total_steps - begun,
                    callback=[StepCallback(bar), keeper],
                    tb_log_name=config.agent.algorithm,
                    reset_num_timesteps=False,
                )
            except EarlyStopError as stop:
                reason = str(stop)
        keeper.evaluate()
        keeper.checkpoint()
    if reason is not None:
        print(f"ended early: {reason}", flush=True)


def _keep(
    model: BaseAlgorithm, config: TrainAgentConfig, out: Path, history: EvaluationHistory
) -> int:
    """Write `agent.zip`; returns the steps after which it had these weights."""
    keep = config.evaluation.keep
    best = history.best(keep) if keep in PLACES else None
    if best is None:
        save_weights(model, out / WEIGHTS)
        return model.num_timesteps
    temporary = out / f"{WEIGHTS}.partial"
    shutil.copyfile(best_weights(out, best["steps"]), temporary)
    temporary.replace(out / WEIGHTS)
    return int(best["steps"])


def _checkpoint(config: TrainAgentConfig, out: Path, card: AgentCard) -> Path | None:
    """The checkpoint to start from, after making sure that nothing is overwritten."""
    found = last_checkpoint(out)
    if found is None and not (out / WEIGHTS).exists():
        return None
    if not config.resume:
        raise ConfigError(
            f"{out} already holds an agent: set resume=true to continue it, or another out="
        )
    if found is None:
        raise ConfigError(
            f"{out} holds an agent without checkpoints to continue from: choose another out="
        )
    saved = asdict(AgentCard.load(out))  # what it does not name has its default
    for name, (old, new) in differences(saved, asdict(card), {}).items():
        if not name.startswith(OPEN):
            raise ConfigError(
                f"{out} was begun with {name}={old}, not {new}: continue it with the same "
                "settings, or begin anew in another out="
            )
    return found


def main(config: TrainAgentConfig) -> None:
    """The command `worldflow train-agent`."""
    out = train_agent(config)
    print(f"agent saved in {out}; next: worldflow evaluate-agent agent={out}")
