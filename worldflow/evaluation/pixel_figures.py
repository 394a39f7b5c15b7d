"""How many bits a world needs at most for a byte of held-out frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.simulate import chunks, clip_noise, scores
from worldflow.metrics import bootstrap
from worldflow.pixel_bits import fit_pixel_scale, pixel_bits
from worldflow.world_model import WorldModel


@torch.no_grad()
def pixel_figures(world: WorldModel, clips: RealClips, batch: int, seed: int) -> dict[str, Any]:
    """The bits of real clips, given the frames that a dream starts with.

    A world of a time before this likelihood has no scale of it; it is then fitted to the world's
    own contexts.

    Args:
        world: in eval mode.
        clips: longer than the world's context.
        batch: clips scored at once.
        seed: of the noise on the latents.

    Returns:
        JSON-able: the means over clips of what `pixel_bits` gives, with intervals over clips.
    """
    if not world.codec.likelihood.fitted:
        frames = torch.from_numpy(world.context.frames).flatten(0, 1)
        fit_pixel_scale(world.codec, frames, world.config.sigma, seed)
    log_prob = scores(world, clips, clips.actions, batch, seed).log_likelihood
    parts: dict[str, list[Tensor]] = {}
    for piece in chunks(len(clips.frames), batch):
        frames = torch.from_numpy(clips.frames[piece])
        generators = [clip_noise(seed, number) for number in range(piece.start, piece.stop)]
        noisy = world.noisy_latents(frames, generators)
        for name, bits in pixel_bits(world, frames, noisy, log_prob[piece]).items():
            parts.setdefault(name, []).append(bits)
    context = world.config.context
    valid = clips.valid[:, context:]
    figures = {}
    for name, tensors in parts.items():
        values = torch.cat(tensors)[:, context:].double().numpy()
        figures[name] = bootstrap((values * valid).sum(axis=1) / valid.sum(axis=1)).to_dict()
    return figures
