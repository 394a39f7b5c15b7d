"""A folder with all that can be wrong in one: each file is named, none stops the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_samples import COUNT, FLAT, NOISE, cut, read, write_video

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.formats.registry import open_recordings
from worldflow.data.importing import ImportConfig, import_dataset, summary
from worldflow.data.inspect import inspect
from worldflow.errors import DataError

H264 = ("libx264", "yuv420p")
ROWS = "action\n" + "1\n" * COUNT
QUARTER = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()


def corrupt(path: Path) -> None:
    content = bytearray(write_video(path, NOISE, "png", "rgb24").read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def gif(path: Path) -> None:
    from PIL import Image

    images = [Image.fromarray(image) for image in NOISE[:3]]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:])


def with_actions(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_video(path)
        path.with_suffix(".csv").write_text(text)

    return write


# how each is made, and what is said of it
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "corrupt.mov": (corrupt, "damaged"),
    "truncated.mkv": (lambda path: cut(write_video(path), 0.5), "damaged or truncated"),
    "truncated.mp4": (lambda path: cut(write_video(path, FLAT, *H264), 0.5), "damaged"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "damaged"),
    "no_frames.avi": (lambda path: write_video(path, FLAT[:0], "mpeg4", "yuv420p"), "no frames"),
    "text.mp4": (lambda path: path.write_text("no video at all"), "damaged, or no mp4"),
    "gif.mp4": (gif, "damaged, or no mp4"),
    "picture.avi": (lambda path: path.write_bytes(png()), "damaged, or no mp4"),
    "pointer.mp4": (lambda path: path.write_text("version https://git-lfs"), "git lfs pull"),
    "nan.mkv": (with_actions("action\n" + "0\n" * (COUNT - 1) + "nan\n"), "is not a number"),
    "few.mkv": (with_actions("action\n0\n0\n"), "fewer actions than frames|12 frames but 2"),
    "many.mkv": (with_actions(ROWS + ROWS[7:]), "12 frames but 24 actions"),
    "wide.mkv": (
        lambda path: write_video(path, np.zeros((1, 2, 8194, 3), np.uint8)),
        "frames of 2 x 8194",
    ),
    "circle.mkv": (lambda path: path.symlink_to(path.name), "leads nowhere"),
    "out.mkv": (lambda path: path.symlink_to(write_video(outside(path))), "leads out of"),
    "dangling.mkv": (lambda path: path.symlink_to("nothing.mkv"), "No such file"),
}
GOOD: dict[str, Callable[[Path], object]] = {
    "with_actions.mkv": with_actions(ROWS),
    "grey.mkv": lambda path: write_video(path, NOISE, "ffv1", "gray"),
    "deep.mkv": lambda path: write_video(path, NOISE, "ffv1", "yuv420p10le"),
    "alpha.mov": lambda path: write_video(path, NOISE, "png", "rgba"),
    "variable.mkv": lambda path: write_video(
        path, milliseconds=[0, 10, 30, 200, 210, 400, 900, 910, 920, 930, 940, 2000]
    ),
    "other.mp4": lambda path: write_video(path.with_suffix(".mkv")).rename(path),
    "UPPER.MP4": lambda path: write_video(path.with_suffix(".mp4"), FLAT, *H264).rename(path),
    "odd.mkv": lambda path: write_video(path, NOISE[:, :31, :47]),
    "deep/er/ünï – 視頻 [1] #%\n.mkv": write_video,
}


def outside(path: Path) -> Path:
    return path.parents[1] / "outside" / "a.mkv"


def png() -> bytes:
    return cv2.imencode(".png", NOISE[0])[1].tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All of `BAD` and `GOOD`, a pipe, and what systems leave behind."""
    folder = tmp_path / "videos"
    for name, make in [*((name, make) for name, (make, _) in BAD.items()), *GOOD.items()]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name)
    for name in ("._grey.mkv", ".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"x")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")  # reading it would never end
    return folder


def test_skip_leaves_out_what_is_bad_and_counts_it(folder: Path, tmp_path: Path) -> None:
    config = ImportConfig(size=16, on_error="skip")
    done = import_dataset(open_recordings(folder), tmp_path / "set", config, progress=False)
    failed = {entry.name: entry.error for entry in done if entry.error is not None}
    assert failed.keys() == BAD.keys()
    assert {entry.name for entry in done} - failed.keys() == GOOD.keys()
    for name, (_, message) in BAD.items():
        with pytest.raises(DataError, match=message):
            raise DataError(str(failed[name]))
    dataset = EpisodeDataset(tmp_path / "set")
    assert len(dataset) == len(GOOD) and set(dataset.lengths.tolist()) == {COUNT}
    text = summary(done)
    counts = f"{COUNT * len(GOOD)} frames in {len(GOOD)} episodes"
    assert f"imported {counts} from {len(GOOD)} of {len(GOOD) + len(BAD)} recordings" in text
    assert text.count("left out:") == len(BAD)
    assert not list((tmp_path / "set").rglob("*.partial"))


def test_inspect_names_the_same(folder: Path) -> None:
    found = inspect(open_recordings(folder))
    assert len(found.damaged) == len(BAD)
    for name in BAD:
        assert sum(Path(name).stem in text for text in found.damaged) >= 1
    assert found.frames == COUNT * len(GOOD)


@pytest.mark.parametrize("name", BAD)
def test_raise_stops_at_what_is_bad_and_names_it(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    (tmp_path / "videos").mkdir()
    make(tmp_path / "videos" / name)
    write_video(tmp_path / "videos" / "good.mkv")
    raw = open_recordings(tmp_path / "videos")
    with pytest.raises(DataError, match=message) as caught:
        import_dataset(raw, tmp_path / "set", ImportConfig(size=16), progress=False)
    assert Path(name).stem in str(caught.value) and "data.on_error=skip" in str(caught.value)
    with pytest.raises(DataError):
        EpisodeDataset(tmp_path / "set")


def test_a_video_held_upright_is_upright(tmp_path: Path) -> None:
    """A quarter turn noted in the file's track header, as phones do, is made."""
    path = write_video(tmp_path / "a.mp4", NOISE, "libx264rgb", "rgb24", options={"crf": "0"})
    still = np.array([frame.pixels for frame in read(path)])
    content = path.read_bytes()
    place = content.index(b"tkhd") + 44  # its matrix, of a header of version 0
    assert content[place : place + 4] == b"\0\1\0\0"
    path.write_bytes(content[:place] + QUARTER + content[place + 36 :])
    turned = np.array([frame.pixels for frame in read(path)])
    np.testing.assert_array_equal(turned, np.rot90(still, -1, axes=(1, 2)))  # clockwise
