"""Corruptions do what they say, and keep actions where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.evaluation.corruptions import (
    ACTIONS,
    FAMILIES,
    Video,
    blurred,
    brightness,
    corruptions,
    noise,
    occluder,
    texture,
    unchanged,
)

SPEC = ActionSpec("discrete", n=3)
LENGTH = 4


def clips(spec: ActionSpec = SPEC) -> tuple[np.ndarray, np.ndarray]:
    """Frames that tell (clip, time), and the action that led from time t - 1 to t."""
    frames = np.zeros((3, 2 * LENGTH, 32, 32, 3), np.uint8)
    frames[..., 0] = 10 * np.arange(3)[:, None, None, None]
    frames[..., 1] = np.arange(2 * LENGTH)[None, :, None, None]
    actions = np.random.default_rng(0).integers(0, 3, frames.shape[:2])
    if spec.kind == "box":
        return frames, actions[..., None].astype(np.float32) - 1.0
    return frames, actions


def change(name: str, spec: ActionSpec = SPEC, seed: int = 1) -> Video:
    (found,) = (c for c in corruptions(spec) if c.name == name)
    return found.change(*clips(spec), np.random.default_rng(seed))


def times(video: Video) -> np.ndarray:
    return np.asarray(video.frames[:, :, 0, 0, 1])


def test_the_first_half_is_the_real_clip() -> None:
    frames, actions = clips()
    video = unchanged(frames, actions)
    np.testing.assert_array_equal(video.frames, frames[:, :LENGTH])
    np.testing.assert_array_equal(video.actions, actions[:, :LENGTH])
    assert not video.changed.any()


@pytest.mark.parametrize("spec", [SPEC, ActionSpec("box", low=(-2.0,), high=(2.0,))])
def test_wrong_actions_are_all_wrong(spec: ActionSpec) -> None:
    video, actions = change("wrong", spec), clips(spec)[1]
    assert (video.actions != actions[:, :LENGTH]).all() and video.changed.all()
    spec.validate(video.actions)
    assert times(video).tolist() == [list(range(LENGTH))] * 3


def test_shuffled_actions_are_those_of_another_clip() -> None:
    video, actions = change("shuffled"), clips()[1][:, :LENGTH]
    np.testing.assert_array_equal(video.actions, actions[[2, 0, 1]])
    np.testing.assert_array_equal(video.changed, video.actions != actions)
    assert video.changed.any() and not video.changed.all()


def test_skipped_frames_keep_their_actions() -> None:
    video, actions = change("skipped"), clips()[1]
    assert times(video).tolist() == [[0, 2, 4, 6]] * 3
    np.testing.assert_array_equal(video.actions, actions[:, [0, 2, 4, 6]])
    assert video.changed.all()


def test_repeated_frames_are_the_changed_ones() -> None:
    video = change("repeated")
    assert times(video).tolist() == [[0, 0, 1, 1]] * 3
    assert video.changed.tolist() == [[False, True, False, True]] * 3
    np.testing.assert_array_equal(video.actions, clips()[1][:, [0, 0, 1, 1]])


def test_backwards_the_action_still_links_both_frames() -> None:
    video, actions = change("reversed"), clips()[1]
    assert times(video).tolist() == [[3, 2, 1, 0]] * 3
    for t in range(1, LENGTH):
        later = times(video)[0, t - 1]
        np.testing.assert_array_equal(video.actions[:, t], actions[:, later])


@pytest.mark.parametrize("corruption", corruptions(SPEC), ids=lambda c: c.name)
def test_same_seed_same_bits_and_the_source_stays(corruption) -> None:  # type: ignore[no-untyped-def]
    frames, actions = clips()
    first, second = (corruption.change(frames, actions, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_array_equal(frames, clips()[0])
    assert first.frames.dtype == np.uint8 and first.frames.shape == (3, LENGTH, 32, 32, 3)
    assert first.actions.shape == first.changed.shape == (3, LENGTH)
    assert corruption.family in FAMILIES


def test_without_alternatives_no_action_is_wrong() -> None:
    assert ACTIONS not in {c.family for c in corruptions(ActionSpec("none"))}
    assert ACTIONS in {c.family for c in corruptions(SPEC)}


def test_simple_images() -> None:
    assert not change("black").frames.any()
    constant = change("constant").frames
    for row in range(3):  # mean of times 0 to 3 is 1.5, which rounds to even
        assert (constant[row] == (10 * row, 2, 0)).all()
    edge = np.zeros((1, 32, 32, 3), np.uint8)
    edge[:, :, 16:] = 200
    soft = blurred(edge, np.random.default_rng(0))
    assert (soft[:, :, 0] == 0).all() and (soft[:, :, -1] == 200).all()
    assert 0 < soft[0, 16, 15, 0] < 100 < soft[0, 16, 16, 0] < 200


def test_appearance() -> None:
    grey = np.full((3, 64, 64, 3), 100, np.uint8)
    seen = {int(brightness(grey, np.random.default_rng(i)).max()) for i in range(20)}
    assert seen == {60, 140}
    rng = np.random.default_rng(0)
    assert noise(grey, rng).astype(float).std() == pytest.approx(16.0, rel=0.03)
    covered = (occluder(grey, rng) != grey).any(axis=-1)
    assert (covered == covered[0]).all() and covered[0].sum() == 16 * 16
    woven = texture(grey, rng)
    assert (woven == woven[0]).all() and 60 <= woven.min() < 75 and 125 < woven.max() <= 140
    np.testing.assert_array_equal(woven[0, :4, :4], np.full((4, 4, 3), woven[0, 0, 0, 0]))
