"""A moving average of the weights, which is often better than the weights themselves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """The exponential moving average of trained parameters, each spread over ranks as they are.

    Early updates are forgotten faster: after update k = 0, 1, ... the average becomes

        d * average + (1 - d) * weights        d = min(decay, (1 + k) / (10 + k))

    Args:
        names: the name of each parameter.
        decay: 0 for no average at all.
    """

    def __init__(self, names: Mapping[nn.Parameter, str], decay: float) -> None:
        self.decay = decay
        self._parameters = list(names) if decay else []
        self.averages: dict[str, Tensor] = {
            names[parameter]: parameter.detach().clone() for parameter in self._parameters
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights that update `step` has made."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        both = list(zip(self.averages.values(), self._parameters, strict=True))
        for spread in (True, False):  # over ranks or not, which no call may mix
            own = [(a, p.detach()) for a, p in both if isinstance(p, DTensor) == spread]
            if own:
                average([a for a, _ in own], [p for _, p in own], step)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the averages in the place of the weights."""
        for parameter, average in zip(self._parameters, self.averages.values(), strict=True):
            parameter.copy_(average)
