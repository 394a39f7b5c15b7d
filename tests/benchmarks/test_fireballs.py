"""Shares of bright pixels and of ends, by known answers."""

from __future__ import annotations

import numpy as np
import pytest
from fireballs import AGES, Fireballs, bright, dreamed, ends_by_age, real_ends, row

from worldflow.data.episodes import EpisodeDataset
from worldflow.envs.imagination import Imagination
from worldflow.testing import tiny_world


def test_bright_is_a_share_of_pixels() -> None:
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[1, 0] = (255, 160, 0)
    frames[1, 1] = (255, 100, 0)  # red, no fire
    assert bright(frames).tolist() == [0.0, 0.25]


def test_a_hit_counts_after_a_calm_frame_only() -> None:
    shares = np.array([[0.2, 0.2, 0.01, np.nan]])
    before = np.array([[0.01, 0.2, 0.2, 0.01]])
    found = row("x", shares, before)
    assert found["count"] == 3 and found["onsets"] == pytest.approx(1 / 3)
    assert found["above 0.005"] == 1.0 and found["above 0.02"] == pytest.approx(2 / 3)


def test_ends_are_counted_by_age() -> None:
    ages, ends = np.array([1, 19, 20, 39, 500]), np.array([False, True, True, True, True])
    found = ends_by_age("x", ages, ends)
    assert (found["0 to 19"], found["20 to 39"], found["40 to 79"]) == (0.5, 1.0, None)
    assert found["all"] == 0.8 and len(found) == 3 + len(AGES) - 1


def test_ages_of_real_steps_are_numbers_of_frames(dataset: EpisodeDataset) -> None:
    ages, ends = real_ends(dataset)
    assert len(ages) == len(ends) == int((dataset.lengths - 1).sum())
    first = int(dataset.lengths[0]) - 1
    assert ages[:first].tolist() == list(range(1, first + 1)) and ages[first] == 1


def test_ages_of_dreams_begin_behind_their_context() -> None:
    world = tiny_world()
    settings = Fireballs("w", "d", steps=6, rows=3)
    shares, ages, ends = dreamed(Imagination(world, 3, horizon=2), settings)
    assert shares.shape == ages.shape == ends.shape == (3, 6)
    context = world.config.context
    for age, end in zip(ages, ends, strict=True):
        assert age[0] == context
        for t in range(1, 6):
            cut = age[t - 1] == context + 1  # at the horizon
            assert age[t] == (context if end[t - 1] or cut else age[t - 1] + 1)
