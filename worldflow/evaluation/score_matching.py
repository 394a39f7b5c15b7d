"""How much of the flow's exact score the denoiser has learned, on held-out real clips.

The gradient of a clip's log-likelihood at its last frame is the score of that frame given its past,
sigma * d(-log p(y~_<=t)) / d(y~_t); at the last but one frame it is the score given the following
frame too. The denoiser learns the mean of such gradients, see `worldflow.denoiser`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldflow.data.windows import load_clips
from worldflow.denoiser import tweedie
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.simulate import chunks, clip_noise
from worldflow.metrics import Estimate, bootstrap
from worldflow.training.losses import SCORE_LIMIT
from worldflow.world_model import WorldModel

PIECE_FRAMES = 20
EXACT = ("exact score, lookahead 0", "exact score, lookahead 1")


def score_figures(world: WorldModel, clips: RealClips, batch: int, seed: int) -> dict[str, Any]:
    """Compare the denoiser's prediction with the exact scores.

    Clips are cut into pieces, and everything is measured at the same frames: the last but one of
    each piece, scored once as if it were the last and once with the frame after it. A denoiser
    without lookahead can explain all of the first score. One that looks ahead sees the next frame
    but not the action that led to it, so that it can explain almost all of the second. Scores are
    clamped to +-`SCORE_LIMIT`, as those that the denoiser learned.

    Args:
        world: in eval mode.
        clips: of two valid frames or more each.
        batch: pieces scored at once.
        seed: of the noise on the latents.

    Returns:
        JSON-able: the denoiser's `lookahead`; the number of `frames` measured; `clamped`, the share
        of scores beyond the limit; `explained`, R^2 = 1 - E|prediction - score|^2 / E|score|^2 of
        each exact score; `squared_error` against the clean latents, of the noisy ones and of what
        denoiser and exact scores make of them. Intervals are over clips.
    """
    pieces, owners = cut(clips)
    parts: dict[str, list[Tensor]] = {}
    for piece in chunks(len(owners), batch):
        for name, measured in _measure(world, pieces, piece, seed).items():
            parts.setdefault(name, []).append(measured)
    of_clips = {}
    for name, tensors in parts.items():
        values = torch.cat(tensors).double().numpy()
        of_clips[name] = np.array([values[owners == row].mean() for row in np.unique(owners)])
    return {
        "lookahead": world.config.denoiser.lookahead,
        "frames": len(owners),
        "clamped": float(of_clips["clamped"].mean()),
        "explained": {
            name: explained(of_clips[f"{name}, missed"], of_clips[f"{name}, power"]).to_dict()
            for name in EXACT
        },
        "squared_error": {
            name: bootstrap(of_clips[name]).to_dict() for name in ("noisy", "denoiser", *EXACT)
        },
    }


def explained(missed: np.ndarray, power: np.ndarray) -> Estimate:
    """1 - mean(missed) / mean(power), both (clips,), with its interval over clips.

    The interval is that of the ratio linearised around its value (delta method).
    """
    ratio = missed.mean() / power.mean()
    return bootstrap(1.0 - ratio - (missed - ratio * power) / power.mean())


def cut(clips: RealClips) -> tuple[RealClips, np.ndarray]:
    """Every clip in equal pieces of at most `PIECE_FRAMES` frames, and whose they are, (pieces,).

    Fewer frames than the pieces are left over at the end of a clip.
    """
    picks: list[tuple[int, int]] = []
    ends: list[int] = []
    for row, frames in enumerate(clips.valid.sum(axis=1).tolist()):
        count = math.ceil(frames / PIECE_FRAMES)
        picks += [(row, index * (frames // count)) for index in range(count)]
        ends += [frames // count] * count
    longest = max(ends)
    frames, _ = load_clips(list(clips.frames), picks, longest)
    actions, _ = load_clips(list(clips.actions), picks, longest)
    valid = np.arange(longest) < np.array(ends)[:, None]
    owners = np.array([row for row, _ in picks])
    text = None if clips.text is None else clips.text[owners]
    return RealClips(frames, actions, valid, text=text), owners


class Examined(NamedTuple):
    """The last but one frame of each piece, B in all.

    Attributes:
        frames: (B, H, W, 3) uint8.
        clean: their latents (B, N, C), and so are the others.
        noisy: the same and the world's noise.
        matched: the denoiser's prediction of the score.
        exact: the scores by autograd, in the order of `EXACT`.
    """

    frames: Tensor
    clean: Tensor
    noisy: Tensor
    matched: Tensor
    exact: tuple[Tensor, Tensor]


def examine(world: WorldModel, pieces: RealClips, piece: slice, seed: int) -> Examined:
    """Noise some pieces, each by its number, and ask the denoiser and the flow for the score."""
    frames, valid = torch.from_numpy(pieces.frames[piece]), torch.from_numpy(pieces.valid[piece])
    rows, last = torch.arange(len(valid)), valid.sum(dim=1) - 1
    with torch.no_grad():
        generators = [clip_noise(seed, number) for number in range(piece.start, piece.stop)]
        noisy = world.noisy_latents(frames, generators)
        text = pieces.told(piece)
        condition = world.conditioning(torch.from_numpy(pieces.actions[piece]), text=text)
        matched = world.denoiser(noisy, condition)[0][rows, last - 1]
        shown = frames[rows, last - 1]
        clean = world.codec.encode_frames(shown)
    exact = exact_scores(world, noisy, condition, last)
    return Examined(shown, clean, noisy[rows, last - 1], matched, exact)


def _measure(world: WorldModel, pieces: RealClips, piece: slice, seed: int) -> dict[str, Tensor]:
    """Means over the latents of the last but one frame of each piece, (B,)."""
    _, clean, noisy, prediction, exact = examine(world, pieces, piece, seed)
    sigma = world.config.sigma
    values = {
        "clamped": exact[0].abs() > SCORE_LIMIT,
        "noisy": (noisy - clean).square(),
        "denoiser": (tweedie(noisy, prediction, sigma) - clean).square(),
    }
    for name, score in zip(EXACT, exact, strict=True):
        score = score.clamp(-SCORE_LIMIT, SCORE_LIMIT)
        values[name] = (tweedie(noisy, score, sigma) - clean).square()
        values[f"{name}, missed"] = (prediction - score).square()
        values[f"{name}, power"] = score.square()
    return {name: value.float().mean(dim=(1, 2)) for name, value in values.items()}


def exact_scores(
    world: WorldModel, noisy: Tensor, condition: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores (B, N, C) of frame `last` - 1, without and with the frame `last` (B,) after it."""
    noisy = noisy.detach().requires_grad_()
    rows = torch.arange(len(last))
    with torch.enable_grad():
        negative = -world.config.sigma * world.flow(noisy, condition).log_prob
        earlier = negative[torch.arange(noisy.shape[1]) < last[:, None]].sum()
        (before,) = torch.autograd.grad(earlier, noisy, retain_graph=True)
        (after,) = torch.autograd.grad(negative[rows, last].sum(), noisy)
    before, after = before[rows, last - 1], after[rows, last - 1]
    return before, before + after
