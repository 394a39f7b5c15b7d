"""The gradients of flow, denoiser and heads, which every stage that trains them shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.randomness import normal, uniform
from worldflow.training.batches import Batch
from worldflow.training.engine import Engine
from worldflow.training.losses import (
    DenoiserLoss,
    FlowLoss,
    mean_losses,
    on_device,
    score_of,
)
from worldflow.world_model import WorldModel


@dataclass
class Piece:
    """Clips that are computed at once, and the noise on their latents (B, T, N, C)."""

    batch: Batch
    noise: Tensor


@dataclass(frozen=True)
class Counts:
    """What sums over a batch are divided by.

    Attributes:
        frames: valid ones of the whole batch, on all ranks.
        later: those of them that have a past in their clip; at least 1.
    """

    frames: int
    later: int

    @classmethod
    def of(cls, picks: Sequence[tuple[int, int]], lengths: np.ndarray, clip: int) -> Counts:
        """Of clips (episode, first frame) that may reach beyond their episodes."""
        frames = sum(min(clip, int(lengths[index]) - start) for index, start in picks)
        return cls(frames, max(frames - len(picks), 1))


class FlowGradients:
    """Computes the gradients; flow, denoiser and heads are prepared for it.

    Args:
        world: what is trained.
        engine: computes the updates.
        head_weight: of the heads' losses beside the denoiser's.

    Attributes:
        losses: the modules that must be told of pieces, see `Engine.reduction`.
    """

    def __init__(self, world: WorldModel, engine: Engine, head_weight: float) -> None:
        self._world, self._engine, self._head_weight = world, engine, head_weight
        engine.prepare(self.modules())
        self._flow_loss = engine.replicated(FlowLoss(world))
        self._denoiser_loss = engine.replicated(DenoiserLoss(world))
        self.losses = (self._flow_loss, self._denoiser_loss)

    def modules(self) -> list[nn.Module]:
        """All but the codec."""
        world = self._world
        return [world.conditioning, world.flow, world.denoiser, *world.heads]

    def backward(self, piece: Piece, counts: Counts) -> tuple[dict[str, Tensor], Tensor]:
        """Add the gradients of the flow's NLL, of the denoiser's error and of the heads' losses.

        One backward pass of the NLL gives both the flow's gradients and, at its input, the score
        that the denoiser learns: the target costs nothing extra.

        Returns:
            the piece's share of the losses, and the gradient of the NLL (in nats a latent, times
            the number of ranks, over which the engine averages) at the noisy latents.
        """
        ranks, sigma = self._engine.ranks, self._world.config.sigma
        batch = on_device(piece.batch, ranks.device)
        noisy = (batch.latents + sigma * piece.noise.to(ranks.device)).requires_grad_()
        latents = counts.frames * self._world.dimensions
        with self._engine.autocast():
            total_nll, past = self._flow_loss(noisy, batch)
            nll = total_nll / latents
        # the engine averages gradients over ranks; what is wanted is their sum
        (ranks.size * nll).backward()
        assert noisy.grad is not None
        score = score_of(latents / ranks.size * noisy.grad, sigma)
        with self._engine.autocast():
            sums = self._denoiser_loss(noisy.detach(), past, score, batch)
        losses, total = mean_losses(sums, counts.frames, counts.later, self._head_weight)
        (ranks.size * total).backward()
        figures = {"nll": nll.detach(), **{name: loss.detach() for name, loss in losses.items()}}
        return figures, noisy.grad


def clip_noise(
    generators: Sequence[torch.Generator | None],
    shape: Sequence[int],
    known: Tensor,
    action_dropout: float,
) -> tuple[Tensor, Tensor]:
    """What is random of B clips, by a generator a row: it does not depend on the number of ranks.

    Args:
        generators: of the rows.
        shape: (T, N, C).
        known: (B, T) bool, whether the action was recorded.
        action_dropout: share of the clips whose actions are hidden.

    Returns:
        the noise on the latents (B, T, N, C), and which actions are shown, (B, T) bool.
    """
    like = torch.empty(0)
    noise = normal(generators, len(generators), shape, like)
    hidden = uniform(generators, len(generators), like) < action_dropout
    return noise, known & ~hidden[:, None]


def some_text(
    generators: Sequence[torch.Generator | None], text: Tensor, text_dropout: float
) -> Tensor:
    """The texts (B, W) of B clips, zeros for the share `text_dropout` of them.

    Nothing is drawn where there is no text, so that a world without learns as if this were not.
    """
    if not text.shape[1]:
        return text
    hidden = uniform(generators, len(generators), text) < text_dropout
    return torch.where(hidden[:, None], 0.0, text)
