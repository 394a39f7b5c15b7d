"""A world's head of the end, taught by real play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ends.play import Play
from worldflow.errors import ConfigError
from worldflow.termination import PAST, TerminationHead
from worldflow.world_model import WorldModel

HELD_OUT = 10  # of so many episodes one is measured on
BATCH, AT_ONCE = 512, 4096  # steps that are learned from, or measured, together


@dataclass
class HeadTraining:
    """How the head learns.

    Attributes:
        epochs: over the play of all rounds, in each round.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        noise: on the features that it learns from, a standard deviation, against learning single
            episodes by heart.
        keep_one_in: of the steps that end nothing one in so many is learned from in an epoch, and
            counts as many times.
    """

    epochs: int = 2
    learning_rate: float = 3e-4
    weight_decay: float = 0.02
    noise: float = 0.1
    keep_one_in: int = 4

    def __post_init__(self) -> None:
        if min(self.epochs, self.keep_one_in) < 1 or min(self.weight_decay, self.noise) < 0.0:
            raise ConfigError(
                "head.epochs and head.keep_one_in must be at least 1, head.weight_decay and "
                "head.noise not negative"
            )
        if not self.learning_rate > 0.0:
            raise ConfigError(f"head.learning_rate is {self.learning_rate}; it must be positive")


def head_of(world: WorldModel, name: str) -> TerminationHead:
    """The head that learns.

    Raises:
        ConfigError: the world has none that reads the past.
    """
    head = world.termination_head
    if not isinstance(head, TerminationHead) or head.reads != PAST:
        raise ConfigError(
            f"world={name} does not read the end of an episode from the past: pretrain it with "
            "world.heads.termination_reads=past"
        )
    return head


def held_out(play: Play) -> Tensor:
    """The steps that are measured on and never learned from, (F,) bool."""
    return play.episode % HELD_OUT == HELD_OUT - 1


@torch.no_grad()
def probabilities(head: TerminationHead, play: Play) -> Tensor:
    """The probability of the end in each step, (F,)."""
    pieces = play.past.split(AT_ONCE)
    return torch.cat([head.probability(head(p.float(), p.float())) for p in pieces])


def log_loss(head: TerminationHead, plays: Sequence[Play]) -> float | None:
    """Nats a step of the episodes that are held out; None where there are none."""
    losses = []
    for play in plays:
        p = probabilities(head, play).double().clamp(1e-9, 1 - 1e-9)
        loss = -torch.where(play.ended, p.log(), (1 - p).log())
        losses.append(loss[held_out(play)])
    held = torch.cat(losses)
    return float(held.mean()) if len(held) else None


def teach(
    head: TerminationHead, plays: Sequence[Play], config: HeadTraining, seed: np.random.SeedSequence
) -> None:
    """Let the head learn from the play of all rounds, from where it is; in place.

    Raises:
        ConfigError: nothing in it ended.
    """
    generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
    past, ended = torch.cat([p.past for p in plays]), torch.cat([p.ended for p in plays])
    learned = ~torch.cat([held_out(p) for p in plays])
    ends, others = (torch.nonzero(learned & which).flatten() for which in (ended, ~ended))
    if not len(ends) or len(others) < config.keep_one_in:
        raise ConfigError(
            f"real play of {len(past)} steps has {len(ends)} ends to learn from and {len(others)} "
            "other steps: set more first_steps and real_steps"
        )
    head.requires_grad_(True)
    adam = torch.optim.AdamW(
        head.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    for _ in range(config.epochs):
        some = torch.randperm(len(others), generator=generator)[: len(others) // config.keep_one_in]
        steps = torch.cat((ends, others[some]))
        steps = steps[torch.randperm(len(steps), generator=generator)]
        for batch in steps.split(BATCH):
            features = past[batch].float()
            features += config.noise * torch.randn(features.shape, generator=generator)
            weight = torch.where(ended[batch], 1.0, float(config.keep_one_in))
            losses = head.loss(head(features, features), ended[batch])
            adam.zero_grad()
            ((losses * weight).sum() / weight.sum()).backward()
            adam.step()
    head.requires_grad_(False)
