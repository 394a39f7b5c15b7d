"""Folders of videos: order, action files beside them, and what cannot be read."""

from pathlib import Path

import numpy as np
import pytest
from video_samples import COUNT, FLAT, NOISE, RATE, cut, write_video

from worldflow.actions import ActionSpec
from worldflow.data.formats.video import VIDEO, VideoFolder
from worldflow.errors import DataError


def test_a_folder_is_read_in_order_with_its_actions(tmp_path: Path) -> None:
    for name in ("b/2.mkv", "a.mkv", "b/1.mkv", "c.MKV"):
        write_video(tmp_path / name, NOISE[:4])
    for hidden in (".a.mkv", ".trash/a.mkv"):
        write_video(tmp_path / hidden, NOISE[:4])
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "other.csv").write_text("of no video")
    (tmp_path / "a.csv").write_text("action,reward,terminated\n1,0.5,0\n0,0,0\n2,0,0\n0,-1,1\n")
    np.savez(tmp_path / "b" / "2.npz", actions=[3, 3, 3])
    dataset = VIDEO.open(tmp_path)
    assert dataset.names == ["a.mkv", "b/1.mkv", "b/2.mkv", "c.MKV"]
    assert (dataset.format, dataset.alignment) == ("video", "taken_at")
    assert dataset.source == {"path": str(tmp_path), "videos": 4}
    assert dataset.action_spec == ActionSpec("discrete", n=4)
    assert (dataset.fps, dataset.lossy) == (RATE, None)
    episodes = [dataset.open(i) for i in range(4)]
    assert [episode.name for episode in episodes] == list(dataset.names)
    first, without, third, _ = episodes
    assert first.actions is not None
    assert first.rewards is not None
    assert first.terminated is not None
    assert third.actions is not None
    assert first.actions.tolist() == [1, 0, 2, 0]
    assert first.rewards.tolist() == [0.5, 0, 0, -1]
    assert first.terminated.tolist() == [False, False, False, True]
    assert not first.truncated
    assert without.actions is without.rewards is without.terminated is None
    assert third.actions.tolist() == [3, 3, 3]
    np.testing.assert_array_equal([frame.pixels for frame in third.read()], NOISE[:4])


def test_a_single_video_is_a_dataset(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv")
    write_video(tmp_path / "b.mkv")
    np.savez(tmp_path / "a.npz", actions=np.zeros((COUNT, 2)))
    np.savez(tmp_path / "b.npz", actions=np.zeros((COUNT, 3)))
    dataset = VideoFolder(tmp_path / "a.mkv")
    assert dataset.names == ["a.mkv"]
    assert dataset.action_spec == ActionSpec("box", low=(-1.0, -1.0), high=(1.0, 1.0))
    with pytest.raises(DataError, match=r"actions of 2 columns in a\.mkv, of 3 in b\.mkv"):
        VideoFolder(tmp_path)


def test_without_actions_there_are_none(tmp_path: Path) -> None:
    dataset = VideoFolder(write_video(tmp_path / "a.mkv"))
    assert dataset.action_spec == ActionSpec("none")
    assert dataset.open(0).actions is None


def test_what_is_detected(tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "a.npz", actions=[1])
    assert not VIDEO.detect(tmp_path)
    assert not VIDEO.detect(tmp_path / "arrays" / "a.npz")
    assert not VIDEO.detect(tmp_path / "nowhere")
    write_video(tmp_path / "arrays" / ".hidden.mkv")
    assert not VIDEO.detect(tmp_path)
    path = write_video(tmp_path / "deep" / "er" / "a.mkv")
    assert VIDEO.detect(tmp_path)
    assert VIDEO.detect(path)
    for folder in (tmp_path / "arrays", tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"{folder.name}: no videos there.*\.mp4"):
            VIDEO.open(folder)


def test_an_mp4_with_its_index_cut_off_cannot_be_opened(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv")
    cut(write_video(tmp_path / "b.mp4", FLAT, "libx264", "yuv420p"), 0.5)
    dataset = VideoFolder(tmp_path)
    with pytest.raises(DataError, match=r"b\.mp4: damaged.*\(Invalid data.*get it again"):
        dataset.open(1)
    (tmp_path / "a.mkv").unlink()
    with pytest.raises(DataError, match=r"none of 1 videos can be read; the first: .*b\.mp4"):
        VideoFolder(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"A text, not a video.\n" * 40,
        # What FFmpeg would take for lists of other files to open.
        b"ffconcat version 1.0\nfile whole.mkv\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nwhole.mkv\n#EXT-X-ENDLIST\n",
    ],
)
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    write_video(tmp_path / "whole.mkv")
    (tmp_path / "a.mp4").write_bytes(content)
    dataset = VideoFolder(tmp_path)
    assert dataset.names == ["a.mp4", "whole.mkv"]
    assert dataset.fps == RATE
    with pytest.raises(DataError, match=r"a\.mp4: damaged, or no mp4, mkv.*remove it"):
        dataset.open(0)


def test_a_video_removed_after_opening_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv")
    dataset = VideoFolder(path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.mkv: .*No such file"):
        dataset.open(0)


def test_broken_actions_are_named_when_their_episode_is_opened(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_video(tmp_path / f"{name}.mkv", NOISE[:2])
    (tmp_path / "a.csv").write_text("action\n7\nnan\n")
    (tmp_path / "b.csv").write_text("action\n1\n0\n")
    (tmp_path / "c.csv").write_text("action\n9\n9\n")
    (tmp_path / "c.npz").write_bytes(b"")
    dataset = VideoFolder(tmp_path)
    assert dataset.action_spec == ActionSpec("discrete", n=2)
    with pytest.raises(DataError, match=r"a\.csv.*action of frame 1 is not a number"):
        dataset.open(0)
    with pytest.raises(DataError, match=r"c\.mkv: c\.csv and c\.npz lie beside it; keep one"):
        dataset.open(2)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = write_video(tmp_path / "outside.mkv", NOISE[:2])
    folder = write_video(tmp_path / "set" / "a.mkv", NOISE[:2]).parent
    np.savez(tmp_path / "outside.npz", actions=[5, 5])
    write_video(folder / "c.mkv", NOISE[:2])
    (folder / "b.mkv").symlink_to(outside)
    (folder / "c.npz").symlink_to(tmp_path / "outside.npz")
    (folder / "d.mkv").symlink_to(folder / "a.mkv")
    (folder / "e.mkv").symlink_to(folder / "nowhere.mkv")
    dataset = VideoFolder(folder)
    assert dataset.names == ["a.mkv", "b.mkv", "c.mkv", "d.mkv", "e.mkv"]
    assert dataset.action_spec == ActionSpec("none")
    for index, name in ((1, "b.mkv"), (2, "c.npz")):
        with pytest.raises(DataError, match=rf"{name} leads out of the data folder.*copy"):
            dataset.open(index)
    assert len(list(dataset.open(3).read())) == 2
    with pytest.raises(DataError, match=r"e\.mkv: .*No such file"):
        dataset.open(4)
