"""How updates are computed: on how many ranks, in which precision, with which savings of memory."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from worldflow.errors import ConfigError
from worldflow.training.distributed import Ranks, whole
from worldflow.training.layers import prepare_layers, transformer_layers
from worldflow.world_model import WorldModel

PRECISIONS = ("fp32", "bf16")
SHARDINGS = ("none", "full")
# the option's name changed in torch 2.13
_BROADCAST = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


@dataclass
class EngineConfig:
    """How updates are computed.

    Attributes:
        precision: "fp32", or "bf16": forward passes under autocast to bfloat16. Weights, optimizer
            and the flow's affine maps stay in float32, and so does everything that is measured.
        ema: decay of the moving average of the weights that is measured and saved in their place,
            for example 0.999; 0: none.
        activation_checkpointing: compute the layers of flow and denoiser again in the backward pass
            instead of keeping what they computed: less memory, a third more time.
        compile: torch.compile the layers of flow and denoiser. The first update is slow.
        sharding: "none": each rank holds all weights (DDP). "full": weights, gradients and
            optimizer of all but the codec are spread over the ranks (FSDP2).
    """

    precision: str = "fp32"
    ema: float = 0.0
    activation_checkpointing: bool = False
    compile: bool = False
    sharding: str = "none"

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("sharding", SHARDINGS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"training.{name} is {value!r}; use one of {', '.join(known)}")
        if not 0.0 <= self.ema < 1.0:
            raise ConfigError(f"training.ema is {self.ema}; use 0 or a decay below 1")


class Engine:
    """Computes as its settings say; by default in this process alone, in float32.

    Args:
        ranks: that train together.
        config: the settings.

    Attributes:
        sharded: whether weights are spread over the ranks.
        copies: whether what is measured is a copy.
    """

    def __init__(self, ranks: Ranks | None = None, config: EngineConfig | None = None) -> None:
        self.ranks, self.config = ranks or Ranks(), config or EngineConfig()
        self.sharded = self.config.sharding == "full" and self.ranks.size > 1
        # averaged or spread weights cannot be measured where they are
        self.copies = self.sharded or self.config.ema > 0.0

    def autocast(self) -> torch.autocast:
        """The context of a training forward pass."""
        enabled = self.config.precision == "bf16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=enabled)

    def measured(self, world: WorldModel) -> WorldModel:
        """The world to measure and save: `world`, or on the main rank a copy if it must be one.

        To be called before `prepare`; `publish` brings the copy up to date.
        """
        return copy.deepcopy(world) if self.copies and self.ranks.main else world

    @torch.no_grad()
    def publish(
        self, world: nn.Module, measured: nn.Module, averages: Mapping[str, Tensor]
    ) -> None:
        """Put the present weights, or their averages, into a copy to measure; on all ranks."""
        targets = measured.state_dict()
        for name, value in (world.state_dict() | dict(averages)).items():
            value = whole(value)
            if self.ranks.main:
                targets[name].copy_(value)

    def prepare(self, modules: Sequence[nn.Module]) -> None:
        """Compile, checkpoint and shard modules as the settings say, in place."""
        config = self.config
        prepare_layers(modules, config.compile, config.activation_checkpointing)
        if self.sharded:
            # true of some, and harmless: nothing here changes a tensor in place
            warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view")
            mesh = init_device_mesh(self.ranks.device.type, (self.ranks.size,))
            for module in modules:
                for parameter in module.parameters():  # weights are laid out for the rows of a step
                    parameter.data = parameter.data.contiguous()
                for layer in transformer_layers(module):
                    fully_shard(layer, mesh=mesh)
                fully_shard(module, mesh=mesh)

    def replicated(self, losses: nn.Module) -> nn.Module:
        """A module whose forward gives losses, with gradients averaged over ranks.

        Modules that are sharded do that themselves.
        """
        if self.ranks.size == 1 or isinstance(next(losses.parameters()), DTensor):
            return losses
        # buffers are equal on all ranks, or never change
        return DistributedDataParallel(losses, **{_BROADCAST: False})  # type: ignore[arg-type]

    @contextmanager
    def reduction(self, losses: Sequence[nn.Module], last: bool) -> Iterator[None]:
        """Passes inside add up gradients on each rank; the last ones average them over ranks."""
        with ExitStack() as stack:
            for module in losses:
                if isinstance(module, DistributedDataParallel):
                    if not last:
                        stack.enter_context(module.no_sync())
                    continue
                for part in module.children():
                    if isinstance(part, FSDPModule):
                        part.set_requires_gradient_sync(last)
            yield
