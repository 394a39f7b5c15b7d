"""One recording cut into episodes: at the wanted rate, ended by terminations and by length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from worldflow.data.episode import Episode
from worldflow.data.formats.base import RawEpisode, RawFrame
from worldflow.data.resize import fit_frame
from worldflow.data.steps import Step, Steps
from worldflow.errors import DataError

MAX_STILL = 600.0  # seconds that one frame may stand for


@dataclass(frozen=True)
class Cut:
    """Which frames are kept and how they look; see `worldflow.data.importing.ImportConfig`."""

    size: int
    fit: str
    fps: float | None
    frame_skip: int
    segment: int


def cut_episodes(raw: RawEpisode, steps: Steps, cut: Cut) -> Iterator[Episode]:
    """The episodes of a recording, made one after another while it is decoded.

    Raises:
        DataError: a damaged file, no frames, or another number of frames than of actions.
    """
    count = 0

    def counted() -> Iterator[RawFrame]:
        nonlocal count
        for frame in raw.read():
            count += 1
            yield frame

    recording = raw.recording or raw.name
    part = _Part(raw.caption)
    for index, pixels in _kept(raw.name, counted(), cut):
        if len(part.frames) == cut.segment:
            yield part.episode(recording, truncated=False)
            part = part.rest(steps.first())
        step = steps.first() if not part.frames else steps.between(part.index, index)
        part.add(index, fit_frame(pixels, cut.size, cut.fit), step)
        if step.terminated:
            yield part.episode(recording, truncated=False)
            part = _Part(raw.caption)
    if not count:
        raise DataError(f"{raw.name}: holds no frames; remove it")
    reward, terminated = steps.after(part.index, count)
    if part.frames:
        part.end(reward, terminated)
        yield part.episode(recording, raw.truncated)


def _kept(name: str, frames: Iterator[RawFrame], cut: Cut) -> Iterator[tuple[int, np.ndarray]]:
    """The frames that are kept, with their indices among all: at `fps`, every `frame_skip`-th."""
    at_rate: Iterator[tuple[int, np.ndarray]] = enumerate(frame.pixels for frame in frames)
    if cut.fps is not None:
        at_rate = _at_rate(name, frames, cut.fps)
    for k, frame in enumerate(at_rate):
        if k % cut.frame_skip == 0:
            yield frame


def _at_rate(name: str, frames: Iterator[RawFrame], fps: float) -> Iterator[tuple[int, np.ndarray]]:
    """The frame on screen at each instant k / fps, from the first frame to the last."""
    k, shown = 0, None
    slack = 1e-3 / fps  # time stamps are rounded
    for index, frame in enumerate(frames):
        if frame.seconds - k / fps > MAX_STILL:
            raise DataError(
                f"{name}: time jumps from {k / fps:.0f} to {frame.seconds:.0f} seconds; encode it "
                "anew, or read every frame as it comes: data.fps=null"
            )
        while shown is not None and k / fps < frame.seconds - slack:
            yield shown
            k += 1
        shown = index, frame.pixels
    if shown is not None:
        yield shown


class _Part:
    """The episode that is being put together."""

    def __init__(self, caption: str | None) -> None:
        self.caption = caption
        self.index = -1  # among the recorded frames, of the last one
        self.frames: list[np.ndarray] = []
        self.steps: list[Step] = []

    def add(self, index: int, frame: np.ndarray, step: Step) -> None:
        self.index = index
        self.frames.append(frame)
        self.steps.append(step)

    def end(self, reward: float, terminated: bool) -> None:
        """Move what came after the last frame to it, so that no end is lost."""
        action, known, before, ended = self.steps[-1]
        self.steps[-1] = Step(action, known, before + reward, ended or terminated)

    def rest(self, first: Step) -> _Part:
        """A new part that begins with the last frame of this one."""
        part = _Part(self.caption)
        part.add(self.index, self.frames[-1], first)
        return part

    def episode(self, recording: str, truncated: bool) -> Episode:
        """What was put together."""
        return Episode(
            frames=np.stack(self.frames),
            actions=np.stack([step.action for step in self.steps]),
            rewards=np.array([step.reward for step in self.steps], np.float32),
            terminated=np.array([step.terminated for step in self.steps], np.bool_),
            known=np.array([step.known for step in self.steps], np.bool_),
            seed=0,
            truncated=truncated,
            recording=recording,
            caption=self.caption,
        )
