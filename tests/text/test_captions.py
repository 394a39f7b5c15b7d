"""Captions of data: kept by the store, read beside videos, made while collecting, merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.cli import main as command
from worldflow.data.convert import ConvertConfig
from worldflow.data.convert import main as convert
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.merging import MergeConfig, merged_actions
from worldflow.data.merging import main as merge
from worldflow.data.metadata import DatasetMetadata
from worldflow.envs.collect import CollectConfig, collect
from worldflow.envs.sources import SourceConfig
from worldflow.errors import ConfigError, DataError

DISCRETE = ActionSpec("discrete", n=3)


def episode(length: int = 4, caption: str | None = None, size: int = 16) -> Episode:
    rng = np.random.default_rng(length)
    actions = rng.integers(0, 3, length)
    actions[0] = 0
    return Episode(
        rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8),
        actions,
        np.ones(length, np.float32),
        np.arange(length) == length - 1,
        np.ones(length, np.bool_),
        0,
        False,
        caption=caption,
    )


def dataset(
    folder: Path, *captions: str | None, size: int = 16, fps: float = 8.0, rewards: bool = True
) -> EpisodeDataset:
    metadata = DatasetMetadata(
        {"env_id": folder.name}, DISCRETE, (size, size, 3), fps, 0, {}, has_rewards=rewards
    )
    writer = EpisodeWriter(folder, metadata)
    for index, caption in enumerate(captions):
        writer.add(index, episode(4 + index, caption, size))
    return EpisodeDataset(folder)


def test_the_store_keeps_captions(tmp_path: Path) -> None:
    found = dataset(tmp_path / "d", "ein Ball, links", None, "шар")
    assert found.captions == ["ein Ball, links", None, "шар"]
    assert found.read(0, 1, 3).caption == "ein Ball, links"
    assert found.read(1).caption is None


def test_an_episode_without_a_caption_has_the_bytes_that_it_had(tmp_path: Path) -> None:
    dataset(tmp_path / "d", None)
    content = (tmp_path / "d" / "episodes" / "000000.safetensors").read_bytes()
    assert b"caption" not in content


def test_captions_belong_to_the_fingerprint(tmp_path: Path) -> None:
    one, two, none = (
        dataset(tmp_path / name / "d", caption).fingerprint()
        for name, caption in (("1", "left"), ("2", "right"), ("3", None))
    )
    assert len({one, two, none}) == 3


def test_an_empty_caption_is_refused() -> None:
    with pytest.raises(DataError, match="caption is empty"):
        episode(caption="  ")


def test_captions_beside_videos_and_back(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "the ball, left", None)
    convert(ConvertConfig(str(tmp_path / "d"), str(tmp_path / "v"), "video"))
    assert (tmp_path / "v" / "000000.txt").read_text() == "the ball, left\n"
    assert not (tmp_path / "v" / "000001.txt").exists()
    (tmp_path / "v" / "000001.txt").write_text("\ufeff two\n  words \n", encoding="utf-8")
    convert(ConvertConfig(str(tmp_path / "v"), str(tmp_path / "again")))
    assert EpisodeDataset(tmp_path / "again").captions == ["the ball, left", "two words"]


@pytest.mark.parametrize("kind", ["npz", "hdf5", "video", "store"])
def test_captions_that_a_format_does_not_keep_are_not_lost_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    dataset(tmp_path / "d", "left", "right", None)
    dataset(tmp_path / "bare", None)
    convert(ConvertConfig(str(tmp_path / "bare"), str(tmp_path / "none"), kind))
    assert "captions are left out" not in capsys.readouterr().out
    convert(ConvertConfig(str(tmp_path / "d"), str(tmp_path / "out"), kind))
    said = capsys.readouterr().out.count(f"captions are left out, as {kind} files")
    assert said == (kind in ("npz", "hdf5"))


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\x00", b"a" * 70_000])
def test_damaged_caption_files_are_named(tmp_path: Path, content: bytes) -> None:
    dataset(tmp_path / "d", None)
    convert(ConvertConfig(str(tmp_path / "d"), str(tmp_path / "v"), "video"))
    (tmp_path / "v" / "000000.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"000000\.txt.*caption"):
        convert(ConvertConfig(str(tmp_path / "v"), str(tmp_path / "again")))


def test_cut_parts_keep_their_caption(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "left", None)
    config = ConvertConfig(str(tmp_path / "d"), str(tmp_path / "parts"))
    convert(replace(config, data=replace(config.data, segment=3)))
    assert EpisodeDataset(tmp_path / "parts").captions == ["left", "left", None, None]


def catch(out: Path, caption: str | None) -> CollectConfig:
    source = SourceConfig("worldflow/Catch-v0", kwargs={"drift": 0.0})
    return CollectConfig(source, steps=100, out=str(out), caption=caption, progress=False)


def test_collect_writes_what_the_source_knows(tmp_path: Path) -> None:
    found = collect(catch(tmp_path / "d", "catch: {state}"))
    for index, caption in enumerate(found.captions):
        whole = found.read(index)
        # white: the ball, in cells of 8 pixels; it falls straight down
        column = int((whole.frames[0] == 255).all(-1).any(0).argmax()) // 8
        third = "left" if column < 3 else "right" if column > 4 else "middle"
        end = "caught" if whole.rewards[-1] > 0 else "missed"
        assert caption == f"catch: the ball falls on the {third} and is {end}"
    assert len(set(found.captions)) >= 4
    assert found.metadata.collect["caption"] == "catch: {state}"


def test_collect_without_captions_is_as_before(tmp_path: Path) -> None:
    found = collect(catch(tmp_path / "d", None))
    assert set(found.captions) == {None}
    assert set(found.metadata.collect) == {"policy"}
    with pytest.raises(DataError, match="'collect'"):  # a folder is never a mixture
        collect(catch(tmp_path / "d", "catch"))


def test_a_mission_is_what_a_source_says(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    source = SourceConfig("minigrid:MiniGrid-Fetch-5x5-N2-v0", {"numObjs": 1}, max_episode_steps=3)
    config = replace(catch(tmp_path / "d", "grid: {state}"), source=source, steps=12)
    found = collect(config)
    said = [str(caption).split() for caption in found.captions]
    assert len(said) >= 4 and len({tuple(words) for words in said}) > 1
    for words in said:
        assert words[0] == "grid:" and words[-1] in ("ball", "key")
        assert words[-2] in ("red", "green", "blue", "purple", "yellow", "grey")


def test_a_source_that_says_nothing_is_refused(tmp_path: Path) -> None:
    config = replace(
        catch(tmp_path / "d", "pole: {state}"),
        source=SourceConfig("CartPole-v1", frame_size=32),
    )
    with pytest.raises(ConfigError, match="CartPole-v1 says nothing of its state"):
        collect(config)
    with pytest.raises(ConfigError, match="caption is empty"):
        collect(replace(config, caption=" "))


def test_captions_on_the_command_line_may_hold_commas(tmp_path: Path) -> None:
    out = f"out={tmp_path / 'd'}"
    arguments = ["source=catch", "steps=5", out, "progress=false", "caption=catch, {state}"]
    assert command(["collect", *arguments]) == 0
    assert EpisodeDataset(tmp_path / "d").captions[0].startswith("catch, the ball")  # type: ignore


def test_merging_numbers_actions_one_after_another(tmp_path: Path) -> None:
    first = dataset(tmp_path / "a", "left", None)
    second = dataset(tmp_path / "b", None, rewards=False)
    merged = merge(
        MergeConfig(
            str(tmp_path / "m"),
            [str(first.folder), str(second.folder)],
            captions=["game a", "game b"],
            progress=False,
        )
    )
    assert merged.captions == ["game a", "game a", "game b"]
    assert merged.action_spec == ActionSpec("discrete", n=6)
    assert np.array_equal(merged.read(1).actions, first.read(1).actions)
    assert np.array_equal(merged.read(2).actions[1:], second.read(0).actions[1:] + 3)
    assert merged.read(2).actions[0] == 0
    assert np.array_equal(merged.read(2).frames, second.read(0).frames)
    # not all sources have rewards
    assert not merged.metadata.has_rewards and not merged.read(0).rewards.any()
    parts = merged.metadata.source["merged"]
    assert [part["first_action"] for part in parts] == [0, 3]


def test_merging_with_hidden_or_shared_actions(tmp_path: Path) -> None:
    first, second = dataset(tmp_path / "a", "left"), dataset(tmp_path / "b", "right")
    folders = [str(first.folder), str(second.folder)]
    none = merge(MergeConfig(str(tmp_path / "n"), folders, actions="none", progress=False))
    assert none.action_spec.kind == "none" and not none.read(0).known.any()
    assert none.captions == ["left", "right"]
    shared = merge(MergeConfig(str(tmp_path / "s"), folders, actions="shared", progress=False))
    assert shared.action_spec == DISCRETE
    assert np.array_equal(shared.read(1).actions, second.read(0).actions)


def test_several_recordings_of_one_game_are_of_that_game(tmp_path: Path) -> None:
    folders = []
    for seed in (1, 2):
        out = str(tmp_path / f"{seed}")
        settings = CollectConfig(SourceConfig("worldflow/Catch-v0"), 5, seed, out, progress=False)
        folders.append(str(collect(settings).folder))
    one = merge(MergeConfig(str(tmp_path / "one"), folders, actions="shared", progress=False))
    assert one.metadata.source["env_id"] == "worldflow/Catch-v0"
    apart = merge(MergeConfig(str(tmp_path / "apart"), folders, progress=False))
    assert len(apart.metadata.source["merged"]) == 2  # as their actions were numbered anew
    other = str(dataset(tmp_path / "Another-v0", None, size=64, fps=one.metadata.fps).folder)
    mixed = MergeConfig(str(tmp_path / "mixed"), [folders[0], other], actions="shared")
    assert len(merge(mixed).metadata.source["merged"]) == 2


def test_own_captions_go_into_templates(tmp_path: Path) -> None:
    folders = [str(dataset(tmp_path / name, "left").folder) for name in "ab"]
    templates = ["a: {caption}", "b"]
    merged = merge(MergeConfig(str(tmp_path / "m"), folders, templates, progress=False))
    assert merged.captions == ["a: left", "b"]
    bare = str(dataset(tmp_path / "c", None).folder)
    with pytest.raises(DataError, match="an episode has no caption"):
        merge(MergeConfig(str(tmp_path / "n"), [bare, bare], templates, progress=False))
    assert not (tmp_path / "n").exists()


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    small, large = dataset(tmp_path / "a", None), dataset(tmp_path / "b", None, size=24)
    slow = dataset(tmp_path / "c", None, fps=4.0)
    out = str(tmp_path / "m")
    with pytest.raises(DataError, match="one size first"):
        merge(MergeConfig(out, [str(small.folder), str(large.folder)]))
    pair = [str(small.folder), str(slow.folder)]
    with pytest.raises(DataError, match=r"\[4.0, 8.0\] frames a second; say which: fps="):
        merge(MergeConfig(out, pair))
    assert merge(MergeConfig(out, pair, fps=8.0, progress=False)).metadata.fps == 8.0
    with pytest.raises(ConfigError, match="exists; choose another"):
        merge(MergeConfig(out, pair))
    with pytest.raises(ConfigError, match="are not several"):
        MergeConfig(out, [pair[0]])
    with pytest.raises(ConfigError, match="1 captions for 2 sources"):
        MergeConfig(out, pair, ["one"])
    box = ActionSpec("box", low=(0.0,), high=(1.0,))
    with pytest.raises(ConfigError, match="union is for discrete"):
        merged_actions([DISCRETE, box], "union")
    with pytest.raises(ConfigError, match="the sources' differ"):
        merged_actions([DISCRETE, box], "shared")
    with pytest.raises(ConfigError, match="use one of shared, union, none"):
        MergeConfig(out, pair, actions="mixed")


def test_sources_without_actions_join_a_union() -> None:
    spec, offsets = merged_actions(
        [DISCRETE, ActionSpec("none"), ActionSpec("discrete", n=2)], "union"
    )
    assert spec.n == 5 and offsets == [0, None, 3]
    assert merged_actions([ActionSpec("none")] * 2, "union") == (ActionSpec("none"), [None, None])
