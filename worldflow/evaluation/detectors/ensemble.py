"""An ensemble of small worlds: where the data leave the next frame open, they disagree.

Each predicts the codec's latents of the next frame from those of a few past ones and the action.
Disagreement, the variance of their predictions (Pathak et al. 2019, arXiv 1906.04161), depends on
past and action alone, not on the frame itself; the error of their mean depends on the frame as
well, and is the curiosity of Pathak et al. 2017 (arXiv 1705.05363).
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldflow.conditioning import Conditioning
from worldflow.data.windows import ClipSampler
from worldflow.evaluation.detectors.detector import Detector
from worldflow.evaluation.detectors.fitted import fit_once, seeded
from worldflow.evaluation.simulate import chunks
from worldflow.flow.transformer import TransformerConfig, VideoTransformer
from worldflow.training.latents import LatentEpisodes
from worldflow.training.loop import StageConfig, learning_rate
from worldflow.world_model import WorldModel

MEMBERS = 3
SIZE = TransformerConfig(width=96, depth=2, heads=4)
WINDOW = 4  # frames of the past
CLIP = 8
BATCH = 16


class NextLatents(nn.Module):
    """A small world without likelihood: the next frame's latents, as one guess.

    Args:
        world: of whose latents and actions.
    """

    def __init__(self, world: WorldModel) -> None:
        super().__init__()
        self.conditioning = Conditioning(world.action_spec, SIZE.width)
        self.inward = nn.Linear(world.channels, SIZE.width)
        self.transformer = VideoTransformer(SIZE, world.tokens, WINDOW, SIZE.width)
        self.outward = nn.Linear(SIZE.width, world.channels)
        nn.init.zeros_(self.outward.weight)  # starts as a copy of the last frame
        nn.init.zeros_(self.outward.bias)

    def forward(self, latents: Tensor, actions: Tensor, known: Tensor | None = None) -> Tensor:
        """Frames 1 to T - 1, (B, T - 1, N, C), from latents (B, T, N, C) of those before them."""
        past = latents[:, :-1]
        condition = self.conditioning(actions, known)[:, 1:]
        return past + self.outward(self.transformer(self.inward(past), condition))


def fit_members(
    world: WorldModel,
    data: LatentEpisodes,
    lengths: np.ndarray,
    episodes: np.ndarray,
    updates: int,
    folder: Path,
    seed: int,
    progress: bool,
) -> list[NextLatents]:
    """The ensemble's members, which differ in initial weights and in the order of the data.

    Args:
        world: its codec made `data`.
        data: the latents of the world's dataset.
        lengths: frames of each of its episodes.
        episodes: indices of the training episodes.
        updates: of each member, of 16 clips of 8 frames.
        folder: where the members lie, or are written; one that is there is not trained again.
        seed: of the first member; the others have the next ones.
        progress: show progress bars.
    """
    clips = ClipSampler(lengths, episodes, CLIP)
    members = []
    for number in range(MEMBERS):
        member = seeded(lambda: NextLatents(world), seed + number)
        facts = [data.key, episodes.tolist(), updates, seed + number, vars(SIZE), WINDOW]
        key = hashlib.sha256(json.dumps([*facts, CLIP, BATCH]).encode()).hexdigest()
        rng = np.random.default_rng(seed + number)
        label = f"small world {number + 1} of {MEMBERS}" if progress else ""

        def fit(
            member: nn.Module = member, rng: np.random.Generator = rng, label: str = label
        ) -> None:
            _fit(member, data, clips, updates, rng, label)

        fit_once(member, folder / f"small_world_{number}.safetensors", key, fit)
        assert isinstance(member, NextLatents)
        members.append(member)
    return members


class _OfEnsemble(Detector):
    """What a frame's score is made of, from the members' predictions.

    Args:
        world: whose codec is used.
        members: the ensemble.
        batch: clips at once.
    """

    def __init__(self, world: WorldModel, members: list[NextLatents], batch: int) -> None:
        self._world, self._members, self._batch = world, members, batch

    @torch.no_grad()
    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """See `Detector`; a clip's first frame is predicted by none."""
        result = np.full(frames.shape[:2], np.nan)
        for piece in chunks(len(frames), self._batch):
            shown, taken = torch.from_numpy(frames[piece]), torch.from_numpy(actions[piece])
            latents = self._world.codec.encode_frames(shown)
            predictions = torch.stack([member(latents, taken) for member in self._members])
            values = self._measure(predictions, latents[:, 1:])
            result[piece, 1:] = values.mean(dim=(-1, -2)).numpy()
        return result

    @abstractmethod
    def _measure(self, predictions: Tensor, latents: Tensor) -> Tensor:
        """(B, T - 1, N, C) from predictions (M, B, T - 1, N, C) and what came (B, T - 1, N, C)."""


class Disagreement(_OfEnsemble):
    """Variance of the members' predictions, mean over a frame's latents."""

    name = "ensemble"

    def _measure(self, predictions: Tensor, latents: Tensor) -> Tensor:
        return predictions.var(dim=0, unbiased=False)


class PredictionError(_OfEnsemble):
    """Squared error of the members' mean prediction, mean over a frame's latents."""

    name = "curiosity"

    def _measure(self, predictions: Tensor, latents: Tensor) -> Tensor:
        return (predictions.mean(dim=0) - latents).square()


def _fit(
    member: nn.Module,
    data: LatentEpisodes,
    clips: ClipSampler,
    updates: int,
    rng: np.random.Generator,
    label: str,
) -> None:
    schedule = StageConfig(steps=updates, warmup=min(100, updates // 2))
    optimizer = torch.optim.AdamW(member.parameters(), lr=schedule.learning_rate)
    for step in tqdm(range(updates), desc=label, unit="update", disable=not label):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, step)
        batch = data.batch(clips.sample(BATCH, rng), CLIP)
        predicted = member(batch.latents, batch.actions, batch.known)
        valid = batch.valid[:, 1:].float()
        error = (predicted - batch.latents[:, 1:]).square().mean(dim=(-1, -2))
        loss = (error * valid).sum() / valid.sum().clamp(min=1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(member.parameters(), 1.0)
        optimizer.step()
