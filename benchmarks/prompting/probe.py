"""A small network that answers questions about clips from their frames alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompting.questions import UNASKED, UNSURE, Questions
from worldflow.errors import ConfigError

WIDTHS = (24, 32, 48, 64)  # of layers that halve height and width
BATCH = 128  # clips that are answered at once


@dataclass
class ProbeTraining:
    """How the probe learns.

    Attributes:
        clips: real clips that it learns from; each is shown as it is, and as the codec renders it.
        steps: updates.
        batch: clips of an update.
        learning_rate: of Adam, which falls to 0 in a straight line.
        sure: an answer that the probe thinks less probable than this counts as none.
    """

    clips: int = 3600
    steps: int = 900
    batch: int = 64
    learning_rate: float = 2e-3
    sure: float = 0.8

    def __post_init__(self) -> None:
        if min(self.clips, self.steps, self.batch) < 1 or self.learning_rate <= 0:
            raise ConfigError(
                f"probe.clips={self.clips}, probe.steps={self.steps}, probe.batch={self.batch} and "
                f"probe.learning_rate={self.learning_rate} must be positive"
            )
        if not 0.0 <= self.sure < 1.0:
            raise ConfigError(f"probe.sure is {self.sure}; use a probability below 1")


class Probe(nn.Module):
    """Logits of all answers to all questions from clips of T frames.

    The frames are the channels of one image, so that where things are and how they move can both
    be read. Answers are independent of each other.

    Args:
        frames: T.
        size: height and width, a multiple of 16.
        questions: what can be asked.
    """

    def __init__(self, frames: int, size: int, questions: Questions) -> None:
        super().__init__()
        self.counts = [len(answers) for answers in questions.values()]
        channels = [3 * frames, *WIDTHS]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(WIDTHS[-1] * (size // 16) ** 2, sum(self.counts))

    def forward(self, clips: Tensor) -> list[Tensor]:
        """Clips (B, T, H, W, 3) uint8 to logits (B, A) of each question."""
        x = clips.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 127.5 - 1.0
        return list(self.head(self.layers(x)).split(self.counts, dim=1))


def train_probe(
    pools: list[np.ndarray],
    labels: np.ndarray,
    questions: Questions,
    training: ProbeTraining,
    seed: int,
) -> Probe:
    """A probe that has learned from labelled clips.

    Args:
        pools: the same clips in one or several renderings, each (B, T, H, W, 3) uint8.
        labels: numbers of their answers, (B, Q); `UNASKED` teaches nothing.
        questions: what they answer.
        training: how.
        seed: of weights and order.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):  # initial weights come from torch's own generator
        torch.manual_seed(seed)
        probe = Probe(pools[0].shape[1], pools[0].shape[2], questions)
    optimizer = torch.optim.Adam(probe.parameters(), training.learning_rate)
    for step in range(training.steps):
        optimizer.param_groups[0]["lr"] = training.learning_rate * (1 - step / training.steps)
        picks = rng.integers(len(labels), size=training.batch)
        pool = rng.integers(len(pools), size=training.batch)
        clips = np.stack([pools[p][i] for p, i in zip(pool, picks, strict=True)])
        logits, wanted = probe(torch.from_numpy(clips)), torch.from_numpy(labels[picks])
        losses = [
            F.cross_entropy(found, wanted[:, q], ignore_index=UNASKED)
            for q, found in enumerate(logits)
            if (wanted[:, q] != UNASKED).any()
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    return probe.eval()


@torch.inference_mode()
def probe_answers(probe: Probe, clips: np.ndarray, sure: float) -> np.ndarray:
    """The most probable answer to every question, (B, Q) int64; `UNSURE` below `sure`."""
    rows = []
    for start in range(0, len(clips), BATCH):
        parts = []
        for logits in probe(torch.from_numpy(clips[start : start + BATCH])):
            best, answer = logits.softmax(dim=1).max(dim=1)
            parts.append(torch.where(best >= sure, answer, UNSURE))
        rows.append(torch.stack(parts, dim=1))
    return torch.cat(rows).numpy()
