"""Random network distillation (Burda et al. 2018, arXiv 1810.12894).

A network learns, on the training episodes, to say what another network of random weights says of a
frame and the one before it; on what is unlike them it says something else. Pixels are standardised
and clipped to 5 standard deviations, as in the paper.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.frames import to_float
from worldflow.evaluation.detectors.detector import Detector
from worldflow.evaluation.detectors.fitted import fit_once, seeded
from worldflow.evaluation.simulate import chunks
from worldflow.training.codec_frames import FramePairs

FEATURES = 256
BATCH = 64
LEARNING_RATE = 3e-4
STATISTICS_PAIRS = 1024
LIMIT = 5.0
SMALLEST_STD = 1.0 / 127.5  # one grey level, for pixels that never change


class RandomNetwork(nn.Module):
    """The random target and its student.

    Args:
        frame_shape: (H, W, 3).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, _ = frame_shape
        self.register_buffer("mean", torch.zeros(6, height, width))
        self.register_buffer("std", torch.ones(6, height, width))
        self.target = _features()
        self.student = nn.Sequential(
            _features(), nn.ReLU(), nn.Linear(FEATURES, FEATURES), nn.ReLU(),
            nn.Linear(FEATURES, FEATURES),
        )  # fmt: skip
        with torch.no_grad():  # lazy layers take their sizes
            self._both(torch.zeros(1, 6, height, width))
        self.target.requires_grad_(False)

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Mean squared error (B,) of the student, of pixels (B, 3, H, W) in [-1, 1]."""
        pixels = torch.cat([previous, current], dim=1)
        wanted, given = self._both(((pixels - self.mean) / self.std).clamp(-LIMIT, LIMIT))
        return (wanted - given).square().mean(dim=1)

    def _both(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.target(pixels), self.student(pixels)


def _features() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(6, 32, 8, stride=4, padding=2),
        nn.LeakyReLU(),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.LeakyReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.LeakyReLU(),
        nn.Flatten(),
        nn.LazyLinear(FEATURES),
    )


class RandomNetworkDistillation(Detector):
    """The error of a student that learned a random network's features on training episodes.

    Args:
        dataset: what the world learned from.
        episodes: indices of its training episodes.
        updates: of the student, of 64 pairs of frames each.
        folder: where the network lies, or is written.
        batch: clips at once.
        seed: of weights and order.
        progress: show a progress bar.
    """

    name = "RND"

    def __init__(
        self,
        dataset: EpisodeDataset,
        episodes: np.ndarray,
        updates: int,
        folder: Path,
        batch: int,
        seed: int,
        progress: bool,
    ) -> None:
        self._batch = batch
        self.network = seeded(lambda: RandomNetwork(dataset.frame_shape), seed)
        facts = [dataset.fingerprint(), episodes.tolist(), updates, seed, FEATURES, BATCH]
        key = hashlib.sha256(json.dumps([*facts, LEARNING_RATE]).encode()).hexdigest()

        def fit() -> None:
            pairs = FramePairs(dataset, episodes, seed)
            _fit(self.network, pairs, updates, np.random.default_rng(seed), progress)

        fit_once(self.network, folder / "random_network.safetensors", key, fit)

    @torch.no_grad()
    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """See `Detector`; the first frame of a clip has no frame before it."""
        result = np.full(frames.shape[:2], np.nan)
        for piece in chunks(len(frames), self._batch):
            pixels = to_float(torch.from_numpy(np.ascontiguousarray(frames[piece])))
            errors = self.network(pixels[:, :-1].flatten(0, 1), pixels[:, 1:].flatten(0, 1))
            result[piece, 1:] = errors.reshape(len(pixels), -1).numpy()
        return result


def _fit(
    network: nn.Module,
    pairs: FramePairs,
    updates: int,
    rng: np.random.Generator,
    progress: bool,
) -> None:
    def draw(count: int) -> tuple[Tensor, Tensor]:
        return pairs.read(pairs.clips.sample(count, rng), np.zeros(count, np.bool_))

    assert isinstance(network, RandomNetwork)
    both = torch.cat(draw(STATISTICS_PAIRS), dim=1)
    network.mean.copy_(both.mean(dim=0))
    network.std.copy_(both.std(dim=0).clamp(min=SMALLEST_STD))
    optimizer = torch.optim.Adam(network.student.parameters(), lr=LEARNING_RATE)
    for _ in tqdm(range(updates), desc="random network", unit="update", disable=not progress):
        optimizer.zero_grad(set_to_none=True)
        network(*draw(BATCH)).mean().backward()
        optimizer.step()
