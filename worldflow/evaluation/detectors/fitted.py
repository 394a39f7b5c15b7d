"""Networks that baselines learn once and keep in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from worldflow.data.metadata import write_atomically


def fit_once(network: nn.Module, path: Path, key: str, fit: Callable[[], None]) -> None:
    """Give a network the weights that `fit` gives it, read from `path` where they lie already.

    Args:
        network: left in eval mode, without gradients.
        path: a safetensors file, which is written again if it has another key.
        key: a digest of everything that the weights depend on.
        fit: trains the network in place.
    """
    if not (path.is_file() and _key(path) == key):
        fit()
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        write_atomically(path, save(weights, {"key": key}))
    network.load_state_dict(load_file(path))
    network.eval().requires_grad_(False)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A new network with initial weights from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _key(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("key"))
