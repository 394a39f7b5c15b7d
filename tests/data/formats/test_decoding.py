"""Videos decoded: frames and times as written, whatever the container and the codec."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_samples import (
    COUNT,
    FLAT,
    HEIGHT,
    NOISE,
    RATE,
    WIDTH,
    cut,
    read,
    without_rate,
    write_video,
)

from worldflow.data.formats.base import RawFrame
from worldflow.data.formats.decoding import open_video
from worldflow.data.formats.video import VideoFolder
from worldflow.errors import DataError


def check_times(frames: list[RawFrame], seconds: Sequence[float]) -> None:
    np.testing.assert_allclose([frame.seconds for frame in frames], seconds, atol=1e-3)
    assert frames[0].seconds == 0


def test_lossless_frames_and_their_times_are_those_written(tmp_path: Path) -> None:
    episode = VideoFolder(write_video(tmp_path / "a.mkv")).open(0)
    frames = list(episode.read())
    np.testing.assert_array_equal([frame.pixels for frame in frames], NOISE)
    assert frames[0].pixels.dtype == np.uint8
    check_times(frames, np.arange(COUNT) / RATE)
    assert len(list(episode.read())) == COUNT  # a second time


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4"), ("a.mov", "libx264")],
)
def test_lossy_videos_are_read_and_named(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, FLAT, codec, "yuv420p")
    dataset = VideoFolder(path)
    frames = list(dataset.open(0).read())
    found = np.array([frame.pixels for frame in frames], np.int64)
    assert np.abs(found - FLAT).max() <= 6  # steps between frames are 10
    check_times(frames, np.arange(COUNT) / RATE)
    known = {"libx264": "h264 video", "libvpx": "vp8 video", "mpeg4": "mpeg4 video"}
    assert dataset.lossy == known[codec]
    assert dataset.fps == RATE


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_variable_rate_is_kept(tmp_path: Path, name: str) -> None:
    times = [40, 50, 140, 1000, 1400]
    codec, pixels = ("ffv1", "bgr0") if name == "a.mkv" else ("libx264", "yuv420p")
    frames = read(write_video(tmp_path / name, FLAT[:5], codec, pixels, milliseconds=times))
    check_times(frames, [0.0, 0.01, 0.1, 0.96, 1.36])


@pytest.mark.parametrize(
    ("codec", "pixels", "name"),
    [("ffv1", "gray", "a.mkv"), ("png", "rgba", "a.mov"), ("rawvideo", "bgr24", "a.avi")],
)
def test_other_pixel_formats_become_rgb(tmp_path: Path, codec: str, pixels: str, name: str) -> None:
    images = NOISE if pixels != "gray" else NOISE[..., :1].repeat(3, axis=3)
    dataset = VideoFolder(write_video(tmp_path / name, images, codec, pixels))
    found = [frame.pixels for frame in dataset.open(0).read()]
    # Grey keeps 16 .. 235 only or rounds, depending on the version of FFmpeg.
    np.testing.assert_allclose(np.array(found, int), images, atol=2 if pixels == "gray" else 0)
    assert dataset.lossy is None


def test_a_palette_becomes_rgb(tmp_path: Path) -> None:
    indices = (np.arange(HEIGHT * WIDTH) % 256).astype(np.uint8).reshape(HEIGHT, WIDTH)
    colours = np.random.default_rng(1).integers(0, 256, (256, 4), dtype=np.uint8)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("rawvideo", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "pal8"
        frame = av.VideoFrame.from_ndarray((indices, colours), "pal8")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (found,) = read(tmp_path / "a.avi")
    np.testing.assert_array_equal(found.pixels, colours[indices][:, :, 1:])  # alpha comes first


def test_a_rate_that_no_header_states_is_that_of_the_times(tmp_path: Path) -> None:
    times = [0, 30, 200, 210, 350, 600, 610, 700, 800, 820, 900, 1000]
    dataset = VideoFolder(without_rate(write_video(tmp_path / "a.mkv", milliseconds=times)))
    assert dataset.fps == pytest.approx(11.0)
    frames = list(dataset.open(0).read())
    check_times(frames, np.array(times) / 1000)
    np.testing.assert_array_equal([frame.pixels for frame in frames], NOISE)


def test_a_frame_without_pts_comes_one_frame_after_the_last(tmp_path: Path) -> None:
    frame = av.VideoFrame(WIDTH, HEIGHT, "rgb24")
    with open_video(write_video(tmp_path / "a.mkv")) as video:
        assert video.time_of(frame, None) == 0
        assert video.time_of(frame, 1.5) == 1.625
        assert video.time_of(frame, -np.inf) == -np.inf  # after seeking: nowhere
        frame.pts, frame.time_base = 7, Fraction(1, 10)
        assert video.time_of(frame, 1.5) == 0.7


def test_reading_is_lazy_and_a_closed_iterator_closes_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", np.tile(NOISE, (10, 1, 1, 1)))

    def handles() -> int:
        return sum(link.resolve() == path for link in Path("/proc/self/fd").iterdir())

    episode = VideoFolder(path).open(0)
    assert handles() == 0
    cut(path, 0.5)  # what lies behind the first frame is not looked at
    frames = episode.read()
    assert handles() == 0
    np.testing.assert_array_equal(next(frames).pixels, NOISE[0])
    assert handles() == 1
    frames.close()  # type: ignore[attr-defined]
    assert handles() == 0
    with pytest.raises(DataError, match=r"a\.mkv: damaged or truncated"):
        list(episode.read())
    assert handles() == 0


def test_sound_longer_than_the_video_is_no_damage(tmp_path: Path) -> None:
    assert len(read(write_video(tmp_path / "a.mkv", sound=4.0))) == COUNT


def test_a_late_start_is_no_damage(tmp_path: Path) -> None:
    times = [5000 + 125 * t for t in range(COUNT)]
    check_times(read(write_video(tmp_path / "a.mkv", milliseconds=times)), np.arange(COUNT) / RATE)


def test_a_name_like_a_protocol_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mkv", NOISE[:2]).rename(tmp_path / "concat:b.mkv")
    monkeypatch.chdir(tmp_path)
    assert len(read(Path("concat:b.mkv"))) == 2


def test_metadata_that_is_no_text_is_no_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", FLAT, "mpeg4", "yuv420p")
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    assert len(read(path)) == COUNT
