"""How videos that begin with a given image compare with it, and with what really came after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from prompting.accuracy import RESAMPLES
from prompting.given import Given, request_from
from worldflow.evaluation.resampling import episode_weights, interval
from worldflow.generation.dreaming import dream_video
from worldflow.metrics import decibels, squared_error
from worldflow.randomness import generator_of
from worldflow.world_model import WorldModel

Figure = dict[str, float | None]  # an interval as JSON


def first_frame(
    world: WorldModel, images: np.ndarray, temperature: float, seed: int
) -> dict[str, int | Figure]:
    """How the first frame shown compares with the image, and with the codec's own rendering.

    `worldflow generate` shows given frames as the codec renders them; an env with `initial_frames`
    shows what it goes on from, which is noisy and denoised. Each image is dreamed from by itself,
    as the command does it: in a batch of another size the last bit of a sum, and so a grey level,
    may be another.

    Args:
        world: whose codec renders each image again, outside the dream.
        images: given, (B, H, W, 3) uint8.
        temperature: of the one frame that is dreamed.
        seed: of it and of the resamples.

    Returns:
        JSON-able: `images`; how many are `equal` to the codec's rendering, bit by bit;
        `largest_difference` from it (grey levels); `psnr` against the image (dB, an interval), and
        `env_psnr`, of an env's first observation.
    """
    shown, codec, observed = [], [], []
    for image, stream in zip(images, np.random.SeedSequence(seed).spawn(len(images)), strict=True):
        request = request_from(world, image[None], 2, temperature)
        state = world.initial_state(request.frames, request.actions[:, :1], generator_of(stream))
        observed.append(world.decode(state.latents)[0].numpy())
        shown.append(dream_video(world, request, [generator_of(stream)]).frames[0, 0].numpy())
        codec.append(world.reconstruct(torch.from_numpy(image[None]))[0].numpy())
    error = squared_error(np.stack(observed), images)
    env = {"env_psnr": decibels_of(error, seed)}
    return compared(images, np.stack(shown), np.stack(codec), seed) | env


def compared(
    images: np.ndarray, shown: np.ndarray, codec: np.ndarray, seed: int
) -> dict[str, int | Figure]:
    """The figures of `first_frame` of what is shown and what it should be, (B, H, W, 3) uint8."""
    difference = np.abs(codec.astype(int) - shown).max(axis=(1, 2, 3))
    return {
        "images": len(images),
        "equal": int((difference == 0).sum()),
        "largest_difference": int(difference.max()),
        "psnr": decibels_of(squared_error(shown, images), seed),
    }


def psnr_of(
    given: Given, ways: Mapping[str, np.ndarray], games: Sequence[str], seed: int
) -> dict[str, dict[str, list[Figure | None]]]:
    """PSNR (dB) of each game, way and frame against what is real; None where nothing is.

    Errors are averaged over clips before they become decibels.

    Args:
        given: of which games the first question's answers tell.
        ways: frames (B, T, H, W, 3) uint8 of each.
        games: their names.
        seed: of the resamples.
    """
    errors = {name: squared_error(frames, given.frames) for name, frames in ways.items()}
    figures: dict[str, dict[str, list[Figure | None]]] = {}
    for number, game in enumerate(games):
        figures[game] = {name: [] for name in ways}
        there = given.valid & (given.labels[:, :1] == number)
        for t, rows in enumerate(there.T):
            for name, error in errors.items():
                figure = decibels_of(error[rows, t], seed) if rows.any() else None
                figures[game][name].append(figure)
    return figures


def motion_of(
    given: Given,
    ways: Mapping[str, np.ndarray],
    games: Sequence[str],
    real: Collection[str],
) -> dict[str, dict[str, list[float | None]]]:
    """Root mean square change (grey levels) to each frame but the first: a still has none.

    Args:
        given: as for `psnr_of`.
        ways: as for `psnr_of`.
        games: as for `psnr_of`.
        real: names of ways that end where the episode does; None behind it.
    """
    figures: dict[str, dict[str, list[float | None]]] = {}
    for number, game in enumerate(games):
        figures[game] = {}
        of_game = given.labels[:, 0] == number
        for name, frames in ways.items():
            change = squared_error(frames[of_game, 1:], frames[of_game, :-1])
            there = given.valid[of_game, 1:] | (name not in real)
            figures[game][name] = [
                float(np.sqrt(change[rows, t].mean())) if rows.any() else None
                for t, rows in enumerate(there.T)
            ]
    return figures


def decibels_of(error: np.ndarray, seed: int) -> Figure:
    """PSNR of mean squared errors (B,), which are averaged first, with its interval."""
    weights = episode_weights(len(error), RESAMPLES, seed)
    return interval(decibels(weights @ error / weights.sum(axis=1))).to_dict()
