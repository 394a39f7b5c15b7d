"""What stages minimise where clips are seen: sums are divided by counts over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from worldflow.codec import Codec, reconstruction_loss
from worldflow.data.frames import to_float
from worldflow.training.batches import Batch, Steps
from worldflow.world_model import WorldModel

# What the score estimates is a standard normal number (the noise on a latent over sigma). Values
# beyond this are errors of a half-trained flow, rare but large enough to drown all others.
SCORE_LIMIT = 4.0
Clips = TypeVar("Clips", bound=Steps)


def on_device(batch: Clips, device: torch.device) -> Clips:
    """The same clips on a device."""
    return replace(batch, **{f.name: getattr(batch, f.name).to(device) for f in fields(batch)})


class FlowLoss(nn.Module):
    """The negative log-likelihood of noisy clips, in nats."""

    def __init__(self, world: WorldModel) -> None:
        super().__init__()
        self.conditioning, self.flow = world.conditioning, world.flow

    def forward(self, noisy: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of noisy latents (B, T, N, C).

        Returns:
            the sum over valid frames, and what was known of each before it was made,
            (B, T, N, width), for heads: they do not teach the flow.
        """
        out = self.flow(noisy, self.conditioning(batch.actions, batch.known, batch.text))
        return -(out.log_prob * batch.valid).sum(), out.features.detach()


class DenoiserLoss(nn.Module):
    """The errors of denoiser and heads."""

    def __init__(self, world: WorldModel) -> None:
        super().__init__()
        self.conditioning, self.denoiser = world.conditioning, world.denoiser
        self.reward_head, self.termination_head = world.reward_head, world.termination_head

    def forward(
        self, noisy: Tensor, past: Tensor, target: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Sums over valid frames.

        Args:
            noisy: (B, T, N, C).
            past: what the flow knows of each before it is made, (B, T, N, width).
            target: what the denoiser shall predict, (B, T, N, C).
            batch: everything else.

        Returns:
            `denoiser`, of the mean squared error of each frame; `reward` and `termination`, if the
            world has their heads, over the frames that have a past.
        """
        condition = self.conditioning(batch.actions, batch.known, batch.text)
        return self.under(condition, noisy, past, target, batch)

    def under(
        self, condition: Tensor, noisy: Tensor, past: Tensor, target: Tensor, batch: Steps
    ) -> dict[str, Tensor]:
        """The same where the condition (B, T, D) of the frames is known already."""
        prediction, features = self.denoiser(noisy, condition)
        error = (prediction - target).square().mean(dim=(2, 3))
        heads = self.heads(features, past, noisy, condition, batch)
        return {"denoiser": (error * batch.valid).sum(), **heads}

    def heads(
        self, features: Tensor, past: Tensor, noisy: Tensor, condition: Tensor, batch: Steps
    ) -> dict[str, Tensor]:
        """The heads' sums, from the denoiser's features of the frames and what `under` is given."""
        sums = {}
        # the first frame of a clip has no past to read a reward or an end from
        later = batch.valid.clone()
        later[:, 0] = False
        if self.reward_head is not None:
            logits = self.reward_head(features)
            sums["reward"] = (self.reward_head.loss(logits, batch.rewards) * later).sum()
        if self.termination_head is not None:
            logits = self.termination_head.of_clips(features, past, noisy, condition)
            losses = self.termination_head.loss(logits, batch.terminated)
            sums["termination"] = (losses * later).sum()
        return sums


def score_of(gradient: Tensor, sigma: float) -> Tensor:
    """What the denoiser learns, sigma * d(-log p)/d(y~), from the gradient of the NLL in nats."""
    return (sigma * gradient).clamp(-SCORE_LIMIT, SCORE_LIMIT)


def mean_losses(
    sums: Mapping[str, Tensor], frames: Tensor | int, later: Tensor | int, head_weight: float
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of denoiser and heads, and their weighted sum.

    Args:
        sums: of `DenoiserLoss`.
        frames: that the denoiser's is a sum of.
        later: frames with a past, that the heads' are sums of.
        head_weight: of the heads' losses beside the denoiser's.
    """
    losses = {n: s / (frames if n == "denoiser" else later) for n, s in sums.items()}
    weighted = [x if n == "denoiser" else head_weight * x for n, x in losses.items()]
    return losses, torch.stack(weighted).sum()


class JointCodecLoss(nn.Module):
    """What the codec learns by itself: the likelihood of pixels, and the weighted error.

    Args:
        codec: is trained.
        sigma: of the noise on its latents.
        error: whether the weighted error is wanted.
    """

    def __init__(self, codec: Codec, sigma: float, error: bool) -> None:
        super().__init__()
        self.codec, self._sigma, self._error = codec, sigma, error

    def forward(
        self, frames: Tensor, weight: Tensor, noise: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The latents (B, N, C), log p(x | y~) of each frame (B,), and the weighted error.

        Args:
            frames: (B, H, W, 3) uint8.
            weight: of pixels, (B, 1, H, W).
            noise: standard normal, (B, N, C).
            level: share of the noise under which the weighted error is measured, (B, 1, 1).
        """
        pixels, noise = to_float(frames), self._sigma * noise
        latents = self.codec.encode(pixels)
        log_prob = self.codec.log_prob(frames, latents + noise)
        if not self._error:
            return latents, log_prob, log_prob.new_zeros(())
        decoded = self.codec.decode(latents + level * noise).float()
        return latents, log_prob, reconstruction_loss(decoded, pixels, weight)
