"""Checkpoints: weights, optimizer and progress in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from worldflow.data.metadata import write_atomically
from worldflow.errors import DataError


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        stage: name of the stage under way.
        step: updates done in that stage.
        seconds: time spent training, over all pieces of the run.
        fingerprint: what the run was started with; another one cannot continue it.
    """

    stage: str
    step: int
    seconds: float
    fingerprint: str


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    progress: Progress,
) -> None:
    """Write model, optimizer and progress.

    Args:
        names: the name of each parameter of the optimizer.
    """
    tensors = {f"model/{name}": value.contiguous() for name, value in model.state_dict().items()}
    for parameter, name in names.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{name}/{key}"] = value.contiguous()
    write_atomically(path, save(tensors, {"progress": json.dumps(asdict(progress))}))


def read_progress(path: Path) -> Progress:
    """The progress of a checkpoint.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return Progress(**json.loads(file.metadata()["progress"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a checkpoint of this version ({error}); delete it to start again"
        ) from error


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    names: Mapping[nn.Parameter, str] | None = None,
) -> None:
    """Put a checkpoint's weights into the model and, if given, its state into the optimizer."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    prefix = "model/"
    model.load_state_dict(
        {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    )
    if optimizer is None or names is None:
        return
    for parameter, name in names.items():
        start = f"optimizer/{name}/"
        state = {key[len(start) :]: t for key, t in tensors.items() if key.startswith(start)}
        if not state:  # a parameter that never had a gradient has none
            continue
        for key, value in state.items():
            if value.shape == parameter.shape:  # the fused update needs the parameter's layout
                state[key] = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter] = state
