"""The second stage for the denoiser and the heads alone, under a flow that stays as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldflow.training.batches import Steps
from worldflow.training.frozen_past import FrozenPastStage
from worldflow.training.loop import step_generators
from worldflow.training.losses import DenoiserLoss, mean_losses, on_device, score_of
from worldflow.training.past_features import tensors


@dataclass(frozen=True)
class KeptClips:
    """Clips of an update, as they are kept: under the noise that their pasts were read with.

    Attributes:
        past: features (B, T, N, width of the past).
        noisy: (B, T, N, C).
        condition: (B, T, D); without an action in the first frame.
        steps: what is recorded of them.
    """

    past: Tensor
    noisy: Tensor
    condition: Tensor
    steps: Steps

    def mean_losses(
        self, sums: dict[str, Tensor], head_weight: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """See `mean_losses`."""
        later = self.steps.valid[:, 1:].sum().clamp(min=1)
        return mean_losses(sums, self.steps.valid.sum(), later, head_weight)


class DenoiserStage(FrozenPastStage):
    """Trains the denoiser on the scores of a frozen flow, and the heads that read its features.

    The target is the score of log p(y~_t | past). What the denoiser sees is less: nothing before
    its clip, which begins anywhere in an episode, and nothing after the frame, whose terms of the
    score are left out. Given what it sees, the mean of the target is the score of what it sees.

    The noise is that under which the pasts were read, once for all of training: when they step,
    flow and denoiser see the same noisy past.
    """

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        return [self.world.denoiser, *self.world.heads]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the denoiser's error and of the heads' losses.

        Returns:
            the losses.
        """
        clips, world = self.kept(step), self.world
        target = self.score(clips.noisy, clips.past)
        known = world.flow.global_block.project_past(clips.past)
        with self.engine.autocast():
            loss = DenoiserLoss(world)
            sums = loss.under(clips.condition, clips.noisy, known, target, clips.steps)
        losses, total = clips.mean_losses(sums, self.config.head_weight)
        total.backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def kept(self, step: int) -> KeptClips:
        """The clips of an update."""
        frames, device = self.frames, self.engine.ranks.device
        picks = self.picks(step)
        index = frames.numbers(picks, self.config.clip)
        stored = tensors(frames.past[index], frames.noisy[index], frames.condition[index])
        past, noisy, condition = (x.to(device) for x in stored)
        text = frames.text([episode for episode, _ in picks]).to(device)
        condition[:, 0] = self.world.conditioning.initial(len(picks), text)
        steps = on_device(self.episodes.steps(picks, self.config.clip), device)
        return KeptClips(past, noisy, condition, steps)

    def score(self, noisy: Tensor, past: Tensor) -> Tensor:
        """sigma * d(-log p(y~_t | past))/d(y~_t) of clips: noisy (B, T, N, C), past likewise."""
        frames = noisy.flatten(0, 1).requires_grad_()
        with self.engine.autocast():
            nll = -self.world.flow.log_prob_given(frames, past.flatten(0, 1)).sum()
        (gradient,) = torch.autograd.grad(nll, frames)
        return score_of(gradient.unflatten(0, noisy.shape[:2]), self.world.config.sigma)

    def picks(self, step: int) -> list[tuple[int, int]]:
        """The clips of an update; those drawn for a rare frame have it anywhere in them."""
        rng, _ = step_generators(self.seed, self.name, step)
        count = self.config.batch
        picks = self.clips.sample(count, rng)
        rare, drawn = self.draw_rare(rng, count, step)
        episodes, frames = self.frames.places(drawn)
        starts = (frames - rng.integers(self.config.clip, size=len(drawn))).clip(min=0)
        for row, pick in zip(rare.nonzero()[0], zip(episodes, starts, strict=True), strict=True):
            picks[row] = int(pick[0]), int(pick[1])
        return picks
