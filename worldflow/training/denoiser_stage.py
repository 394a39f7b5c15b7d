"""The second stage for the denoiser and the heads alone, under a flow that stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldflow.training.flow_gradients import SCORE_LIMIT
from worldflow.training.frozen_past import FrozenPastStage
from worldflow.training.loop import step_generators
from worldflow.training.losses import DenoiserLoss, on_device
from worldflow.training.past_features import tensors


class DenoiserStage(FrozenPastStage):
    """Trains the denoiser on the scores of a frozen flow, and the heads that read its features.

    The target is the score of log p(y~_t | past), without what later frames say of y~_t: the
    denoiser does not see them, and their score has the mean zero given what it sees. Clips begin
    anywhere in an episode, while the target knows all of the past; so their first frames, which
    have less before them than the denoiser's window, count only where an episode begins. The noise
    is that under which the pasts were read, once for all of training, as flow and denoiser see the
    same noisy past when they step.
    """

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        world = self.world
        heads = (world.reward_head, world.termination_head)
        return [world.denoiser, *(head for head in heads if head is not None)]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the denoiser's error and of the heads' losses.

        Returns:
            the losses.
        """
        world, config, device = self.world, self.config, self.engine.ranks.device
        picks = self._picks(step)
        rows = self.frames.rows(picks, config.clip)
        frames = self.frames
        past, noisy, condition = (
            x.to(device)
            for x in tensors(frames.past[rows], frames.noisy[rows], frames.condition[rows])
        )
        steps = on_device(self.episodes.steps(picks, config.clip), device)
        begins = torch.tensor([start == 0 for _, start in picks], device=device)
        steps.valid[~begins, : world.config.denoiser.window - 1] = False
        target = self.score(noisy, past)
        with self.engine.autocast():
            sums = DenoiserLoss(world).under(condition, noisy, target, steps)
        counts = steps.valid.sum(), steps.valid[:, 1:].sum().clamp(min=1)
        losses = {n: s / counts[n != "denoiser"] for n, s in sums.items()}
        weight = {name: 1.0 if name == "denoiser" else config.head_weight for name in losses}
        torch.stack([weight[name] * loss for name, loss in losses.items()]).sum().backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def score(self, noisy: Tensor, past: Tensor) -> Tensor:
        """sigma * d(-log p(y~_t | past))/d(y~_t) of clips: noisy (B, T, N, C), past likewise."""
        frames = noisy.flatten(0, 1).requires_grad_()
        with self.engine.autocast():
            nll = -self.world.flow.log_prob_given(frames, past.flatten(0, 1)).sum()
        (gradient,) = torch.autograd.grad(nll, frames)
        score = self.world.config.sigma * gradient.unflatten(0, noisy.shape[:2])
        return score.clamp(-SCORE_LIMIT, SCORE_LIMIT)

    def _picks(self, step: int) -> list[tuple[int, int]]:
        """Clips of an update; those drawn for a rare frame have it anywhere in them."""
        rng, _ = step_generators(self.seed, self.name, step)
        count = self.config.batch
        picks = self.clips.sample(count, rng)
        rare = rng.random(count) < self.rare_share(step)
        drawn = self.rare[rng.integers(max(len(self.rare), 1), size=int(rare.sum()))]
        episodes, frames = self.frames.picks(drawn)
        starts = (frames - rng.integers(self.config.clip, size=len(drawn))).clip(min=0)
        for row, pick in zip(rare.nonzero()[0], zip(episodes, starts, strict=True), strict=True):
            picks[row] = int(pick[0]), int(pick[1])
        return picks
