"""Folders of videos: frames, times and actions as written, and an error for each kind of damage."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.formats.base import RawFrame
from worldflow.data.formats.video import VIDEO, VideoFolder, frame_time
from worldflow.errors import DataError

COUNT, HEIGHT, WIDTH, RATE = 12, 32, 48, 8
NOISE = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
# Frame t is of one colour, which lossy codecs keep nearly.
FLAT = np.broadcast_to(np.arange(60, 180, 10)[:, None, None, None], NOISE.shape).astype(np.uint8)
FASTSTART = {"movflags": "faststart"}  # the index first: else half a file cannot even be opened


def write(
    path: Path,
    frames: np.ndarray = NOISE,
    codec: str = "ffv1",
    pixels: str = "bgr0",
    milliseconds: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    sound: float = 0.0,
) -> Path:
    """A video of `RATE` frames a second or at the given times, and seconds of `sound`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        speaker = container.add_stream("pcm_s16le", rate=8000) if sound else None
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        container.start_encoding()  # writes the header, even if no frame follows
        for t, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[t], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if speaker is not None:
            samples = np.zeros((1, int(8000 * sound)), np.int16)
            audio = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            audio.rate, audio.pts = 8000, 0
            container.mux(speaker.encode(audio))
            container.mux(speaker.encode(None))
    return path


def read(path: Path) -> list[RawFrame]:
    """All frames of a single video."""
    return list(VideoFolder(path).open(0).read())


def check_times(frames: list[RawFrame], seconds: Sequence[float]) -> None:
    np.testing.assert_allclose([frame.seconds for frame in frames], seconds, atol=1e-3)
    assert frames[0].seconds == 0


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def test_lossless_frames_and_their_times_are_those_written(tmp_path: Path) -> None:
    episode = VideoFolder(write(tmp_path / "a.mkv")).open(0)
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
    path = write(tmp_path / name, FLAT, codec, "yuv420p")
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
    frames = read(write(tmp_path / name, FLAT[:5], codec, pixels, milliseconds=times))
    check_times(frames, [0.0, 0.01, 0.1, 0.96, 1.36])


@pytest.mark.parametrize(
    ("codec", "pixels", "name"),
    [("ffv1", "gray", "a.mkv"), ("png", "rgba", "a.mov"), ("rawvideo", "bgr24", "a.avi")],
)
def test_other_pixel_formats_become_rgb(tmp_path: Path, codec: str, pixels: str, name: str) -> None:
    images = NOISE if pixels != "gray" else NOISE[..., :1].repeat(3, axis=3)
    dataset = VideoFolder(write(tmp_path / name, images, codec, pixels))
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


def without_rate(path: Path) -> Path:
    """The mkv with its DefaultDuration made void, as in what browsers record."""
    content = path.read_bytes()
    place = content.index(b"\x23\xe3\x83\x84")  # its id, and its length, 4
    path.write_bytes(content[:place] + b"\xec\x86" + b"\0" * 6 + content[place + 8 :])
    return path


def test_a_rate_that_no_header_states_is_that_of_the_times(tmp_path: Path) -> None:
    times = [0, 30, 200, 210, 350, 600, 610, 700, 800, 820, 900, 1000]
    dataset = VideoFolder(without_rate(write(tmp_path / "a.mkv", milliseconds=times)))
    assert dataset.fps == pytest.approx(11.0)
    frames = list(dataset.open(0).read())
    check_times(frames, np.array(times) / 1000)
    np.testing.assert_array_equal([frame.pixels for frame in frames], NOISE)


def test_a_single_frame_without_a_rate_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.mkv: neither a frame rate nor two frames"):
        VideoFolder(without_rate(write(tmp_path / "a.mkv", NOISE[:1])))


def test_a_frame_without_pts_comes_one_frame_after_the_last() -> None:
    frame = av.VideoFrame(WIDTH, HEIGHT, "rgb24")
    assert frame_time(frame, None, 8.0) == 0
    assert frame_time(frame, 1.5, 8.0) == 1.625
    frame.pts, frame.time_base = 7, Fraction(1, 10)
    assert frame_time(frame, 1.5, 8.0) == 0.7


def test_a_folder_is_read_in_order_with_its_actions(tmp_path: Path) -> None:
    for name in ("b/2.mkv", "a.mkv", "b/1.mkv", "c.MKV"):
        write(tmp_path / name, NOISE[:4])
    for hidden in (".a.mkv", ".trash/a.mkv"):
        write(tmp_path / hidden, NOISE[:4])
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
    write(tmp_path / "a.mkv")
    write(tmp_path / "b.mkv")
    np.savez(tmp_path / "a.npz", actions=np.zeros((COUNT, 2)))
    np.savez(tmp_path / "b.npz", actions=np.zeros((COUNT, 3)))
    dataset = VideoFolder(tmp_path / "a.mkv")
    assert dataset.names == ["a.mkv"]
    assert dataset.action_spec == ActionSpec("box", low=(-1.0, -1.0), high=(1.0, 1.0))
    with pytest.raises(DataError, match="actions of 2 and of 3 columns"):
        VideoFolder(tmp_path)


def test_without_actions_there_are_none(tmp_path: Path) -> None:
    dataset = VideoFolder(write(tmp_path / "a.mkv"))
    assert dataset.action_spec == ActionSpec("none")
    assert dataset.open(0).actions is None


def test_what_is_detected(tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "a.npz", actions=[1])
    assert not VIDEO.detect(tmp_path)
    assert not VIDEO.detect(tmp_path / "arrays" / "a.npz")
    assert not VIDEO.detect(tmp_path / "nowhere")
    write(tmp_path / "arrays" / ".hidden.mkv")
    assert not VIDEO.detect(tmp_path)
    path = write(tmp_path / "deep" / "er" / "a.mkv")
    assert VIDEO.detect(tmp_path)
    assert VIDEO.detect(path)
    for folder in (tmp_path / "arrays", tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"{folder.name}: no videos there.*\.mp4"):
            VIDEO.open(folder)


