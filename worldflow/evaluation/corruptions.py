"""What is done to real clips so that a detector of strangeness should speak up.

A corruption takes clips of 2T real frames with their actions and makes clips of T frames that could
not, or hardly, come from the game, strange from the first frame to the last. Where only some frames
or actions differ from those of the game, `changed` says which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from worldflow.actions import ActionSpec
from worldflow.conditioning import wrong_actions

ACTIONS, DYNAMICS, APPEARANCE, SIMPLER, ANOTHER_GAME = FAMILIES = (
    "wrong actions",
    "changed dynamics",
    "changed appearance",
    "simpler images",
    "another game",
)


@dataclass(frozen=True)
class Video:
    """B clips of T frames.

    Attributes:
        frames: (B, T, H, W, 3) uint8.
        actions: (B, T, ...).
        changed: (B, T) bool, whether the frame is strange given its past and the actions.
    """

    frames: np.ndarray
    actions: np.ndarray
    changed: np.ndarray


Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], Video]


@dataclass(frozen=True)
class Corruption:
    """A way to make clips strange.

    Attributes:
        name: short.
        family: one of `FAMILIES`.
        change: (frames (B, 2T, H, W, 3), actions (B, 2T, ...), rng) to clips of T frames.
    """

    name: str
    family: str
    change: Change


def corruptions(spec: ActionSpec) -> list[Corruption]:
    """Those that need nothing but real clips; without alternatives, actions cannot be wrong."""
    found = []
    if spec.has_alternatives:
        found += [
            Corruption("wrong", ACTIONS, _wrong(spec)),
            Corruption("shuffled", ACTIONS, shuffled),
        ]
    return [
        *found,
        Corruption("skipped", DYNAMICS, skipped),
        Corruption("repeated", DYNAMICS, repeated),
        Corruption("reversed", DYNAMICS, backwards),
        Corruption("brightness", APPEARANCE, _of_frames(brightness)),
        Corruption("noise", APPEARANCE, _of_frames(noise)),
        Corruption("occluder", APPEARANCE, _of_frames(occluder)),
        Corruption("texture", APPEARANCE, _of_frames(texture)),
        Corruption("blurred", SIMPLER, _of_frames(blurred)),
        Corruption("constant", SIMPLER, _of_frames(constant)),
        Corruption("black", SIMPLER, _of_frames(black)),
    ]


def unchanged(frames: np.ndarray, actions: np.ndarray) -> Video:
    """The first T of 2T frames as they are, with none of them changed."""
    length = frames.shape[1] // 2
    return Video(frames[:, :length], actions[:, :length], np.zeros((len(frames), length), np.bool_))


def _wrong(spec: ActionSpec) -> Change:
    def wrong(frames: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> Video:
        """Every action is another than the true one."""
        real = unchanged(frames, actions)
        taken = wrong_actions(torch.from_numpy(real.actions), spec, rng).numpy()
        return Video(real.frames, taken, ~real.changed)

    return wrong


def shuffled(frames: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> Video:
    """The actions are those of the clip before, of another episode.

    With two actions about half of them are the true ones: only the others count as changed.
    """
    real = unchanged(frames, actions)
    taken = np.roll(real.actions, 1, axis=0)
    differs = taken != real.actions
    return Video(real.frames, taken, differs.reshape(*differs.shape[:2], -1).any(axis=-1))


def skipped(frames: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> Video:
    """Every second frame is left out, with its action: the game at twice its speed."""
    taken = frames[:, ::2], actions[:, ::2]
    return Video(*taken, np.ones(taken[0].shape[:2], np.bool_))


def repeated(frames: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> Video:
    """Every frame comes twice, with its action; the second one is the one that is changed."""
    times = np.arange(frames.shape[1] // 2)
    changed = np.broadcast_to(times % 2 == 1, (len(frames), len(times)))
    return Video(frames[:, times // 2], actions[:, times // 2], changed)


def backwards(frames: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> Video:
    """Time runs backwards: the action to a frame is the one that led away from it."""
    length = frames.shape[1] // 2
    taken = actions[:, 1 : length + 1][:, ::-1].copy()
    changed = np.ones((len(frames), length), np.bool_)
    return Video(frames[:, :length][:, ::-1].copy(), taken, changed)


Paint = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _of_frames(paint: Paint) -> Change:
    """From a change of a clip's frames (T, H, W, 3) uint8, the same all along the clip."""

    def change(frames: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> Video:
        real = unchanged(frames, actions)
        painted = np.stack([paint(clip, rng) for clip in real.frames])
        return Video(painted, real.actions, ~real.changed)

    return change


def brightness(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All grey levels times 0.6 or times 1.4, by chance."""
    return _levels(clip * rng.choice([0.6, 1.4]))


def noise(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normal noise on every pixel, with a standard deviation of 16 grey levels."""
    return _levels(clip + rng.normal(0.0, 16.0, clip.shape))


def occluder(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of one random colour and a quarter of the height, somewhere, at rest."""
    side = max(1, clip.shape[1] // 4)
    top, left = (int(rng.integers(size - side + 1)) for size in clip.shape[1:3])
    covered = clip.copy()
    covered[:, top : top + side, left : left + side] = rng.integers(0, 256, 3)
    return covered


def texture(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cells of a sixteenth of the height, each times a factor of its own from 0.6 to 1.4."""
    height, width = clip.shape[1:3]
    cell = max(1, height // 16)
    factors = rng.uniform(0.6, 1.4, (-(-height // cell), -(-width // cell), 1))
    pattern = factors.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    return _levels(clip * pattern)


def blurred(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian blur, with a standard deviation of a thirty-second of the height."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), clip.shape[1] / 32) for frame in clip])


def constant(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The clip's mean colour everywhere."""
    return np.broadcast_to(_levels(clip.mean(axis=(0, 1, 2))), clip.shape).copy()


def black(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Zero everywhere."""
    return np.zeros_like(clip)


def _levels(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.round().clip(0, 255), dtype=np.uint8)
