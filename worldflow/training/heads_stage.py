"""The second stage for the heads alone, under a flow and a denoiser that stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldflow.training.denoiser_stage import DenoiserStage
from worldflow.training.losses import DenoiserLoss


class HeadsStage(DenoiserStage):
    """Trains the heads on clips, from the features of the past and of a frozen denoiser."""

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        return self.world.heads

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the heads' losses.

        Returns:
            the losses.
        """
        clips, world = self.kept(step), self.world
        with torch.no_grad(), self.engine.autocast():
            _, features = world.denoiser(clips.noisy, clips.condition)
            known = world.flow.global_block.project_past(clips.past)
        with self.engine.autocast():
            loss = DenoiserLoss(world)
            sums = loss.heads(features, known, clips.noisy, clips.condition, clips.steps)
        losses, total = clips.mean_losses(sums, self.config.head_weight)
        total.backward()
        return {name: loss.detach() for name, loss in losses.items()}
