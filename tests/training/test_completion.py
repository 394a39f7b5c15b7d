"""What pretraining says of its data before and after it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from training_runs import SIZE, tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError
from worldflow.heads.config import HeadsConfig
from worldflow.held_out import held_out_episodes
from worldflow.storage import load_world
from worldflow.training.completion import (
    MAX_CONTEXTS,
    starting_contexts,
    thumbnails,
    warn_of_shifts,
)
from worldflow.training.pretrain import main


class Ring:
    """Twelve episodes of a spot on a ring of 16 places that two actions move.

    Attributes:
        latents: of each episode, (60, 8, 2).
    """

    action_spec = ActionSpec("discrete", n=2)

    def __init__(self, shift: int) -> None:
        rng, length = np.random.default_rng(0), 60
        actions = [rng.integers(0, 2, length) for _ in range(12)]
        places = [np.cumsum(2.0 * each - 1.0) for each in actions]
        gaps = [(np.arange(16) - place[:, None] + 8) % 16 - 8 for place in places]
        latents = [np.exp(-(gap**2) / 4).reshape(length, 8, 2) for gap in gaps]
        self.latents = [each + 0.02 * rng.standard_normal(each.shape) for each in latents]
        self._actions = [np.roll(each, shift) for each in actions]

    def __len__(self) -> int:
        return len(self.latents)

    def steps_of(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(actions=self._actions[index], known=np.ones(60, np.bool_))

    def read(self, index: int) -> SimpleNamespace:
        """Frames of 64 x 64 in which the spot's ring is a square of 4 x 4 places."""
        places = self.latents[index].reshape(60, 4, 4).clip(0.0, 1.0)
        grey = np.kron(255 * places, np.ones((16, 16))).astype(np.uint8)
        return SimpleNamespace(frames=np.repeat(grey[..., None], 3, axis=3))


