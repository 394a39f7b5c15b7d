"""Videos that are damaged, cut off or no videos: an error that names each."""

from pathlib import Path

import av
import numpy as np
import pytest
from video_samples import (
    COUNT,
    FLAT,
    HEIGHT,
    NOISE,
    WIDTH,
    cut,
    encoded,
    read,
    remux,
    without_rate,
    write_video,
)

from worldflow.data.formats.video import VideoFolder
from worldflow.errors import DataError

FASTSTART = {"movflags": "faststart"}  # the index first: else half a file cannot even be opened


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mkv", "ffv1", "bgr0"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "png", "rgb24"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.avi", "libx264", "yuv420p"),
        ("a.avi", "rawvideo", "bgr24"),
    ],
)
def test_a_video_cut_off_is_named(
    tmp_path: Path, name: str, codec: str, pixels: str, share: float
) -> None:
    options = FASTSTART if name in ("a.mp4", "a.mov") else None
    path = write_video(tmp_path / name, NOISE, codec, pixels, options=options)
    assert len(read(path)) == COUNT
    # A header that also is cut is an error of opening, so frames are asked for here.
    episode = VideoFolder(cut(path, share)).open(0)
    with pytest.raises(DataError, match=rf"{name}: damaged.*(get it again)"):
        list(episode.read())


def test_an_avi_cut_between_two_frames_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", NOISE, "rawvideo", "bgr24")
    content = path.read_bytes()
    place = -1
    for _ in range(6):  # the chunks of the first frames; FFmpeg itself sees a shorter video
        place = content.index(b"00dc", place + 1)
    path.write_bytes(content[:place])
    with pytest.raises(DataError, match=r"ends at 0\.\d+ s, its header states 1\.500 s"):
        read(path)


def test_an_avi_cut_within_its_last_frame_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", FLAT, "mjpeg", "yuvj420p")
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"idx1") - 40])
    with pytest.raises(DataError, match=r"a\.avi: damaged or truncated \(a frame is cut short\)"):
        read(path)


def test_a_frame_that_the_decoder_makes_up_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", NOISE, "mpeg4", "yuv420p")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = b"\x55" * 64
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.avi: damaged or truncated \(a frame is broken\)"):
        read(path)


def test_a_broken_frame_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mov", NOISE, "png", "rgb24")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mov: damaged"):
        read(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        audio = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        audio.rate, audio.pts = 8000, 0
        container.mux(stream.encode(audio))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match=r"a\.mkv: no video in it"):
        read(tmp_path / "a.mkv")


def test_a_video_of_no_frames_is_named(tmp_path: Path) -> None:
    episode = VideoFolder(write_video(tmp_path / "a.avi", FLAT[:0], "mpeg4", "yuv420p")).open(0)
    with pytest.raises(DataError, match=r"a\.avi: no frames in it"):
        list(episode.read())


def test_a_single_frame_without_a_rate_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.mkv: neither a frame rate nor two frames"):
        VideoFolder(without_rate(write_video(tmp_path / "a.mkv", NOISE[:1])))


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", FLAT, "mpeg4", "yuv420p")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"XQZ9"))
    with pytest.raises(DataError, match=r"a\.avi: its codec is unknown"):
        read(path)


def test_frames_too_large_are_refused_before_decoding(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", np.zeros((1, 2, 8194, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.mkv: frames of 2 x 8194 pixels"):
        VideoFolder(tmp_path)


def test_frames_larger_than_the_header_says_are_refused(tmp_path: Path) -> None:
    packets = encoded(np.zeros((1, 16, 8194, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.webm: frames of 16 x 8194 pixels"):
        read(remux(tmp_path / "a.webm", packets, [0]))


def test_a_change_of_size_is_named(tmp_path: Path) -> None:
    larger = FLAT[:2].repeat(2, axis=1).repeat(2, axis=2)
    packets = encoded(FLAT[:3]) + encoded(larger)
    frames = VideoFolder(remux(tmp_path / "a.webm", packets, range(0, 625, 125))).open(0).read()
    assert [next(frames).pixels.shape for _ in range(3)] == [(HEIGHT, WIDTH, 3)] * 3
    with pytest.raises(DataError, match=r"a\.webm: frames change from 32 x 48 to 64 x 96.*ffmpeg"):
        next(frames)


def test_times_that_do_not_rise_are_named(tmp_path: Path) -> None:
    path = remux(tmp_path / "a.webm", encoded(FLAT[:4]), [0, 125, 125, 250])
    with pytest.raises(DataError, match=r"a\.webm: a frame at 0\.1250 s follows one at 0\.1250 s"):
        read(path)
