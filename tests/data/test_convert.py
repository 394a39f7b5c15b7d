"""`worldflow data convert`: to every format that can be written and back, nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.cli import main as cli
from worldflow.data.convert import ConvertConfig, main
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.formats.registry import FORMATS, detect
from worldflow.data.importing import ImportConfig
from worldflow.errors import ConfigError, DataError

Store = Callable[..., Path]
BOX = ActionSpec("box", low=(0.0,), high=(0.75,))


def convert(src: Path, dst: Path, kind: str, **settings: object) -> Path:
    main(ConvertConfig(str(src), str(dst), kind, ImportConfig(size=16, **settings)))  # type: ignore[arg-type]
    return dst


@pytest.mark.parametrize("kind", ["store", "npz", "hdf5", "video"])
@pytest.mark.parametrize("spec", [None, BOX, ActionSpec("none")], ids=["discrete", "box", "none"])
def test_there_and_back(store: Store, tmp_path: Path, kind: str, spec: ActionSpec | None) -> None:
    source = store(spec=spec)
    written = convert(source, tmp_path / "written", kind)
    assert detect(written).name == kind
    before = EpisodeDataset(source)
    after = EpisodeDataset(convert(written, tmp_path / "back", "store"))
    assert len(after) == len(before)
    assert after.metadata.fps == pytest.approx(before.metadata.fps)
    assert after.action_spec == before.action_spec
    assert after.metadata.has_rewards
    assert after.metadata.has_terminations
    assert after.metadata.lossy is None
    for index in range(len(before)):
        a, b = before.read(index), after.read(index)
        for name in ("frames", "actions", "rewards", "terminated"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert b.known.tolist() == (a.known & (before.action_spec.kind != "none")).tolist()


@pytest.mark.parametrize("kind", ["npz", "hdf5", "video"])
def test_without_actions_and_rewards(store: Store, tmp_path: Path, kind: str) -> None:
    source = store(rewards=False, known=False)
    written = convert(source, tmp_path / "written", kind)
    after = EpisodeDataset(convert(written, tmp_path / "back", "store"))
    assert after.action_spec.kind == "none"
    assert not after.metadata.has_rewards
    assert not after.metadata.has_terminations
    np.testing.assert_array_equal(after.read(1).frames, EpisodeDataset(source).read(1).frames)


def test_only_the_store_says_which_actions_are_known(store: Store, tmp_path: Path) -> None:
    source = store()
    half = EpisodeDataset(source)

    episode = half.read(0)
    episode.known[2] = False
    EpisodeWriter(source, half.metadata).add(0, episode)
    with pytest.raises(DataError, match=r"some of its actions are not known.*format=store"):
        convert(source, tmp_path / "npz", "npz")
    kept = EpisodeDataset(convert(source, tmp_path / "again", "store"))
    assert kept.read(0).known.tolist() == episode.known.tolist()


def test_at_another_rate(store: Store, tmp_path: Path) -> None:
    source = store(lengths=(7,))
    slow = EpisodeDataset(convert(source, tmp_path / "slow", "store", frame_skip=2))
    assert slow.read(0).frames[:, 0, 0, 0].tolist() == [0, 2, 4, 6]
    assert slow.metadata.fps == 5.0


def test_the_command_takes_paths_without_names(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = store()
    target = tmp_path / "a folder = of mine, (really)"
    words = ["data", "convert", str(source), str(target), "format=npz", "data.size=16"]
    assert cli(words) == 0
    assert "imported 15 frames in 3 episodes from 3 of 3 recordings" in capsys.readouterr().out
    assert len(list(target.glob("*.npz"))) == 3
    assert cli(["data", "convert", str(source)]) == 2
    assert "missing value: dst" in capsys.readouterr().err
    assert cli(["data", "turn", str(source)]) == 2
    assert "unknown command" in capsys.readouterr().err


def test_wrong_settings_are_named(store: Store, tmp_path: Path) -> None:
    source = store()
    with pytest.raises(ConfigError, match="cannot be written; use store, npz, hdf5, video"):
        convert(source, tmp_path / "x", "minari")
    with pytest.raises(ConfigError, match=r"lies in .*; choose a folder outside"):
        convert(source, source / "inside", "npz")
    with pytest.raises(DataError, match="does not exist"):
        convert(tmp_path / "nowhere", tmp_path / "x", "npz")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no episodes")
    with pytest.raises(DataError, match="holds no episodes of a known format") as error:
        convert(tmp_path / "text", tmp_path / "x", "npz")
    for name in FORMATS:
        assert f"{name}:" in str(error.value)
    with pytest.raises(ConfigError, match="format 'avi' is unknown"):
        convert(source, tmp_path / "x", "npz", format="avi")
