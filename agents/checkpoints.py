"""Checkpoints of a training: `checkpoints/<steps>.zip`, and the newest one's `<steps>.npz`.

The zip file is an agent as Stable-Baselines3 saves it, and can be played. The other one holds what
learning needs besides: counters, statistics of rewards, the replay buffer. It is written first and
the zip file, which makes the checkpoint count, after it; only then is the older one deleted. So
whatever moment a training is killed at, there is a whole pair, and never more than two buffers.

Resuming unpickles nothing: of the zip file only tensors are read, `<steps>.npz` holds none but
plain arrays, and the model is made from the settings.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from worldflow.agents.rewards import restore_rewards, reward_state
from worldflow.agents.saved import save_weights
from worldflow.errors import ConfigError

CHECKPOINTS = "checkpoints"
STATE = ".npz"
VERSION = 1
# Of the model; those that its algorithm does not have are left out.
COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "exploration_rate",
    "_current_progress_remaining",
)
BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def save_checkpoint(model: BaseAlgorithm, folder: Path) -> Path:
    """Write a checkpoint between two rollouts, and return the path of its zip file."""
    path = folder / CHECKPOINTS / f"{model.num_timesteps:012d}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    state = path.with_suffix(STATE)
    _write_state(model, state)
    save_weights(model, path)
    for other in path.parent.iterdir():
        if other.suffix in (STATE, ".partial") and other != state:
            other.unlink()
    return path


def last_checkpoint(folder: str | Path) -> Path | None:
    """The zip file of the checkpoint with the most steps, or None where there is none yet."""
    found = checkpoints(folder)
    return found[-1] if found else None


def checkpoints(folder: str | Path) -> list[Path]:
    """The zip files of all checkpoints, the one with the fewest steps first."""
    return sorted((Path(folder) / CHECKPOINTS).glob("[0-9]*.zip"))


def restore(model: BaseAlgorithm, checkpoint: Path) -> None:
    """Put a checkpoint into a new model of the same settings.

    Weights, optimisers, counters, statistics of rewards and the replay buffer are then what they
    were, bit for bit. Episodes under way and random numbers are not part of a checkpoint.

    Raises:
        ConfigError: a file is missing, damaged, or of other settings.
    """
    path = checkpoint.with_suffix(STATE)
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing, without which {checkpoint.name} can be played but not trained on "
            "(an older worldflow wrote none): begin anew in another out="
        )
    try:
        model.set_parameters(str(checkpoint), device=model.device)
        with np.load(path, allow_pickle=False) as arrays:
            state = json.loads(str(arrays["state"]))
            if state["version"] != VERSION:
                raise ValueError(f"it is of version {state['version']}, not {VERSION}")
            for name, value in state["counters"].items():
                setattr(model, name, value)
            restore_rewards(model.get_vec_normalize_env(), state["reward"])
            if (weight := _entropy_weight(model)) is not None:
                with torch.no_grad():
                    weight.copy_(torch.from_numpy(arrays["log_ent_coef"]))
            if (buffer := _buffer(model)) is not None:
                for name in BUFFER:
                    stored = arrays[name]
                    getattr(buffer, name)[: len(stored)] = stored
                buffer.pos, buffer.full = state["buffer"]["pos"], state["buffer"]["full"]
    except (ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{checkpoint} and {path.name} cannot be continued from: {error}; delete both to go on "
            "from an older checkpoint, or begin anew in another out="
        ) from error


def _write_state(model: BaseAlgorithm, path: Path) -> None:
    state: dict[str, Any] = {
        "version": VERSION,
        "counters": {name: getattr(model, name) for name in COUNTERS if hasattr(model, name)},
        "reward": reward_state(model.get_vec_normalize_env()),
    }
    arrays: dict[str, np.ndarray] = {}
    if (weight := _entropy_weight(model)) is not None:
        arrays["log_ent_coef"] = weight.detach().cpu().numpy()
    if (buffer := _buffer(model)) is not None:
        state["buffer"] = {"pos": buffer.pos, "full": bool(buffer.full)}
        arrays |= {name: getattr(buffer, name)[: buffer.size()] for name in BUFFER}
    arrays["state"] = np.array(json.dumps(state))
    # Not by `write_atomically`, nor as safetensors: both want a copy of the whole buffer in memory.
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _buffer(model: BaseAlgorithm) -> ReplayBuffer | None:
    return getattr(model, "replay_buffer", None)


def _entropy_weight(model: BaseAlgorithm) -> torch.Tensor | None:
    """Logarithm of the weight that SAC learns; None for others, and where it is given."""
    return getattr(model, "log_ent_coef", None)
