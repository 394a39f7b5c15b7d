"""From episodes to what is said of each of their transitions, whatever kind the actions are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from worldflow.errors import ConfigError
from worldflow.labelling.box import check_box, search
from worldflow.labelling.calibration import tempered
from worldflow.labelling.latents import noisy_draws
from worldflow.labelling.posterior import average, check_search, filter_actions, log_prior_of
from worldflow.world_model import WorldModel

Labels = dict[str, np.ndarray]
# From draws of noisy latents (B, T, N, C) and the rows' lengths (B,) to arrays (B, T, ...).
Inference = Callable[[Sequence[Tensor], Tensor], Labels]


def by_enumeration(
    world: WorldModel,
    prior: Sequence[float] | None,
    beam: int,
    delay: int,
    noise_samples: int,
    temper: float,
) -> Inference:
    """Of discrete actions, see `action_posterior`.

    Returns:
        a function that gives `action`, the likeliest one, `confidence`, its `posterior`, and
        `entropy` of the tempered posterior; `log_posterior`, not tempered; `spread`, the difference
        of log p(x_t | x_<t, a) between the best and the worst action, nats; and `kept`.

    Raises:
        DataError: actions that are not discrete, or no such prior.
        ConfigError: a number out of range.
    """
    log_prior = log_prior_of(world, prior)
    check_search(beam, delay, noise_samples)

    def infer(draws: Sequence[Tensor], lengths: Tensor) -> Labels:
        found = average(
            [filter_actions(world, noisy, lengths, log_prior, beam, delay) for noisy in draws]
        )
        exact, likelihood = found.log_posterior.cpu().numpy(), found.log_likelihood.cpu().numpy()
        log_posterior = tempered(exact, log_prior.numpy(), temper)
        posterior = np.exp(log_posterior)
        return {
            "action": posterior.argmax(axis=2),
            "confidence": posterior.max(axis=2).astype(np.float32),
            "entropy": -(posterior * log_posterior).sum(axis=2).astype(np.float32),
            "posterior": posterior.astype(np.float32),
            "log_posterior": exact.astype(np.float32),
            "spread": np.ptp(likelihood, axis=2).astype(np.float32),
            "kept": found.kept.cpu().numpy().astype(np.float32),
        }

    return infer


def by_search(world: WorldModel, candidates: int, rounds: int, noise_samples: int) -> Inference:
    """Of actions in a box, see `search_actions`.

    Returns:
        a function that gives `action`, the posterior's mean, `entropy` relative to uniform, and
        `confidence`, the share of the box that this rules out, 1 - exp(entropy).

    Raises:
        DataError: actions that are no box.
        ConfigError: a number out of range, or several draws of the noise.
    """
    check_box(world, candidates, rounds)
    if noise_samples != 1:
        raise ConfigError(
            f"noise_samples={noise_samples}: the search of a box takes one draw of the noise; set "
            "it to 1"
        )

    def infer(draws: Sequence[Tensor], lengths: Tensor) -> Labels:
        found = search(world, draws[0], lengths, candidates, rounds)
        entropy = found.entropy.cpu().numpy()
        return {
            "action": found.mean.cpu().numpy().astype(np.float32),
            "confidence": (1.0 - np.exp(entropy)).astype(np.float32),
            "entropy": entropy.astype(np.float32),
        }

    return infer


def padded_draws(
    world: WorldModel, videos: Sequence[np.ndarray], noises: Sequence[torch.Generator], samples: int
) -> tuple[list[Tensor], Tensor]:
    """Draws of the noisy latents of videos of different lengths.

    The noise of a video depends on its own generator and length, whatever else is in the batch.

    Args:
        world: whose codec and sigma count.
        videos: B of (T, H, W, 3) uint8.
        noises: a generator for each.
        samples: number of draws.

    Returns:
        the draws, each (B, T, N, C) with zeros after a video's end; and the lengths (B,).
    """
    rows = [
        noisy_draws(world, torch.from_numpy(frames)[None], samples, [noise])
        for frames, noise in zip(videos, noises, strict=True)
    ]
    draws = [
        pad_sequence([row[sample][0] for row in rows], batch_first=True)
        for sample in range(samples)
    ]
    return draws, torch.tensor([len(frames) for frames in videos])
