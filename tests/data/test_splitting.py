"""Which episodes are held out: whole recordings, and for whole episodes what it always was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.data.splitting import divides_a_recording, split, split_growing
from worldflow.errors import DataError
from worldflow.held_out import held_out_episodes, split_of
from worldflow.storage import load_world
from worldflow.world_spec import HeldOut


def of_before(count: int, held_out: float, seed: int) -> np.ndarray:
    """What was held out of whole episodes when worlds that are shipped learned."""
    held = min(max(round(count * held_out), 1), count - 1)
    return np.sort(np.random.default_rng(seed).permutation(count)[:held])


def dataset_of(folder: Path, recordings: list[str | None]) -> EpisodeDataset:
    """An episode of two frames for each name."""
    spec = ActionSpec("discrete", n=2)
    writer = EpisodeWriter(folder, DatasetMetadata({}, spec, (8, 8, 3), 8.0, 0, {}))
    for index, name in enumerate(recordings):
        frames = np.full((2, 8, 8, 3), index, np.uint8)
        steps = np.zeros(2, np.int64), np.zeros(2, np.float32), np.zeros(2, np.bool_)
        writer.add(index, Episode(frames, *steps, np.ones(2, np.bool_), 0, False, name))
    return EpisodeDataset(folder)


def test_whole_episodes_are_split() -> None:
    episodes = list(range(20))
    train, held = split(episodes, 0.1, seed=0)
    assert len(held) == 2
    with_lengths = split(episodes, 0.1, 0, [1] * 19 + [1000])
    np.testing.assert_array_equal(with_lengths[1], held)  # published worlds rely on it
    assert sorted([*train, *held]) == episodes
    np.testing.assert_array_equal(split(episodes, 0.1, seed=0)[1], held)
    assert any(set(split(episodes, 0.1, seed=s)[1]) != set(held) for s in range(1, 5))
    assert [len(part) for part in split([0, 1], 0.01, seed=0)] == [1, 1]
    assert [len(part) for part in split([0, 1], 0.99, seed=0)] == [1, 1]
    with pytest.raises(DataError, match="two episodes"):
        split([0], 0.5, seed=0)
    with pytest.raises(DataError, match=r"data\.held_out"):
        split(episodes, 1.0, seed=0)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_growing_split_moves_nobody(share: float, seed: int) -> None:
    block = round(1 / share)
    sides: dict[int, bool] = {}
    for count in range(block, 6 * block):
        train, held = split_growing(range(count), share, seed)
        assert sorted([*train, *held]) == list(range(count))
        assert count // block <= len(held) <= -(-count // block)
        for side, indices in ((False, train), (True, held)):
            assert all(sides.setdefault(index, side) == side for index in indices.tolist())
    draws = {tuple(split_growing(range(60), share, s)[1].tolist()) for s in range(5)}
    assert len(draws) > 1
    with pytest.raises(DataError, match="collect more"):
        split_growing(range(block - 1), share, seed)


def test_a_growing_split_keeps_parts_together() -> None:
    whole = split_growing(range(20), 0.25, 0)[1]
    recordings = np.repeat(np.arange(20), 3)
    assert set(recordings[split_growing(recordings, 0.25, 0)[1]]) == set(whole)
    assert len(split_growing(recordings, 0.25, 0)[1]) == 3 * len(whole)
    with pytest.raises(DataError, match=r"data\.held_out"):
        split_growing(range(20), 0.6, 0)


def test_a_world_of_before_holds_out_what_it_did() -> None:
    held = load_world("catch").spec.held_out
    assert held.recordings is None  # as worlds were saved then

    class Whole:
        folder, recordings = Path("data"), np.arange(held.episodes)

        def __len__(self) -> int:
            return len(self.recordings)

    expected = of_before(held.episodes, held.fraction, held.seed)
    dataset = Whole()
    np.testing.assert_array_equal(held_out_episodes(dataset, held), expected)  # type: ignore[arg-type]
    # the same data collected anew, when recordings count
    now = replace(held, recordings=held.episodes)
    np.testing.assert_array_equal(held_out_episodes(dataset, now), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_parts_of_a_recording_stay_together(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 6, 40)
    recordings = np.repeat(np.arange(40), sizes)
    lengths = np.random.default_rng(seed).integers(5, 100, len(recordings))
    train, held = split(recordings, 0.2, seed, lengths)
    assert sorted([*train, *held]) == list(range(len(recordings)))
    assert not divides_a_recording(recordings, train, held)
    assert 0.15 * lengths.sum() < lengths[held].sum() <= round(0.2 * lengths.sum())
    _, by_parts = split(recordings, 0.2, seed)
    assert 0.15 * len(recordings) < len(by_parts) <= round(0.2 * len(recordings))


@pytest.mark.parametrize(
    ("sizes", "held"),
    [
        ([5, 5, 5, 4], [15, 16, 17, 18]),  # none fits: the one of the fewest parts
        ([5, 5, 5], None),  # each is a third
    ],
)
def test_recordings_that_are_large(sizes: list[int], held: list[int] | None) -> None:
    recordings = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(5):
        train, found = split(recordings, 0.1, seed, np.full(len(recordings), 20))
        assert not divides_a_recording(recordings, train, found)
        if held is not None:
            assert found.tolist() == held
        else:
            assert len(found) == 5


@pytest.mark.parametrize("seed", range(10))
def test_a_short_recording_is_not_all_that_is_held_out(seed: int) -> None:
    recordings, lengths = np.repeat(np.arange(9), [5] * 8 + [1]), np.full(41, 200)
    lengths[-1] = 4
    train, held = split(recordings, 0.1, seed, lengths)
    assert not divides_a_recording(recordings, train, held)
    assert held[-1] == 40 and len(held) == 6  # it fits, and with it goes one of the others
    assert split(recordings, 0.1, seed)[1].tolist() == [40]  # worlds of before remember this


@pytest.mark.parametrize("seed", range(10))
def test_frames_count_and_not_parts(seed: int) -> None:
    # each of the five is a fifth of the parts, the first nearly all frames
    recordings = np.repeat(np.arange(5), 2)
    lengths = np.array([1000, 1000, *[30] * 8])
    _, held = split(recordings, 0.05, seed, lengths)
    assert 0 not in recordings[held] and lengths[held].sum() == 60  # of 112, of the first that fits


@pytest.mark.parametrize("seed", range(5))
def test_the_end_of_a_large_recording_joins_a_short_one(seed: int) -> None:
    recordings = np.repeat(np.arange(3), [50, 1, 50])
    train, held = split(recordings, 0.1, seed, np.full(101, 20))
    # wanted are 202 frames: 20 of the short one, and 180 are nearest to the 182 that are missing
    assert len(held) == 10 and 50 in held
    assert held[held != 50].tolist() in (list(range(41, 50)), list(range(92, 101)))
    assert divides_a_recording(recordings, train, held)


def test_a_short_last_part_is_not_all_that_is_held_out() -> None:
    lengths = [24] * 10 + [3]
    assert split([0] * 11, 0.1, 0, lengths)[1].tolist() == [9, 10]
    assert split([0] * 11, 0.99, 0, lengths)[0].tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_a_large_recording_of_one_part_is_not_held_out(seed: int) -> None:
    train, held = split([0, 1, 1], 0.2, seed, [1000, 10, 10])
    assert train.tolist() == [0] and held.tolist() == [1, 2]


@pytest.mark.parametrize("sizes", [[10], [10, 10]])
def test_the_end_of_a_recording_is_held_out_where_none_is_small(sizes: list[int]) -> None:
    recordings = np.repeat(np.arange(len(sizes)), sizes)
    train, held = split(recordings, 0.2, 0, np.full(len(recordings), 20))
    wanted = round(0.2 * len(recordings))
    assert len(held) == wanted and len(set(recordings[held])) == 1
    last = np.flatnonzero(recordings == recordings[held[0]])[-wanted:]
    np.testing.assert_array_equal(held, last)
    assert divides_a_recording(recordings, train, held)


def test_episodes_say_what_they_are_parts_of(tmp_path: Path) -> None:
    names = ["a.mp4", "a.mp4", None, "b.mp4", None, "a.mp4"]
    dataset = dataset_of(tmp_path / "parts", names)
    assert [dataset.recording_of(k) for k in range(6)] == names
    assert [dataset.read(k).recording for k in range(6)] == names
    assert dataset.recordings.tolist() == [0, 0, 1, 2, 3, 0]
    whole = dataset_of(tmp_path / "whole", [None] * 6)
    assert whole.recordings.tolist() == list(range(6))
    assert whole.fingerprint() != dataset.fingerprint()
    named = dataset_of(tmp_path / "named", list("abcdef"))
    assert named.fingerprint() == whole.fingerprint()  # nothing is a part, so nothing differs


def test_a_world_knows_its_episodes_in_a_dataset_that_grew(tmp_path: Path) -> None:
    grown = dataset_of(tmp_path, [None] * 12)
    train, held = split_growing(range(6), 0.34, 0)
    frames = int(grown.lengths[:6].sum())
    found = split_of(grown, HeldOut(0.34, 0, 6, 6, frames, growing=True))
    np.testing.assert_array_equal(found[0], train)
    np.testing.assert_array_equal(found[1], held)
    assert set(held) <= set(split_growing(range(12), 0.34, 0)[1])  # nobody changed sides
    with pytest.raises(DataError, match=r"begins with 6 episodes of 6 recordings and 12 frames"):
        split_of(grown, HeldOut(0.34, 0, 6, 6, frames + 1, growing=True))
    with pytest.raises(DataError, match="has 12 episodes, the world's dataset had 13"):
        split_of(grown, HeldOut(0.34, 0, 13, 13, None, growing=True))
    with pytest.raises(DataError, match="has 12 episodes, the world's dataset had 6"):
        split_of(grown, HeldOut(0.34, 0, 6, 6, frames))


def test_a_world_says_of_how_many_recordings_it_learned(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ["a", "a", "b", "b", "c", "c"])
    train, held = split_of(dataset, HeldOut(0.34, 0, 6, 3))
    assert len(held) == 2 and not divides_a_recording(dataset.recordings, train, held)
    old = HeldOut(0.34, 0, 6)  # of before recordings counted
    np.testing.assert_array_equal(held_out_episodes(dataset, old), of_before(6, 0.34, 0))
    with pytest.raises(DataError, match=r"parts of 3 recordings.*those of 2"):
        split_of(dataset, HeldOut(0.34, 0, 6, 2))
    np.testing.assert_array_equal(split_of(dataset, HeldOut(0.34, 0, 6, 3, 12))[1], held)
    with pytest.raises(DataError, match=r"has 12 frames.*had 13"):
        split_of(dataset, HeldOut(0.34, 0, 6, 3, 13))
