"""A world's head of the end, measured on real play and taught by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ends.play import Play
from worldflow.errors import ConfigError
from worldflow.heads.episode_memory import EpisodeTerminationHead
from worldflow.world_model import WorldModel

HELD_OUT = 10  # of so many episodes one is measured on
AT_ONCE = 32  # episodes that are measured together


@dataclass
class HeadTraining:
    """How the head learns.

    Attributes:
        epochs: over the play of all rounds, in each round.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        clip: most frames that are learned from at once. Longer episodes are cut, and each piece
            begins with an empty memory; TakeCover's have 526 at most.
        batch: clips of an update.
    """

    epochs: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    clip: int = 526
    batch: int = 16

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or self.clip < 2 or self.weight_decay < 0.0:
            raise ConfigError(
                "head.epochs and head.batch must be at least 1, head.clip 2, and head.weight_decay "
                "not negative"
            )
        if not self.learning_rate > 0.0:
            raise ConfigError(f"head.learning_rate is {self.learning_rate}; it must be positive")


def head_of(world: WorldModel, name: str) -> EpisodeTerminationHead:
    """The head that is measured or learns.

    Raises:
        ConfigError: the world has none that reads the episode.
    """
    head = world.termination_head
    if not isinstance(head, EpisodeTerminationHead):
        raise ConfigError(
            f"world={name} does not read the end of an episode from all of it: pretrain it with "
            "world.heads.termination_reads=episode"
        )
    return head


def held_out(play: Play) -> Tensor:
    """The episodes that are measured on and never learned from, every tenth, (E,) bool."""
    return torch.arange(len(play.lengths)) % HELD_OUT == HELD_OUT - 1


@torch.no_grad()
def probabilities(head: EpisodeTerminationHead, play: Play) -> Tensor:
    """The probability of the end in each step, (steps,), episode after episode."""
    noisy = play.noisy.split(play.lengths.tolist())
    condition = play.condition.split(play.lengths.tolist())
    found: list[Tensor] = [torch.zeros(0)] * len(noisy)
    order = play.lengths.argsort()  # those of like length together
    for some in order.split(AT_ONCE):
        episodes = some.tolist()
        padded = (pad_sequence([x[e].float() for e in episodes], True) for x in (noisy, condition))
        chances = head.probability(head(*padded, play.lengths[some]))
        for row, e in enumerate(episodes):
            found[e] = chances[row, 1 : len(noisy[e])]
    return torch.cat(found)


def ends(play: Play) -> Tensor:
    """Whether each step ended its episode, (steps,) bool."""
    marks = torch.zeros(play.steps, dtype=torch.bool)
    marks[(play.lengths - 1).cumsum(0) - 1] = play.ended
    return marks


def log_loss(head: EpisodeTerminationHead, plays: Sequence[Play]) -> float | None:
    """Nats a step of the episodes that are held out; None where there are none."""
    losses = []
    for play in plays:
        held = play.of(held_out(play))
        if not len(held.lengths):
            continue
        losses.append(step_losses(probabilities(head, held), held))
    return float(torch.cat(losses).mean()) if losses else None


def step_losses(p: Tensor, play: Play) -> Tensor:
    """Nats of each step, (steps,), of these probabilities of its end."""
    p = p.double().clamp(1e-9, 1 - 1e-9)
    return -torch.where(ends(play), p.log(), (1 - p).log())


def teach(
    head: EpisodeTerminationHead,
    plays: Sequence[Play],
    config: HeadTraining,
    seed: np.random.SeedSequence,
) -> None:
    """Let the head learn from the play of all rounds, from where it is; in place.

    Raises:
        ConfigError: nothing in it ended.
    """
    generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
    play = Play.joined([p.of(~held_out(p)) for p in plays])
    if not play.ended.any():
        raise ConfigError(
            f"real play of {play.steps} steps has 0 ends to learn from: set more first_steps and "
            "real_steps"
        )
    head.requires_grad_(True)
    adam = torch.optim.AdamW(
        head.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    for _ in range(config.epochs):
        pieces = _pieces(play, config.clip, generator)
        order = torch.randperm(len(pieces), generator=generator)
        for batch in order.split(config.batch):
            adam.zero_grad()
            _loss(head, play, [pieces[k] for k in batch.tolist()]).backward()
            adam.step()
    head.requires_grad_(False)


def _pieces(play: Play, clip: int, generator: torch.Generator) -> list[tuple[int, int, int]]:
    """Episodes in pieces of at most `clip` frames: number, first frame, last frame.

    The first frame of a piece is a past only and the last one of the piece before, so that each
    step is in one. Where longer ones are cut is drawn.
    """
    found = []
    for episode, length in enumerate(play.lengths.tolist()):
        cuts = [0, length - 1]
        if length > clip:
            first = int(torch.randint(1, clip, (), generator=generator))
            cuts = [0, *range(first, length - 1, clip - 1), length - 1]
        found += [(episode, first, last) for first, last in pairwise(cuts)]
    return found


def _loss(
    head: EpisodeTerminationHead, play: Play, pieces: Sequence[tuple[int, int, int]]
) -> Tensor:
    """Nats a step."""
    begins = play.begins.tolist()
    noisy, condition, ended = [], [], []
    for episode, first, last in pieces:
        begin = begins[episode]
        frames = slice(begin + first, begin + last + 1)
        noisy.append(play.noisy[frames].float())
        # no action led to the first frame
        led = torch.cat((play.condition[begin : begin + 1], play.condition[frames][1:]))
        condition.append(led.float())
        marks = torch.zeros(last + 1 - first)
        marks[-1] = float(play.ended[episode] and last + 1 == play.lengths[episode])
        ended.append(marks)
    lengths = torch.tensor([len(marks) for marks in ended])
    logits = head(pad_sequence(noisy, True), pad_sequence(condition, True), lengths)
    losses = head.loss(logits, pad_sequence(ended, True))
    steps = (torch.arange(logits.shape[1]) < lengths[:, None]).float()
    steps[:, 0] = 0.0
    return (losses * steps).sum() / steps.sum()
