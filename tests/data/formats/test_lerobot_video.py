"""Videos of LeRobotDatasets: the part that is an episode's, to the frame, or an error."""

from pathlib import Path

import numpy as np
import pytest
from lerobot_samples import (
    CAMERA,
    FPS,
    LENGTHS,
    encode,
    feature,
    frames,
    relist,
    video_file,
    write_lerobot,
)

from worldflow.data.formats.decoding import open_video
from worldflow.data.formats.lerobot import LEROBOT
from worldflow.errors import DataError


def test_av1_as_lerobot_encodes_it(tmp_path: Path) -> None:
    folder = feature(write_lerobot(tmp_path, "v2.1"), CAMERA, {"dtype": "video"})
    greys = [40 * i + 7 * np.arange(length) for i, length in enumerate(LENGTHS)]
    for i, grey in enumerate(greys):
        images = np.broadcast_to(grey[:, None, None, None], (len(grey), 64, 64, 3)).astype("u1")
        encode(video_file(folder, i), images, "libsvtav1", crf="20", g="2", preset="12")
    data = LEROBOT.open(folder)
    assert data.lossy == "av1 video"  # the stream says so, as info.json does not
    for i, grey in enumerate(greys):
        found = np.stack([f.pixels for f in data.open(i).read()]).astype(int)
        np.testing.assert_allclose(found, found * 0 + grey[:, None, None, None], atol=3)


def test_part_of_a_video_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    images = np.concatenate([frames(0), frames(2)])
    encode(path, images)
    for start, stop in ((0, 23), (0, 1), (12, 15), (13, 13), (22, 99)):
        with open_video(path) as video:
            found = list(video.frames((start - 0.5) / FPS, (stop - 0.5) / FPS))
        assert [round(f.seconds * FPS, 6) for f in found] == list(range(23))[start:stop]
        for t, frame in enumerate(found, start):
            np.testing.assert_array_equal(frame.pixels, images[t])


@pytest.mark.parametrize("keep", [0.0, 0.9])
def test_a_truncated_video(tmp_path: Path, keep: float) -> None:
    folder = write_lerobot(tmp_path, "v2.1")
    data, path = LEROBOT.open(folder), video_file(folder, 1)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert data.open(1).frames == 6
    with pytest.raises(DataError, match=r"episode_000001.mp4: damaged, or no mp4.*git lfs pull"):
        list(data.open(1).read())
    path.unlink()
    with pytest.raises(DataError, match=r"episode_000001.mp4 is missing"):
        data.open(1)
    feature(folder, CAMERA, {"dtype": "video"})
    assert LEROBOT.open(folder).lossy == "h264 video"  # as the first that can be read


@pytest.mark.parametrize("codec", ["libx264rgb", "mpeg4"])  # of which the latter makes do
@pytest.mark.parametrize("missing", [50, 9000])
def test_a_video_truncated_after_its_index(tmp_path: Path, missing: int, codec: str) -> None:
    folder = write_lerobot(tmp_path, "v2.1")
    path = video_file(folder, 1)
    encode(path, frames(1), codec, index_first=True)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DataError, match=r"episode_000001.mp4: damaged(, or no mp4| or truncated)"):
        list(LEROBOT.open(folder).open(1).read())


def test_fewer_frames_than_rows(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path, "v2.1")
    encode(video_file(folder, 1), frames(1)[:5])
    with pytest.raises(DataError, match=r"episode 1: 6 rows, but 5 frames in .*episode_000001.mp4"):
        list(LEROBOT.open(folder).open(1).read())
    # More frames than rows: what lies after the last row was not recorded to be read.
    encode(video_file(folder, 1), np.concatenate([frames(1), frames(0)]))
    found = [f.pixels for f in LEROBOT.open(folder).open(1).read()]
    np.testing.assert_array_equal(found, frames(1))


@pytest.mark.parametrize(
    ("start", "stop", "message"),
    [
        (1.4, 1.9, "6 rows, but 5 frames"),
        (1.9, 2.5, "6 rows, but 1 frames"),
        (5.0, 5.6, "6 rows, but 0 frames"),
    ],
)
def test_a_wrong_part_of_a_video(tmp_path: Path, start: float, stop: float, message: str) -> None:
    folder = write_lerobot(tmp_path)
    place = f"videos/{CAMERA}/"
    relist(folder, **{f"{place}from_timestamp": start, f"{place}to_timestamp": stop})
    with pytest.raises(DataError, match=f"episode 1: .*{message}"):
        list(LEROBOT.open(folder).open(1).read())


@pytest.mark.parametrize("start", [-0.5, 2.5, float("nan"), float("inf"), None])
def test_impossible_times_within_a_video(tmp_path: Path, start: float | None) -> None:
    place = f"videos/{CAMERA}/"
    folder = relist(write_lerobot(tmp_path), **{f"{place}from_timestamp": start})
    with pytest.raises(DataError, match=r"meta: where episode 1 lies is not said.*download"):
        LEROBOT.open(folder)


def test_a_frame_missing_within_a_video(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path, "v2.1")
    encode(video_file(folder, 1), np.delete(frames(1), 3, axis=0), times=[0, 1, 2, 4, 5])
    with pytest.raises(DataError, match=r"episode 1: .*000001.mp4: frame 3 comes 0.1000 s late"):
        list(LEROBOT.open(folder).open(1).read())


def test_rounded_times_within_a_video_are_understood(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path)
    place = f"videos/{CAMERA}/"
    relist(folder, **{f"{place}from_timestamp": 1.4 + 0.02, f"{place}to_timestamp": 2.0 - 0.02})
    found = [f.pixels for f in LEROBOT.open(folder).open(1).read()]
    np.testing.assert_array_equal(found, frames(1))


def test_a_playlist_in_the_place_of_a_video_is_refused(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path, "v2.1")
    video_file(folder, 1).write_text("ffconcat version 1.0\nfile episode_000000.mp4\n")
    with pytest.raises(DataError, match=r"episode_000001.mp4: damaged, or no mp4"):
        list(LEROBOT.open(folder).open(1).read())
