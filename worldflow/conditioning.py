"""The action that leads to a frame, as the vector that conditions the model at that frame."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.actions import ActionSpec
from worldflow.errors import DataError


class ActionConditioning(nn.Module):
    """Embeds actions (B, T, ...) to (B, T, D); the first frame of a sequence has no action.

    Discrete actions have a table, boxes are scaled to [-1, 1] and projected. "none" and an action
    that is not known are the same learned vector as that of a first frame.

    Args:
        spec: the kind and limits of the actions.
        width: D.
    """

    low: Tensor
    high: Tensor

    def __init__(self, spec: ActionSpec, width: int) -> None:
        super().__init__()
        self.spec, self.width = spec, width
        self.null = nn.Parameter(torch.randn(width))
        if spec.kind == "discrete":
            self.table = nn.Embedding(spec.n, width)
        elif spec.kind == "box":
            self.projection = nn.Linear(len(spec.low), width)
        self.register_buffer("low", torch.tensor(spec.low), persistent=False)
        self.register_buffer("high", torch.tensor(spec.high), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, actions: Tensor, known: Tensor | None = None) -> Tensor:
        """Whole sequences: `actions[:, t]` led to frame t; `actions[:, 0]` is not used.

        Args:
            actions: (B, T, ...).
            known: (B, T) bool, whether the action was recorded; None: all were.
        """
        embedded = self.embed(actions, known)
        first = self.initial(len(actions))[:, None]
        return torch.cat((first, embedded[:, 1:]), dim=1)

    def initial(self, batch: int) -> Tensor:
        """The condition of a first frame: (B, D)."""
        return self.mlp(self.null).expand(batch, -1)

    def embed(self, actions: Tensor, known: Tensor | None = None) -> Tensor:
        """Actions (..., *spec.shape), known (...) or None for all, to (..., D)."""
        if self.spec.kind == "discrete":
            vector = self.table(actions)
        elif self.spec.kind == "box":
            unit = 2.0 * (actions - self.low) / (self.high - self.low) - 1.0
            vector = self.projection(unit)
        else:
            return self.mlp(self.null.expand(*actions.shape, -1))
        if known is not None:
            vector = torch.where(known[..., None], vector, self.null)
        return self.mlp(vector)


def wrong_actions(actions: Tensor, spec: ActionSpec, rng: np.random.Generator) -> Tensor:
    """Other actions than the true ones, of the same shape.

    Discrete: another choice, uniformly. Box: each dimension moved by a quarter to three quarters of
    its range, around the range's end.

    Raises:
        DataError: there is no other action, as there is only one or none.
    """
    shape = tuple(actions.shape)
    if spec.kind == "discrete" and spec.n > 1:
        return (actions + torch.from_numpy(rng.integers(1, spec.n, shape))) % spec.n
    if spec.kind == "box":
        low, high = torch.tensor(spec.low), torch.tensor(spec.high)
        moved = torch.from_numpy(rng.uniform(0.25, 0.75, shape).astype(np.float32))
        return low + ((actions - low) / (high - low) + moved) % 1.0 * (high - low)
    raise DataError(f"a {spec.kind} action with n={spec.n} has no wrong alternative")
