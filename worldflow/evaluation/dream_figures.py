"""Dreams beside real clips, in figures: errors, likelihoods, novelty, the denoiser's score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.pixel_figures import pixel_figures
from worldflow.evaluation.score_matching import score_figures
from worldflow.evaluation.simulate import Dreams, errors, novelty_curves, similarities
from worldflow.metrics import bootstrap, decibels, masked_mean, psnr_over_time
from worldflow.novelty import noise_floor
from worldflow.world_model import WorldModel


def dream_figures(
    world: WorldModel,
    clips: RealClips,
    dreams: Dreams,
    reconstructed: np.ndarray,
    batch: int,
    seed: int,
) -> dict[str, Any]:
    """What dreams are beside the real clips, and what the world says of these.

    Args:
        world: in eval mode.
        clips: longer than the world's context.
        dreams: from their beginnings, under their actions.
        reconstructed: the clips through the codec, (B, T, H, W, 3) uint8.
        batch: clips scored at once.
        seed: of the noise on their latents.

    Returns:
        JSON-able; None where no clip is as long as a step needs.
    """
    context = world.config.context
    valid = clips.valid[:, context:]
    squared = errors(clips, dreams, reconstructed, context)
    of_clips = {name: (e * valid).sum(1) / valid.sum(1) for name, e in squared.items()}
    novelty, nll = novelty_curves(world, clips, dreams, batch, seed)
    nll["noise floor"] = noise_floor(world.config.sigma)
    similar = similarities(clips, dreams, reconstructed, context)
    similar_clips = {name: (s * valid).sum(1) / valid.sum(1) for name, s in similar.items()}
    passes = dreams.iterations[:, valid].mean(axis=(0, 1))
    return {
        "context": context,
        "clips": len(clips.frames),
        "captions": None if clips.text is None else int(clips.text.any(axis=1).sum()),
        "steps": np.arange(1, valid.shape[1] + 1).tolist(),
        "clips_at_step": valid.sum(axis=0).tolist(),
        "psnr": {n: bootstrap(decibels(e)).to_dict() for n, e in of_clips.items()},
        "psnr_over_time": {n: _listed(psnr_over_time(e, valid)) for n, e in squared.items()},
        "ssim": {n: bootstrap(s).to_dict() for n, s in similar_clips.items()},
        "ssim_over_time": {n: _listed(masked_mean(s, valid)) for n, s in similar.items()},
        "novelty_over_time": {name: _listed(curve) for name, curve in novelty.items()},
        "nll_per_latent": nll,
        "pixel_bits": pixel_figures(world, clips, batch, seed),
        "score": score_figures(world, clips, batch, seed),
        "jacobi_iterations": {
            "global" if i == 0 else f"local {i}": float(n) for i, n in enumerate(passes)
        },
        "tokens": world.tokens,
    }


def _listed(curve: np.ndarray) -> list[float | None]:
    """As JSON has no NaN: None where no clip is that long."""
    return [None if math.isnan(value) else value for value in curve.tolist()]
