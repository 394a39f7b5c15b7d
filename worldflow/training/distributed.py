"""The processes of a run: which one this is, and on which device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from worldflow.errors import ConfigError

Value = TypeVar("Value")
WAIT = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together; alone by default.

    Attributes:
        rank: number of this process.
        size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    @property
    def main(self) -> bool:
        """Whether this process logs, measures and writes."""
        return self.rank == 0

    def rows(self, batch: int, pieces: int, setting: str) -> list[list[int]]:
        """This rank's rows of a batch, in equal pieces.

        Args:
            batch: samples of all ranks together.
            pieces: into which each rank's rows are split.
            setting: name of the batch, for the error.

        Raises:
            ConfigError: the batch does not divide.
        """
        parts = self.size * pieces
        if batch % parts:
            raise ConfigError(
                f"{setting}={batch} does not divide by {self.size} ranks of {pieces} pieces each; "
                f"use a multiple of {parts}"
            )
        rows = range(self.rank, batch, self.size)
        return [list(rows[i::pieces]) for i in range(pieces)]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks of a tensor that each of them has."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def share(self, value: Value) -> Value:
        """The main rank's value, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Value) -> list[Value]:
        """The value of each rank, in order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def align(self, module: nn.Module) -> None:
        """Give every rank the main rank's weights and buffers, none of them spread over ranks.

        Machines of different kinds may round differently where each has computed them by itself.
        """
        if self.size == 1:
            return
        for value in module.state_dict().values():
            given = value.contiguous()
            dist.broadcast(given, src=0)
            value.copy_(given)


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the processes that torchrun started; a process that nobody started so is alone.

    Each uses its own CUDA device if there are any (NCCL), else the CPU (gloo). A process group that
    is there already is used as it is.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    elif int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(device=device)
    else:
        # the others wait while the main rank imports, which may take hours
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=WAIT)
        try:
            yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        finally:
            dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over ranks, whole; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
