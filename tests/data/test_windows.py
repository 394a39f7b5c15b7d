"""Clips: known answers, and never across an episode's border."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldflow.data.windows import ClipSampler, load_clips
from worldflow.errors import DataError


def test_all_clips_by_hand() -> None:
    sampler = ClipSampler(lengths=[5, 9, 2, 3], episodes=[0, 2, 3], clip=3)
    # Episode 0 has starts 0, 1, 2; episode 2 is too short and counts once; episode 3 fits once.
    assert len(sampler) == 5
    episodes, starts = sampler.starts(np.arange(5))
    assert episodes.tolist() == [0, 0, 0, 2, 3]
    assert starts.tolist() == [0, 1, 2, 0, 0]
    with pytest.raises(IndexError):
        sampler.starts(np.array([5]))


def test_with_clips_over_the_end_every_frame_is_drawn_alike() -> None:
    """How often each frame is shown after the first of a clip: the last one like any other."""
    lengths = [9, 3, 4, 5]
    sampler = ClipSampler(lengths, range(4), clip=4, over_end=True)
    episodes, starts = sampler.starts(np.arange(len(sampler)))
    shown = [np.zeros(n, dtype=int) for n in lengths]
    for episode, start in zip(episodes, starts, strict=True):
        shown[episode][start + 1 : start + 4] += 1
    assert shown[0].tolist() == [0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert shown[1].tolist() == [0, 3, 3] and shown[2].tolist() == [0, 3, 3, 3]
    assert shown[3].tolist() == [0, 1, 2, 3, 3]


def test_loaded_clips_by_hand() -> None:
    arrays = [np.arange(1, 6), np.arange(11, 13)]
    batch, valid = load_clips(arrays, [(0, 2), (1, 0), (0, 3)], clip=3)
    assert batch.tolist() == [[3, 4, 5], [11, 12, 0], [4, 5, 0]]
    assert valid.tolist() == [[True] * 3, [True, True, False], [True, True, False]]
    assert batch.dtype == arrays[0].dtype


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    clip=st.integers(1, 8),
    seed=st.integers(0, 100),
)
def test_a_clip_never_leaves_its_episode(lengths: list[int], clip: int, seed: int) -> None:
    arrays = [np.full((n, 2), i + 1, dtype=np.uint8) for i, n in enumerate(lengths)]
    sampler = ClipSampler(lengths, range(len(lengths)), clip)
    picks = sampler.sample(16, np.random.default_rng(seed))
    batch, valid = load_clips(arrays, picks, clip)
    assert batch.shape == (16, clip, 2)
    for row, (episode, start) in enumerate(picks):
        assert valid[row].sum() == min(clip, lengths[episode])
        assert 0 <= start <= max(lengths[episode] - clip, 0)
        assert (batch[row][valid[row]] == episode + 1).all()
        assert (batch[row][~valid[row]] == 0).all()


def test_starts_are_uniform_and_seeded() -> None:
    sampler = ClipSampler([6, 3], [0, 1], clip=3)
    picks = sampler.sample(50_000, np.random.default_rng(0))
    assert picks == sampler.sample(50_000, np.random.default_rng(0))
    shares = [picks.count(pick) / len(picks) for pick in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]]
    np.testing.assert_allclose(shares, 0.2, atol=0.01)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(DataError, match="one frame or more"):
        ClipSampler([3], [0], clip=0)
    with pytest.raises(DataError, match="no episodes"):
        ClipSampler([3], [], clip=1)
    with pytest.raises(DataError, match=r"0\.\.0"):
        ClipSampler([3], [1], clip=1)
    with pytest.raises(DataError, match="outside episode"):
        load_clips([np.zeros(3)], [(0, 3)], clip=2)
    with pytest.raises(DataError, match="no clips"):
        load_clips([], [], clip=2)
