"""What `data=` opens: our own store where it lies, all else imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldflow.data.convert import ConvertConfig
from worldflow.data.convert import main as convert
from worldflow.data.formats import video
from worldflow.data.formats.base import RawFrame
from worldflow.data.formats.decoding import read_frames
from worldflow.data.importing import ImportConfig
from worldflow.data.opening import DataConfig, open_dataset
from worldflow.errors import DataError

Store = Callable[..., Path]


def test_our_own_store_is_read_where_it_lies(store: Store, tmp_path: Path) -> None:
    path = store(size=24)
    for config in (DataConfig(path=str(path)), DataConfig(path=str(path), size=24)):
        dataset = open_dataset(config, tmp_path / "run")
        assert dataset.folder == path
        assert dataset.frame_shape == (24, 24, 3)
    assert not (tmp_path / "run").exists()


def test_it_is_imported_for_another_size_or_rate(store: Store, tmp_path: Path) -> None:
    path = str(store(size=24))
    smaller = open_dataset(DataConfig(path=path, size=16), tmp_path / "a")
    assert (smaller.folder, smaller.frame_shape) == (tmp_path / "a", (16, 16, 3))
    slower = open_dataset(DataConfig(path=path, frame_skip=2), tmp_path / "b")
    assert (slower.frame_shape, slower.metadata.fps) == ((24, 24, 3), 5.0)
    elsewhere = DataConfig(path=path, size=16, imported=str(tmp_path / "c"))
    assert open_dataset(elsewhere, tmp_path / "run").folder == tmp_path / "c"


def test_recordings_are_imported_once(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    convert(ConvertConfig(str(store()), str(videos), "video", ImportConfig()))
    capsys.readouterr()
    first = open_dataset(DataConfig(path=str(videos)), tmp_path / "run")
    assert first.frame_shape == (64, 64, 3)
    assert "imported 15 frames in 3 episodes from 3 of 3 recordings" in capsys.readouterr().out
    stamps = [path.stat().st_mtime_ns for path in first.paths]
    again = open_dataset(DataConfig(path=str(videos)), tmp_path / "run")
    assert [path.stat().st_mtime_ns for path in again.paths] == stamps
    with pytest.raises(DataError, match="other recordings were imported into this folder, or"):
        open_dataset(DataConfig(path=str(videos), size=32), tmp_path / "run")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos whose frames were asked for, each time."""
    names: list[str] = []

    def counted(path: Path) -> Iterator[RawFrame]:
        names.append(path.name)
        return read_frames(path)

    monkeypatch.setattr(video, "read_frames", counted)
    return names


def one_video(store: Store, folder: Path) -> Path:
    convert(ConvertConfig(str(store(lengths=(250,))), str(folder), "video", ImportConfig(size=16)))
    return folder


def test_the_only_video_is_counted_once(store: Store, tmp_path: Path, decoded: list[str]) -> None:
    config = DataConfig(path=str(one_video(store, tmp_path / "video")), size=16)
    first = open_dataset(config, tmp_path / "run", parts=True)
    assert len(decoded) == 2  # to count the frames, and to import them
    assert first.lengths.tolist() == [25] * 10 + [10]  # each begins with the end of the last
    again = open_dataset(config, tmp_path / "run", parts=True)
    assert len(decoded) == 2
    assert again.lengths.tolist() == first.lengths.tolist()
    journal = tmp_path / "run/import.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(lines[0])  # killed in the middle of the only video
    resumed = open_dataset(config, tmp_path / "run", parts=True)
    assert len(decoded) == 3  # imported once more, not counted
    assert resumed.lengths.tolist() == first.lengths.tolist()
    with pytest.raises(DataError, match="the same with other settings"):
        open_dataset(replace(config, segment=24), tmp_path / "run", parts=True)


def test_the_only_video_that_can_be_read_is_cut(
    store: Store, tmp_path: Path, decoded: list[str]
) -> None:
    folder = one_video(store, tmp_path / "video")
    (folder / "bad.mkv").write_bytes(b"no video")
    config = DataConfig(path=str(folder), size=16)
    with pytest.raises(DataError, match=r"bad\.mkv"):
        open_dataset(config, tmp_path / "run", parts=True)
    assert not decoded
    skipping = replace(config, on_error="skip")
    cut = open_dataset(skipping, tmp_path / "run", parts=True)
    assert cut.lengths.tolist() == [25] * 10 + [10] and len(decoded) == 2
    assert len(np.unique(cut.recordings)) == 1
    whole = open_dataset(skipping, tmp_path / "whole")
    assert whole.lengths.tolist() == [250]


def test_half_an_import_is_not_a_dataset(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "half"
    convert(ConvertConfig(str(store()), str(target), "store", ImportConfig()))
    journal = target / "import.jsonl"
    open_dataset(DataConfig(path=str(target)), tmp_path / "run")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # killed before it said that it was done
    with pytest.raises(DataError, match="did not come to its end; run the command that began it"):
        open_dataset(DataConfig(path=str(target)), tmp_path / "run")
