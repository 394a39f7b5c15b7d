"""Pairs of clips: known answers of their sources, what is kept, what is refused, how it is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.cli import main as command
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.data.pairing import (
    PairConfig,
    edges,
    grey,
    main,
    mirror,
    source_length,
)
from worldflow.data.splitting import split
from worldflow.data.windows import ClipSampler
from worldflow.errors import ConfigError, DataError
from worldflow.testing import tiny_config
from worldflow.training.completion import starting_contexts
from worldflow.training.initial import with_heads

DISCRETE = ActionSpec("discrete", n=3)


def dataset(folder: Path, *lengths: int, spec: ActionSpec = DISCRETE) -> EpisodeDataset:
    rng = np.random.default_rng(0)
    source = {"env_id": "a game", "path": "/somewhere"}
    metadata = DatasetMetadata(source, spec, (16, 16, 3), 8.0, 3, {}, lossy="h264 video")
    writer = EpisodeWriter(folder, metadata)
    for index, length in enumerate(lengths):
        actions = rng.integers(0, 3, (length, *spec.shape)).astype(spec.dtype)
        episode = Episode(
            frames=rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8),
            actions=actions,
            rewards=np.ones(length, np.float32),
            terminated=np.arange(length) == length - 1,
            known=np.arange(length) != 2,
            seed=index,
            truncated=False,
            caption=f"episode {index}",
        )
        writer.add(index, episode)
    return EpisodeDataset(folder)


def config(found: EpisodeDataset, dst: Path, clip: int = 4, **changes: str) -> PairConfig:
    settings = PairConfig(str(found.folder), str(dst), clip, "mirror", progress=False)
    return replace(settings, **changes)  # type: ignore[arg-type]


def test_a_mirror_exchanges_columns() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    shown = mirror(frames)
    for column in range(6):
        assert np.array_equal(shown[:, :, column], frames[:, :, 5 - column])
    assert np.array_equal(mirror(shown), frames)


def test_grey_is_luma() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (70, 70, 70)]
    frames = np.array(colours, np.uint8)[None, None].repeat(2, axis=1)
    assert grey(frames)[0, 1].tolist() == [[v] * 3 for v in (76, 150, 29, 255, 70)]


def test_edges_are_where_colours_change() -> None:
    frames = np.full((2, 32, 32, 3), (18, 22, 48), np.uint8)
    frames[1, :, 16:] = (255, 140, 0)
    found = edges(frames)
    assert found.shape == frames.shape and found.dtype == np.uint8
    assert not found[0].any()
    columns = np.flatnonzero(found[1].any(axis=(0, 2)))
    assert columns.tolist() in ([15], [16])
    assert (found[1][:, columns] == 255).all()


def test_pairs_hold_source_and_target(tmp_path: Path) -> None:
    found = dataset(tmp_path / "d", 9, 3, 4)
    pairs = main(config(found, tmp_path / "p"))
    assert pairs.lengths.tolist() == [8, 8, 8]  # two of the first, none of the second
    for index, (episode, begin) in enumerate([(0, 0), (0, 4), (2, 0)]):
        made, whole = pairs.read(index), found.read(episode)
        assert np.array_equal(made.frames[4:], whole.frames[begin : begin + 4])
        assert np.array_equal(made.frames[:4], whole.frames[begin : begin + 4, :, ::-1])
        assert made.caption == f"episode {episode}" and made.seed == episode
        assert not made.known.any() and not made.actions.any()
        assert not made.rewards.any() and not made.terminated.any()
    assert pairs.recordings.tolist() == [0, 0, 1]
    meta = pairs.metadata
    assert meta.source == {"paired": {"env_id": "a game"}} and meta.lossy == "h264 video"
    assert meta.action_spec == ActionSpec("none")
    assert not meta.has_rewards and not meta.has_terminations
    assert source_length(pairs) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "p"]


@pytest.mark.parametrize(
    "spec", [DISCRETE, ActionSpec("box", low=(0.0, 0.0), high=(2.0, 2.0))], ids=["discrete", "box"]
)
def test_actions_of_targets_may_be_kept(tmp_path: Path, spec: ActionSpec) -> None:
    found = dataset(tmp_path / "d", 8, spec=spec)
    pairs = main(config(found, tmp_path / "p", actions="kept"))
    assert pairs.metadata.action_spec == spec
    whole = found.read(0)
    # of the first pair the third frame's is unknown in the data; no first frame's is known
    assert pairs.read(0).known.tolist() == [False] * 5 + [True, False, True]
    assert pairs.read(1).known.tolist() == [False] * 5 + [True] * 3
    assert np.array_equal(pairs.read(1).actions[5:], whole.actions[5:8])
    assert not pairs.read(1).actions[:5].any()


def test_training_cuts_whole_pairs_only(tmp_path: Path) -> None:
    pairs = main(config(dataset(tmp_path / "d", 12, 4, 7), tmp_path / "p"))
    clips = ClipSampler(pairs.lengths, np.arange(len(pairs)), clip=8, over_end=True)
    picks = clips.picks(np.arange(len(clips)))
    assert set(picks) == {(index, 0) for index in range(5)}
    assert [picks.count((index, 0)) for index in range(5)] == [len(picks) // 5] * 5


def test_pairs_of_one_recording_are_held_out_together(tmp_path: Path) -> None:
    pairs = main(config(dataset(tmp_path / "d", *[8] * 10), tmp_path / "p"))
    train, held_out = split(pairs.recordings, 0.2, 0, pairs.lengths)
    assert len(held_out) == 4
    assert not set(pairs.recordings[train]) & set(pairs.recordings[held_out])


def test_a_world_of_pairs_begins_with_sources(tmp_path: Path) -> None:
    found = dataset(tmp_path / "d", 4, 4)
    pairs = main(config(found, tmp_path / "p"))
    contexts = starting_contexts(pairs, np.arange(2), context=4, starts="first", seed=0)
    sources = np.stack([found.read(index).frames[:, :, ::-1] for index in range(2)])
    assert np.array_equal(contexts.frames, sources)
    heads = replace(tiny_config().heads, reward=None, termination=None)
    decided = with_heads(replace(tiny_config(), heads=heads), pairs.metadata).heads
    assert decided.reward is False and decided.termination is False


def test_bad_input_is_refused(tmp_path: Path) -> None:
    found = dataset(tmp_path / "d", 5, 3)
    with pytest.raises(DataError, match=r"longest episode has 5 frames.*clip=6"):
        main(config(found, tmp_path / "p", clip=6))
    assert not (tmp_path / "p").exists()
    with pytest.raises(ConfigError, match="clip=0"):
        config(found, tmp_path / "p", clip=0)
    with pytest.raises(ConfigError, match="'sepia'; use one of edges, grey, mirror"):
        config(found, tmp_path / "p", transform="sepia")
    with pytest.raises(ConfigError, match="'all'; use one of none, kept"):
        config(found, tmp_path / "p", actions="all")
    with pytest.raises(DataError, match="is no folder"):
        main(PairConfig(str(tmp_path / "no"), str(tmp_path / "p"), 2, "grey"))
    with pytest.raises(DataError, match="holds no pairs; make them"):
        source_length(found)
    pairs = main(config(found, tmp_path / "p"))
    with pytest.raises(ConfigError, match="exists; choose another"):
        main(config(found, tmp_path / "p"))
    with pytest.raises(DataError, match="holds pairs already"):
        main(config(pairs, tmp_path / "q", clip=2))


def test_a_killed_run_leaves_nothing_that_opens(tmp_path: Path) -> None:
    found = dataset(tmp_path / "d", 9, 5)
    stale = tmp_path / ".p.new" / "episodes"
    stale.mkdir(parents=True)
    (stale / "000007.safetensors").write_bytes(b"of a run that was killed")
    assert len(main(config(found, tmp_path / "p"))) == 3
    found.paths[1].write_bytes(found.paths[1].read_bytes()[:-10])
    with pytest.raises(DataError, match=r"000001\.safetensors"):
        main(config(found, tmp_path / "q"))
    assert not (tmp_path / "q").exists()


def test_the_command(tmp_path: Path) -> None:
    found = dataset(tmp_path / "d", 4)
    words = ["data", "pair", str(found.folder), str(tmp_path / "p"), "clip=2", "progress=false"]
    assert command([*words, "transform=edges"]) == 0
    assert EpisodeDataset(tmp_path / "p").metadata.collect["transform"] == "edges"
    assert command([*words, "transform=sepia"]) == 2