@pytest.mark.parametrize("described", ["latents", "thumbnails"])
@pytest.mark.parametrize(("shift", "remedy"), [(1, "led_to"), (-1, "taken_at"), (0, None)])
def test_shifted_actions_are_warned_of(
    shift: int, remedy: str | None, described: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = Ring(shift)
    frames = ring.latents if described == "latents" else thumbnails(ring)  # type: ignore[arg-type]
    warn_of_shifts(ring, frames)  # type: ignore[arg-type]
    said = capsys.readouterr().err
    if remedy is None:
        assert not said
    else:
        assert "warning: the actions seem to be shifted" in said
        assert f"data.alignment={remedy}" in said


def test_thumbnails_are_small_and_grey(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    small = thumbnails(EpisodeDataset(tmp_path / "data"))
    assert len(small) == 6 and small[0].shape == (8, 16, 16)  # of 32 x 32 pixels
    assert small[0][0].sum() == 4 * 4  # the white square has 8 x 8 pixels


def test_the_card_says_that_one_lossy_video_was_all(tmp_path: Path) -> None:
    """A folder of one mp4, longer than a part: its end is held out, and the codec named."""
    (tmp_path / "videos").mkdir()
    code = cv2.VideoWriter.fourcc(*"mp4v")
    video = cv2.VideoWriter(str(tmp_path / "videos/a.mp4"), code, 8.0, (SIZE, SIZE))
    frame = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    for t in range(60):
        video.write(np.roll(cv2.blur(frame, (5, 5)), t, axis=1))
    video.release()
    config = tiny_pretraining(tmp_path / "videos", tmp_path / "run")
    data = replace(config.data, size=SIZE, segment=8, held_out=0.2)
    heads = HeadsConfig(hidden=8, reward=None, termination=None)
    world = load_world(main(replace(config, data=data, world=replace(config.world, heads=heads))))
    dataset = EpisodeDataset(tmp_path / "run/data")
    assert len(dataset) == 9 and world.spec.held_out.recordings == 1
    assert held_out_episodes(dataset, world.spec.held_out).tolist() == [7, 8]
    card = (tmp_path / "run/world/card.md").read_text()
    assert "The frames were mpeg4 video before: likelihoods describe that compression too." in card
    assert "20% of the frames held out; they are the end of a recording whose beginning" in card


class Numbered:
    """Episodes of 3, 12 and 7 frames, each of one pixel: 100 times the episode, plus the time."""

    lengths = np.array([3, 12, 7])
    action_spec = ActionSpec("discrete", n=2)
    folder = Path("numbered")
    metadata = SimpleNamespace(source={}, collect={})

    def __init__(self, unknown: int | None = None) -> None:
        self._unknown = unknown

    def read(self, index: int, start: int, stop: int) -> SimpleNamespace:
        times = np.arange(start, stop)
        frames = np.broadcast_to(100 * index + times[:, None, None, None], (len(times), 1, 1, 3))
        return SimpleNamespace(
            frames=frames.astype(np.uint8), actions=times % 2, known=times != self._unknown
        )


def test_dreams_begin_as_episodes_do_or_anywhere_in_them() -> None:
    held_out = np.array([0, 1, 2])
    first = starting_contexts(Numbered(), held_out, 3, "first", 0)  # type: ignore[arg-type]
    assert first.frames[:, :, 0, 0, 0].tolist() == [[100, 101, 102], [200, 201, 202]]
    assert first.actions.tolist() == [[0, 1, 0], [0, 1, 0]]
    drawn = starting_contexts(Numbered(), held_out, 3, "random", 0)  # type: ignore[arg-type]
    begins = drawn.frames[:, 0, 0, 0, 0].tolist()
    # every moment that a frame of its episode follows, once: none begins in the first episode
    assert sorted(begins) == [*range(100, 109), *range(200, 204)]
    assert (np.diff(drawn.frames[:, :, 0, 0, 0].astype(int), axis=1) == 1).all()
    again = starting_contexts(Numbered(), held_out, 3, "random", 0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(drawn.frames, again.frames)
    other = starting_contexts(Numbered(), held_out, 3, "random", 1)  # type: ignore[arg-type]
    assert other.frames[:, 0, 0, 0, 0].tolist() != begins


class Merged(Numbered):
    """Two hundred episodes of 4 frames of each of two sources, one after the other."""

    lengths = np.full(400, 4)
    metadata = SimpleNamespace(source={"merged": [{}, {}]}, collect={})

    def read(self, index: int, start: int, stop: int) -> SimpleNamespace:
        """Frames that show the number of the source."""
        return super().read(0, int(index >= 200), int(index >= 200) + stop - start)


class Joined(Merged):
    """The two are recordings of one game."""

    metadata = SimpleNamespace(source={"env_id": "Game-v0"}, collect={"merged": 2})


@pytest.mark.parametrize("kind", [Merged, Joined])
def test_a_merged_world_begins_in_all_its_sources(kind: type[Merged]) -> None:
    held_out = np.arange(400)
    drawn = starting_contexts(kind(), held_out, 2, "first", 0)  # type: ignore[arg-type]
    first = drawn.frames[:, 0, 0, 0, 0]
    assert len(first) == MAX_CONTEXTS and 16 < first.sum() < 48  # of each about half
    again = starting_contexts(kind(), held_out, 2, "first", 0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(drawn.frames, again.frames)


def test_no_context_spans_an_action_that_was_not_recorded() -> None:
    data = Numbered(unknown=5)
    drawn = starting_contexts(data, np.array([1]), 3, "random", 0)  # type: ignore[arg-type]
    # the action at 5 led to the frame at 5: a piece may begin there, but not hold it later
    assert sorted(drawn.frames[:, 0, 0, 0, 0].tolist()) == [100, 101, 102, 105, 106, 107, 108]


def test_unknown_starts_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    config = replace(tiny_pretraining(tmp_path / "data", tmp_path / "run"), starts="middle")
    with pytest.raises(ConfigError, match="starts is 'middle'; use one of first, random"):
        main(config)
