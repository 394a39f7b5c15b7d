"""Clips of episodes as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldflow.codec import Codec
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import Arrays, load_clips


@dataclass(kw_only=True)
class Steps:
    """What is recorded of clips of B rows and T frames beside the frames.

    Attributes:
        actions: (B, T, ...).
        known: (B, T) bool, whether the action was recorded.
        rewards: (B, T).
        terminated: (B, T) bool.
        valid: (B, T) bool, False after an episode's end.
        text: of each clip, (B, W), zeros where there is none; W is 0 in a world without text.
    """

    actions: Tensor
    known: Tensor
    rewards: Tensor
    terminated: Tensor
    valid: Tensor
    text: Tensor


@dataclass(kw_only=True)
class Batch(Steps):
    """Clips of B rows and T frames.

    Attributes:
        latents: (B, T, N, C).
    """

    latents: Tensor


class Episodes:
    """What the flow learns from.

    Attributes:
        latents: (T, N, C) of each episode, and so on for the others, see `Batch`.
        text: of all episodes, (E, W).
    """

    latents: Arrays
    actions: list[np.ndarray]
    known: list[np.ndarray]
    rewards: list[np.ndarray]
    terminated: list[np.ndarray]
    text: np.ndarray

    def batch(self, picks: list[tuple[int, int]], clip: int) -> Batch:
        """The clips of `clip` frames at (episode, first frame)."""
        latents, _ = load_clips(self.latents, picks, clip)
        return Batch(latents=torch.from_numpy(latents), **vars(self.steps(picks, clip)))

    def steps(self, picks: list[tuple[int, int]], clip: int) -> Steps:
        """What is recorded of the clips, without their latents."""
        loaded = {
            name: load_clips(getattr(self, name), picks, clip)
            for name in ("actions", "known", "rewards", "terminated")
        }
        steps = {name: torch.from_numpy(values) for name, (values, _) in loaded.items()}
        text = torch.from_numpy(self.text[[index for index, _ in picks]])
        return Steps(**steps, valid=torch.from_numpy(loaded["actions"][1]), text=text)

    def read_steps(self, dataset: EpisodeDataset, text: np.ndarray | None) -> None:
        """Take all but the latents from a dataset; `text` (E, W) of its episodes, None: none."""
        self.text = np.zeros((len(dataset), 0), np.float32) if text is None else text
        every = [dataset.steps_of(index) for index in range(len(dataset))]
        self.actions = [each.actions for each in every]
        self.known = [each.known for each in every]
        self.rewards = [each.rewards for each in every]
        self.terminated = [each.terminated for each in every]


class FrameEpisodes(Episodes):
    """Episodes whose frames are encoded when they are asked for, by a codec that may still change.

    Args:
        codec: in eval mode when it is asked.
        dataset: whose frames are encoded.
        text: of its episodes, (E, W); None: none.
    """

    def __init__(
        self, codec: Codec, dataset: EpisodeDataset, text: np.ndarray | None = None
    ) -> None:
        self._codec, self._dataset = codec, dataset
        self.read_steps(dataset, text)

    @torch.no_grad()
    def batch(self, picks: list[tuple[int, int]], clip: int) -> Batch:
        """The clips; beyond an episode's end are the latents of its last frame."""
        device = next(self._codec.parameters()).device
        frames = read_frames(self._dataset, picks, clip)
        latents = [self._codec.encode_frames(row.to(device)).float().cpu() for row in frames]
        return Batch(latents=torch.stack(latents), **vars(self.steps(picks, clip)))


def read_frames(dataset: EpisodeDataset, picks: list[tuple[int, int]], clip: int) -> Tensor:
    """Clips (B, T, H, W, 3) uint8; beyond an episode's end its last frame is repeated."""
    rows = [dataset.read(index, start, start + clip).frames for index, start in picks]
    whole = [row[np.minimum(np.arange(clip), len(row) - 1)] for row in rows]
    return torch.from_numpy(np.stack(whole))
