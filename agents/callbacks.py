"""What happens besides learning: figures, evaluations, checkpoints, an early end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from worldflow.agents.checkpoints import save_checkpoint
from worldflow.agents.evaluation_config import PLACES, EvaluationConfig
from worldflow.agents.evaluation_history import EvaluationHistory
from worldflow.agents.evaluator import Evaluator
from worldflow.agents.saved import save_weights

BEST = "best"


class EarlyStopError(Exception):
    """Raised between two rollouts to end a training; its message says why."""


class StepCallback(BaseCallback):
    """Shows the steps done, and logs what is done and how strange the world finds what it dreams.

    An agent that exploits the world's errors shows as novelty that climbs with the return; one that
    collapsed, as `rollout/action_K` near 1 for one K.

    Args:
        bar: closed by whoever made it.
    """

    def __init__(self, bar: tqdm) -> None:
        super().__init__()
        self._bar = bar

    def _on_step(self) -> bool:
        self._bar.update(self.num_timesteps - self._bar.n)
        infos = self.locals["infos"]
        for name in ("novelty", "uncertainty", "bits_per_dim", "shaping"):
            if name in infos[0]:  # a dream
                self.logger.record_mean(f"dream/{name}", sum(i[name] for i in infos) / len(infos))
        space, actions = self.model.action_space, self.locals["actions"]
        if isinstance(space, spaces.Discrete):
            shares = np.bincount(actions.reshape(-1), minlength=int(space.n)) / actions.size
            for action, share in enumerate(shares.tolist()):
                self.logger.record_mean(f"rollout/action_{action}", share)
        return True


class KeeperCallback(BaseCallback):
    """Evaluates, keeps the best, writes checkpoints and ends the training early.

    All between two rollouts, so that no half of one is lost by resuming.

    Args:
        folder: the agent's folder.
        checkpoint_steps: steps between two checkpoints.
        evaluator: None where nothing is evaluated.
        config: when to evaluate, what to keep, when to stop.
        history: evaluations so far.
    """

    def __init__(
        self,
        folder: Path,
        checkpoint_steps: int,
        evaluator: Evaluator | None,
        config: EvaluationConfig,
        history: EvaluationHistory,
    ) -> None:
        super().__init__()
        self._folder, self._checkpoint_steps = folder, checkpoint_steps
        self._evaluator, self._config, self._history = evaluator, config, history
        self._saved_at = self._seen = 0

    def _on_training_start(self) -> None:
        self._saved_at = self._seen = self.num_timesteps

    def _on_rollout_start(self) -> None:
        every, now = self._config.every, self.num_timesteps
        due = self._evaluator is not None and now // every > self._seen // every
        self._seen = now
        if due:
            self.evaluate()
            if reason := self._history.stop_reason(self._config.stop):
                raise EarlyStopError(reason)
        if now - self._saved_at >= self._checkpoint_steps:
            self.checkpoint()

    def _on_step(self) -> bool:
        return True

    def evaluate(self) -> None:
        """Judge the model as it is, unless that was done."""
        steps = self.model.num_timesteps
        if self._evaluator is None or self._history.evaluated(steps):
            return
        for row in self._evaluator.evaluate(self.model):
            self._log(row)
            best = self._history.best(row["place"])
            better = best is None or row["mean"] > best["mean"]
            if row["place"] == self._config.keep and better:
                # Before the row, by which it counts.
                save_weights(self.model, best_weights(self._folder, steps))
            self._history.add(row)
        self.logger.dump(steps)

    def checkpoint(self) -> Path:
        """Write a checkpoint, and forget what was best before."""
        path = save_checkpoint(self.model, self._folder)
        self._saved_at = self.model.num_timesteps
        prune_best(self._folder, self._history, self._config.keep)
        return path

    def _log(self, row: dict[str, Any]) -> None:
        place = row["place"]
        values = {"return": row["mean"], "length": row["mean_length"]}
        values |= {name: row.get(name) for name in ("policy_entropy", "action_entropy")}
        for name, short in (("action_frequencies", "action"), ("action_at_limits", "at_limit")):
            values |= {f"{short}_{k}": share for k, share in enumerate(row.get(name, ()))}
        for name, value in values.items():
            if value is not None:
                self.logger.record(f"evaluation/{place}_{name}", value)


def best_weights(folder: Path, steps: int) -> Path:
    """Where weights are kept that were the best after so many steps."""
    return folder / BEST / f"{steps:012d}.zip"


def prune_best(folder: Path, history: EvaluationHistory, keep: str) -> None:
    """Delete weights that are not the best of the history."""
    best = history.best(keep) if keep in PLACES else None
    wanted = None if best is None else best_weights(folder, best["steps"])
    for path in (folder / BEST).glob("*.zip"):
        if path != wanted:
            path.unlink()
