"""Videos of known frames, whole and damaged."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from worldflow.data.formats.base import RawFrame
from worldflow.data.formats.decoding import read_frames

COUNT, HEIGHT, WIDTH, RATE = 12, 32, 48, 8
NOISE = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
# Frame t is of one colour, which lossy codecs keep nearly.
FLAT = np.broadcast_to(np.arange(60, 180, 10)[:, None, None, None], NOISE.shape).astype(np.uint8)


def write_video(
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
    """All frames."""
    return list(read_frames(path))


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def without_rate(path: Path) -> Path:
    """The mkv with its DefaultDuration made void, as in what browsers record."""
    content = path.read_bytes()
    place = content.index(b"\x23\xe3\x83\x84")  # its id, and its length, 4
    path.write_bytes(content[:place] + b"\xec\x86" + b"\0" * 6 + content[place + 8 :])
    return path


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
