"""Strips, videos, charts and reports."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from xml.etree import ElementTree

import av
import cv2
import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from worldflow.errors import DataError
from worldflow.evaluation.curves import read_scalars
from worldflow.evaluation.plots import bar_chart, line_chart, scatter_chart, ticks
from worldflow.evaluation.report import Report
from worldflow.evaluation.strips import (
    GAP,
    HEADER_HEIGHT,
    LABEL_WIDTH,
    enlarge,
    png,
    save_png,
    strip,
)
from worldflow.evaluation.video import beside, write_video

RED = (200, 10, 20)


def coloured(count: int, size: int = 8) -> np.ndarray:
    return np.broadcast_to(np.array(RED, dtype=np.uint8), (count, size, size, 3)).copy()


def test_strip_puts_frames_where_they_belong() -> None:
    rows = {"real": coloured(3), "dream": np.zeros((3, 8, 8, 3), np.uint8)}
    image = strip(rows, np.arange(3), scale=2)
    assert image.shape == (HEADER_HEIGHT + 2 * (16 + GAP), LABEL_WIDTH + 3 * (16 + GAP), 3)
    left = LABEL_WIDTH + 2 * (16 + GAP)
    first, second = HEADER_HEIGHT, HEADER_HEIGHT + 16 + GAP
    assert (image[first : first + 16, left : left + 16] == RED).all()
    assert (image[second : second + 16, left : left + 16] == 0).all()
    assert (image[:HEADER_HEIGHT] != 255).any()  # the numbers
    assert (image[:, :LABEL_WIDTH] != 255).any()  # the labels


@pytest.mark.parametrize(
    ("rows", "steps"),
    [({}, 3), ({"a": coloured(3)}, 2), ({"a": coloured(3), "b": coloured(3, 4)}, 3)],
)
def test_strip_refuses_what_does_not_fit(rows: dict[str, np.ndarray], steps: int) -> None:
    with pytest.raises(ValueError, match=r"strip needs|do not fit"):
        strip(rows, np.arange(steps))


def test_enlarge_repeats_pixels() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarge(image, 3)
    assert large.shape == (6, 6, 3)
    np.testing.assert_array_equal(large[::3, ::3], image)
    np.testing.assert_array_equal(large[2, 2], image[0, 0])


def test_png_keeps_every_pixel_and_the_order_of_colours(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save_png(tmp_path / "a.png", image)
    read = cv2.imread(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(read[..., ::-1], image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_video_can_be_read_back(tmp_path: Path) -> None:
    frames = np.concatenate([coloured(4, 9), np.zeros((4, 9, 9, 3), np.uint8)])
    columns = beside({"real": frames, "dream": frames}, scale=3)
    assert columns.shape[0] == 8
    assert columns.shape[1] % 2 == columns.shape[2] % 2 == 0
    path = tmp_path / "video.mp4"
    write_video(path, columns, fps=8.75)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == pytest.approx(8.75)
        read = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
    assert read.shape == columns.shape
    middle = HEADER_HEIGHT + 12, 12
    assert np.abs(read[1][middle].astype(int) - RED).max() < 12  # lossy
    assert read[6][middle].max() < 12
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_video_refuses_what_h264_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even size"):
        write_video(tmp_path / "a.mp4", coloured(2, 7), fps=8)
    with pytest.raises(ValueError, match="even size"):
        write_video(tmp_path / "a.mp4", coloured(0), fps=8)
    with pytest.raises(ValueError, match="positive"):
        write_video(tmp_path / "a.mp4", coloured(2), fps=0)
    with pytest.raises(ValueError, match="one shape"):
        beside({"a": coloured(2), "b": coloured(3)})


def test_ticks_are_round() -> None:
    assert ticks(0.0, 10.0) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert ticks(-1.04, 1.04) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert ticks(0.0, 0.03) == [0.0, 0.01, 0.02, 0.03]


def test_line_chart_leaves_out_what_is_not_finite() -> None:
    chart = line_chart(
        "A & B", "x", "y", {"a<b": ([0, 1, 2], [1.0, np.nan, 3.0]), "empty": ([], [])}
    )
    root = ElementTree.fromstring(chart)
    lines = root.findall("{*}polyline")
    assert len(lines) == 1
    assert len(lines[0].attrib["points"].split()) == 2
    assert "a<b" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_line_chart_of_a_constant_and_of_nothing() -> None:
    ElementTree.fromstring(line_chart("t", "x", "y", {"a": ([1], [5.0])}))
    assert "no data" in line_chart("t", "x", "y", {})


def test_bar_chart_has_a_bar_each() -> None:
    chart = bar_chart("t", "y", {"random": (-0.6, -0.7, -0.5), "agent": (0.9, 0.85, 0.95)})
    root = ElementTree.fromstring(chart)
    below, above = root.findall("{*}rect")
    # The lower edge of the bar above zero is the upper edge of the bar below it.
    zero = float(above.attrib["y"]) + float(above.attrib["height"])
    assert zero == pytest.approx(float(below.attrib["y"]), abs=0.2)
    assert float(above.attrib["height"]) / float(below.attrib["height"]) == pytest.approx(1.5, 0.01)


def test_scatter_chart_has_a_point_and_its_intervals_each() -> None:
    x, y = np.array([[1.0, 0.5, 1.5], [3.0, 3.0, 3.0]]), np.array([[2.0, 1.0, 4.0]] * 2)
    points = {"a<b": (x, y), "none": (np.zeros((0, 3)), np.zeros((0, 3)))}
    root = ElementTree.fromstring(scatter_chart("t", "x", "y", points, diagonal=True))
    first, second = root.findall("{*}circle")
    assert float(first.attrib["cx"]) < float(second.attrib["cx"])
    assert first.attrib["cy"] == second.attrib["cy"]
    dashed = [line for line in root.findall("{*}line") if "stroke-dasharray" in line.attrib]
    assert len(dashed) == 1
    across = [line for line in root.findall("{*}line") if line.attrib["stroke"] == "#1f77b4"]
    widths = [float(line.attrib["x2"]) - float(line.attrib["x1"]) for line in across]
    heights = [float(line.attrib["y1"]) - float(line.attrib["y2"]) for line in across]
    # both points: an interval across and one upwards
    assert widths[0] > 0 and widths[1:] == [0, 0, 0]
    assert heights[1] == heights[3] > 0 and heights[0] == heights[2] == 0
    assert "no data" in scatter_chart("t", "x", "y", {})


def test_report_holds_its_pictures_and_escapes_text() -> None:
    report = Report("a < b")
    report.heading("one & two")
    report.text("<script>")
    report.code(["worldflow demo"])
    data = png(coloured(1)[0])
    report.picture(data, 'a "caption"')
    report.table([{"name": "x", "value": "1"}, {"name": "y", "value": "2"}])
    report.table([])
    html = report.html()
    assert "<script>" not in html
    assert "a &lt; b" in html
    assert b64decode(html.split("base64,")[1].split('"')[0]) == data
    assert html.count("<tr>") == 3
    with pytest.raises(ValueError, match="same keys"):
        report.table([{"a": "1"}, {"b": "2"}])


def test_read_scalars_joins_the_pieces_of_a_resumed_run(tmp_path: Path) -> None:
    for folder, points in (("a", {1: 10.0, 2: 20.0, 3: 30.0}), ("b", {3: 33.0, 4: 40.0})):
        with SummaryWriter(str(tmp_path / folder)) as writer:
            for step, value in points.items():
                writer.add_scalar("loss", value, step)
    steps, values = read_scalars(tmp_path)["loss"]
    np.testing.assert_array_equal(steps, [1, 2, 3, 4])
    np.testing.assert_array_equal(values, [10.0, 20.0, 33.0, 40.0])


def test_read_scalars_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no TensorBoard events"):
        read_scalars(tmp_path)
