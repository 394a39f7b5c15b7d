"""Do the actions belong to the frames they stand beside? A check that costs seconds.

A world that learned from actions shifted by a frame looks fine and misleads every agent. So before
the flow is trained, a small model of the dynamics, linear in the last two frames with coefficients
that depend on the action, is fitted three times: with the actions as they are, and shifted by a
frame either way. If a shift gives held-out frames a higher likelihood, the shift is suspected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldflow.actions import ActionSpec

FEATURES = 24  # principal components of a frame
MAX_FRAMES = 20_000
RIDGE = 1e-3  # of the mean square of a regressor
MIN_FRAMES = 300
MAX_DRIVES = 40  # numbers that describe an action; the regression grows with their square
DEVIATIONS = 4.0  # by which the gain must exceed its standard error


@dataclass(frozen=True)
class AlignmentCheck:
    """What the shifts do to the likelihood.

    Attributes:
        gains: nats a frame over the actions as they are, of held-out frames, by shift: +1 says that
            `actions[t + 1]` stands in the place of `actions[t]`.
        errors: standard error of each gain.
    """

    gains: dict[int, float]
    errors: dict[int, float]

    @property
    def suspected(self) -> int | None:
        """The shift under which frames are clearly likelier; None if there is none."""
        best = max(self.gains, key=lambda shift: self.gains[shift])
        clear = self.gains[best] > DEVIATIONS * self.errors[best]
        return best if clear else None

    def warning(self) -> str | None:
        """What to tell the user; None if nothing is suspected."""
        shift = self.suspected
        if shift is None:
            return None
        other = "one frame earlier" if shift == 1 else "one frame later"
        name = "led_to" if shift == 1 else "taken_at"
        return (
            f"the actions seem to be shifted: frames are likelier by {self.gains[shift]:.2f} "
            f"(+- {self.errors[shift]:.2f}) nats each if every action led to the frame {other} "
            f"than recorded. If that is so, import the data with data.alignment={name}, or, where "
            "that is their alignment already, shift the actions in the files"
        )


def check_alignment(
    frames: Sequence[np.ndarray], actions: Sequence[np.ndarray], spec: ActionSpec
) -> AlignmentCheck | None:
    """Compare the actions as they are with the two shifts.

    Args:
        frames: of each episode, any description of its frames (T, D): latents, or small images.
        actions: of each episode, (T, ...), all known; `actions[t]` led to `frames[t]`.
        spec: kind of the actions.

    Returns:
        the comparison, or None where it cannot be made: fewer than `MIN_FRAMES` frames, actions
        without alternatives or with more than `MAX_DRIVES`, or a single very long episode.
    """
    if not spec.has_alternatives:
        return None
    episodes = [k for k, each in enumerate(frames) if len(each) >= 5]
    # t from 2 to T - 2, so that the same frames are predicted under every shift
    total = sum(len(frames[k]) - 3 for k in episodes)
    drives = spec.n if spec.kind == "discrete" else 1 + len(spec.low)
    if total < MIN_FRAMES or len(episodes) < 2 or drives > MAX_DRIVES:
        return None
    reduced = _reduce([frames[k].reshape(len(frames[k]), -1) for k in episodes])
    driven = [_drive(actions[k][: len(y)], spec) for k, y in zip(episodes, reduced, strict=False)]
    target = np.concatenate([y[2:-1] for y in reduced])
    past = np.concatenate([np.concatenate((y[1:-2], y[:-3]), axis=1) for y in reduced])
    # whole episodes are held out
    number = np.concatenate([np.full(len(y) - 3, k) for k, y in enumerate(reduced)])
    held_out = number % 3 == 0
    if held_out.all():  # one episode filled the sample
        return None
    scores = {
        shift: _log_likelihood(
            past,
            np.concatenate([a[2 + shift : len(a) - 1 + shift] for a in driven]),
            target,
            held_out,
        )
        for shift in (-1, 0, 1)
    }
    gains, errors = {}, {}
    for shift in (-1, 1):
        difference = scores[shift] - scores[0]
        gains[shift] = float(difference.mean())
        errors[shift] = float(difference.std() / np.sqrt(len(difference)))
    return AlignmentCheck(gains, errors)


def _reduce(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Each frame by its principal components over all frames, of unit scale in the first."""
    count = 0
    kept = []
    for each in frames:
        kept.append(each[: MAX_FRAMES - count].astype(np.float64))
        count += len(kept[-1])
        if count >= MAX_FRAMES:
            break
    kept = [each for each in kept if len(each) >= 5]
    stacked = np.concatenate(kept)
    mean = stacked.mean(axis=0)
    _, vectors = np.linalg.eigh((stacked - mean).T @ (stacked - mean))
    basis = vectors[:, ::-1][:, :FEATURES]
    reduced = [(each - mean) @ basis for each in kept]
    scale = np.concatenate(reduced).std()
    return [each / (scale or 1.0) for each in reduced]


def _drive(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """Actions (T, ...) as numbers (T, A) about one: a choice among n, or a box in [-1, 1]."""
    if spec.kind == "discrete":
        return np.eye(spec.n)[actions]
    low, high = np.array(spec.low), np.array(spec.high)
    unit = 2.0 * (actions - low) / (high - low) - 1.0
    return np.concatenate((np.ones((len(unit), 1)), unit), axis=1)


def _log_likelihood(
    past: np.ndarray, drive: np.ndarray, target: np.ndarray, held_out: np.ndarray
) -> np.ndarray:
    """log p of each held-out target in nats, under a Gaussian whose mean is bilinear."""
    ones = np.ones((len(past), 1))
    past = np.concatenate((past, ones), axis=1)
    x = (past[:, :, None] * drive[:, None, :]).reshape(len(past), -1)
    x, y = np.concatenate((past, x), axis=1), target
    train = ~held_out
    gram = x[train].T @ x[train]
    penalty = RIDGE * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), x[train].T @ y[train])
    residual = y - x @ weights
    variance = residual[train].var(axis=0) + 1e-6
    terms = residual[held_out] ** 2 / variance + np.log(2 * np.pi * variance)
    return -0.5 * terms.sum(axis=1)