def test_reading_is_lazy_and_a_closed_iterator_closes_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", np.tile(NOISE, (10, 1, 1, 1)))

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
    path = write(tmp_path / name, NOISE, codec, pixels, options=options)
    assert len(read(path)) == COUNT
    # A header that also is cut is an error of opening, so frames are asked for here.
    episode = VideoFolder(cut(path, share)).open(0)
    with pytest.raises(DataError, match=rf"{name}: damaged.*(record it again)"):
        list(episode.read())


def test_an_avi_cut_between_two_frames_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", NOISE, "rawvideo", "bgr24")
    content = path.read_bytes()
    place = -1
    for _ in range(6):  # the chunks of the first frames; FFmpeg itself sees a shorter video
        place = content.index(b"00dc", place + 1)
    path.write_bytes(content[:place])
    with pytest.raises(DataError, match=r"ends at 0\.\d+ s, its header states 1\.500 s"):
        read(path)


def test_an_avi_cut_within_its_last_frame_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", FLAT, "mjpeg", "yuvj420p")
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"idx1") - 40])
    with pytest.raises(DataError, match=r"a\.avi: damaged or truncated \(a frame is cut short\)"):
        read(path)


def test_an_mp4_with_its_index_cut_off_cannot_be_opened(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv")
    cut(write(tmp_path / "b.mp4", FLAT, "libx264", "yuv420p"), 0.5)
    dataset = VideoFolder(tmp_path)
    with pytest.raises(DataError, match=r"b\.mp4: damaged.*\(Invalid data.*copy or record"):
        dataset.open(1)
    (tmp_path / "a.mkv").unlink()
    with pytest.raises(DataError, match=r"none of 1 videos can be read; the first: .*b\.mp4"):
        VideoFolder(tmp_path)


def test_sound_longer_than_the_video_is_no_damage(tmp_path: Path) -> None:
    assert len(read(write(tmp_path / "a.mkv", sound=4.0))) == COUNT


def test_a_late_start_is_no_damage(tmp_path: Path) -> None:
    times = [5000 + 125 * t for t in range(COUNT)]
    check_times(read(write(tmp_path / "a.mkv", milliseconds=times)), np.arange(COUNT) / RATE)


def test_a_frame_that_the_decoder_makes_up_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", NOISE, "mpeg4", "yuv420p")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = b"\x55" * 64
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.avi: damaged or truncated \(a frame is broken\)"):
        read(path)


def test_a_broken_frame_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mov", NOISE, "png", "rgb24")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mov: damaged"):
        read(path)


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
    write(tmp_path / "whole.mkv")
    (tmp_path / "a.mp4").write_bytes(content)
    dataset = VideoFolder(tmp_path)
    assert dataset.names == ["a.mp4", "whole.mkv"]
    assert dataset.fps == RATE
    with pytest.raises(DataError, match=r"a\.mp4: damaged, or no mp4, mkv.*remove it"):
        dataset.open(0)


def test_a_name_like_a_protocol_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.mkv", NOISE[:2]).rename(tmp_path / "concat:b.mkv")
    monkeypatch.chdir(tmp_path)
    assert len(read(Path("concat:b.mkv"))) == 2


def test_a_video_removed_after_opening_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv")
    dataset = VideoFolder(path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.mkv: .*No such file"):
        dataset.open(0)


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
    episode = VideoFolder(write(tmp_path / "a.avi", FLAT[:0], "mpeg4", "yuv420p")).open(0)
    with pytest.raises(DataError, match=r"a\.avi: no frames in it"):
        list(episode.read())


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", FLAT, "mpeg4", "yuv420p")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"XQZ9"))
    with pytest.raises(DataError, match=r"a\.avi: its codec is unknown"):
        read(path)


def test_metadata_that_is_no_text_is_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", FLAT, "mpeg4", "yuv420p")
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    assert len(read(path)) == COUNT


def test_frames_too_large_are_refused_before_decoding(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv", np.zeros((1, 2, 8194, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.mkv: frames of 2 x 8194 pixels"):
        VideoFolder(tmp_path)


def test_frames_larger_than_the_header_says_are_refused(tmp_path: Path) -> None:
    packets = encoded(np.zeros((1, 16, 8194, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.webm: frames of 16 x 8194 pixels"):
        read(remux(tmp_path / "a.webm", packets, [0]))


def encoded(frames: np.ndarray) -> list[av.Packet]:
    """VP8 packets, which know their size each."""
    codec = av.CodecContext.create("libvpx", "w")
    codec.height, codec.width, codec.pix_fmt = *frames.shape[1:3], "yuv420p"
    codec.time_base = Fraction(1, RATE)
    packets = []
    for t, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = t, codec.time_base
        packets += codec.encode(frame)
    return packets + codec.encode(None)


def remux(path: Path, packets: list[av.Packet], milliseconds: Sequence[int]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.time_base = Fraction(1, 1000)
        for packet, time in zip(packets, milliseconds, strict=True):
            packet.stream, packet.time_base = stream, stream.time_base
            packet.pts = packet.dts = time
            container.mux(packet)
    return path


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


def test_broken_actions_are_named_when_their_episode_is_opened(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.mkv", NOISE[:2])
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
    outside = write(tmp_path / "outside.mkv", NOISE[:2])
    folder = write(tmp_path / "set" / "a.mkv", NOISE[:2]).parent
    np.savez(tmp_path / "outside.npz", actions=[5, 5])
    write(folder / "c.mkv", NOISE[:2])
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
