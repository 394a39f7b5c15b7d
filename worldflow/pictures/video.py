"""Videos of dream and reality: H.264, and animated PNG for viewers of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from worldflow.pictures.strips import GAP, HEADER_HEIGHT, enlarge, write_text

# One thread, since the bytes that several write differ from time to time; and so do those that
# x264's macroblock tree leads to where it computes with vector instructions (seen in build 165).
H264 = {"crf": "18", "x264-params": "threads=1:lookahead-threads=1:no-mbtree=1"}


def beside(columns: Mapping[str, np.ndarray], scale: int = 4) -> np.ndarray:
    """Videos next to each other, labelled and enlarged without smoothing.

    Args:
        columns: label to frames (T, H, W, 3) uint8, left first, all of one shape.
        scale: whole factor of enlargement.

    Returns:
        (T, H', W', 3) uint8 with even H' and W', as H.264 needs.

    Raises:
        ValueError: no columns, or columns of different shapes.
    """
    shapes = {frames.shape for frames in columns.values()}
    if len(shapes) != 1:
        raise ValueError(f"the columns need one shape, got {sorted(shapes)}")
    count, height, width, _ = next(iter(shapes))
    height, width = height * scale, width * scale
    total = len(columns) * (width + GAP) - GAP
    whole = HEADER_HEIGHT + height
    canvas = np.full((count, whole + whole % 2, total + total % 2, 3), 255, dtype=np.uint8)
    header = canvas[0]
    for column, (label, frames) in enumerate(columns.items()):
        left = column * (width + GAP)
        write_text(header, label, left + 2, HEADER_HEIGHT - 4)
        canvas[:, HEADER_HEIGHT : HEADER_HEIGHT + height, left : left + width] = enlarge(
            frames, scale
        )
    canvas[1:, :HEADER_HEIGHT] = header[:HEADER_HEIGHT]
    return canvas


def write_video(path: Path, frames: np.ndarray, fps: float, scale: int = 1) -> None:
    """Write an mp4 that any player opens (H.264, yuv420p), whole or not at all.

    Args:
        path: ends in `.mp4`; its folder exists.
        frames: (T, H, W, 3) uint8; `scale` times H and W must be even.
        fps: frames a second.
        scale: whole factor of enlargement, without smoothing.

    Raises:
        ValueError: no frames, odd sizes, or fps not positive.
    """
    odd = frames.ndim != 4 or any(side * scale % 2 for side in frames.shape[1:3])
    if odd or len(frames) == 0:
        raise ValueError(f"a video needs frames (T, H, W, 3) of even size, got {frames.shape}")
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    temporary = path.with_name(f".{path.stem}.partial.mp4")
    with av.open(str(temporary), "w") as container:
        _encode(container, "libx264", "yuv420p", H264, frames, fps, scale)
    temporary.replace(path)


def animation(frames: np.ndarray, fps: float) -> bytes:
    """An animated PNG, lossless and repeated without end.

    TensorBoard and browsers show it wherever they show a picture; torch's own videos for
    TensorBoard need moviepy and have 256 colours.

    Args:
        frames: (T, H, W, 3) uint8.
        fps: frames a second.

    Raises:
        ValueError: no frames, or fps not positive.
    """
    if frames.ndim != 4 or len(frames) == 0 or fps <= 0:
        raise ValueError(f"needs frames (T, H, W, 3) and fps > 0, got {frames.shape} and {fps}")
    buffer = BytesIO()
    with av.open(buffer, "w", format="apng", options={"plays": "0"}) as container:
        _encode(container, "apng", "rgb24", {}, frames, fps)
    return buffer.getvalue()


def _encode(
    container: OutputContainer,
    codec: str,
    pixels: str,
    options: dict[str, str],
    frames: np.ndarray,
    fps: float,
    scale: int = 1,
) -> None:
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = (side * scale for side in frames.shape[1:3])
    stream.pix_fmt = pixels
    stream.options = {**options}
    for frame in frames:
        enlarged = np.ascontiguousarray(enlarge(frame, scale))
        picture = av.VideoFrame.from_ndarray(enlarged, format="rgb24")
        container.mux(stream.encode(picture))
    container.mux(stream.encode())
