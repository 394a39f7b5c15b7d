"""Checkpoints: weights, optimizer and progress in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from worldflow.data.metadata import write_atomically
from worldflow.errors import DataError
from worldflow.training.distributed import whole

CHECKPOINT = "checkpoint.safetensors"  # in the folder of a run


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        stage: name of the stage under way.
        step: updates done in that stage.
        seconds: time spent training, over all pieces of the run.
        fingerprint: what the run was started with; another one cannot continue it.
        setup: how it is computed, which may change when it continues; JSON-able.
    """

    stage: str
    step: int
    seconds: float
    fingerprint: str
    setup: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    averages: Mapping[str, Tensor],
    progress: Progress,
    write: bool = True,
) -> None:
    """Write model, optimizer and progress; tensors that are spread over ranks are written whole.

    Args:
        names: the name of each parameter of the optimizer.
        averages: of parameters, by name.
        write: whether this rank writes; all must call this, as each holds a part of the tensors.
    """
    entries = {f"model/{name}": value for name, value in model.state_dict().items()}
    entries |= {f"average/{name}": value for name, value in averages.items()}
    for parameter, name in names.items():
        for key, value in optimizer.state[parameter].items():
            entries[f"optimizer/{name}/{key}"] = value
    tensors = {}
    for name, value in entries.items():
        value = whole(value)
        if write:
            tensors[name] = value.cpu().contiguous()
    if write:
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


@torch.no_grad()
def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    names: Mapping[nn.Parameter, str] | None = None,
    averages: Mapping[str, Tensor] | None = None,
) -> None:
    """Put a checkpoint's tensors into the model and, if given, into optimizer and averages.

    Each rank reads the file by itself and keeps its part.
    """
    with safe_open(path, framework="pt") as file:
        for name, target in model.state_dict().items():
            target.copy_(_spread(file.get_tensor(f"model/{name}"), target))
        for name, target in (averages or {}).items():
            target.copy_(_spread(file.get_tensor(f"average/{name}"), target))
        if optimizer is None or names is None:
            return
        stored = sorted(file.keys())
        for parameter, name in names.items():
            start = f"optimizer/{name}/"
            keys = [key for key in stored if key.startswith(start)]
            for key in keys:  # none for a parameter that never had a gradient
                value = file.get_tensor(key)
                if value.shape == parameter.shape:  # the update needs the parameter's layout
                    value = torch.empty_like(parameter).copy_(_spread(value, parameter))
                optimizer.state[parameter][key[len(start) :]] = value.to(parameter.device)


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is: on its device, and over its ranks."""
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    # every rank has read the same file, so that nothing needs to be sent
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
