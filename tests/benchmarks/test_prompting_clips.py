"""Clips of a dataset show what their labels say, and a probe learns from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prompting.clips import learned_probe, real_clips_of, through_codec
from prompting.probe import ProbeTraining, probe_answers
from squares import SQUARES, pool

from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import DataError
from worldflow.testing import tiny_world


def test_real_clips_show_their_labels(captioned: EpisodeDataset) -> None:
    clips, labels = real_clips_of(captioned, np.arange(10), None, 3, SQUARES, seed=0)
    assert clips.shape == (8, 3, 32, 32, 3)  # one is too short, one says nothing
    for clip, (sky, side) in zip(clips, labels, strict=True):
        assert (clip[0, 0, 0, 0] < 50) == sky
        assert (clip[0, :, :16] == 255).all(-1).any() == (side == 0)
    with pytest.raises(DataError, match="no episode has 9 frames and a caption"):
        real_clips_of(captioned, np.arange(10), 4, 9, SQUARES, seed=0)


def test_the_codec_renders_every_clip_by_itself() -> None:
    world, (clips, _) = tiny_world(frame_size=32), pool(3, seed=0)
    shown = through_codec(world, clips)
    assert shown.shape == clips.shape
    assert np.array_equal(shown[1], world.reconstruct(torch.from_numpy(clips[1])).numpy())


def test_a_probe_of_a_dataset(captioned: EpisodeDataset) -> None:
    training = ProbeTraining(clips=40, steps=80, batch=16)
    world = tiny_world(frame_size=32)
    probe = learned_probe(world, captioned, np.arange(10), 3, SQUARES, training, seed=0)
    clips, labels = real_clips_of(captioned, np.arange(10), None, 3, SQUARES, seed=1)
    assert np.array_equal(probe_answers(probe, clips, 0.5), labels)


def test_each_answer_to_the_first_question_is_drawn_alike_often(captioned: EpisodeDataset) -> None:
    episodes = np.array([4, 2, 3, 6, 7])  # one by day, four at night
    _, labels = real_clips_of(captioned, episodes, 300, 3, SQUARES, seed=0)
    assert 0.4 < (labels[:, 0] == 0).mean() < 0.6
