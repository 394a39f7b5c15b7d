"""Strips, videos, charts and reports."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import av
import cv2
import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from worldflow.errors import DataError
from worldflow.pictures.plots import bar_chart, line_chart, log_ticks, scatter_chart, ticks
from worldflow.pictures.report import Report
from worldflow.pictures.strips import (
    GAP,
    HEADER_HEIGHT,
    LABEL_WIDTH,
    enlarge,
    png,
    save_png,
    strip,
)
from worldflow.pictures.video import animation, beside, write_video
from worldflow.training.curves import read_metrics, read_pictures, read_scalars, thinned

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


def test_the_same_columns_make_the_same_file(tmp_path: Path) -> None:
    # with x264's macroblock tree half of 150 writes differed from the others
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    columns = beside(dict.fromkeys(("a", "b", "c"), noise), scale=8)
    path, found = tmp_path / "video.mp4", set()
    for _ in range(40):
        write_video(path, columns, fps=8)
        found.add(path.read_bytes())
    assert len(found) == 1


def test_animation_is_lossless_and_repeats() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    data = animation(frames, fps=8.0)
    with av.open(BytesIO(data), format="apng") as container:
        read = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    np.testing.assert_array_equal(np.stack(read), frames)
    start = data.index(b"acTL") + 4
    assert [int.from_bytes(data[start + k : start + k + 4], "big") for k in (0, 4)] == [5, 0]
    start = data.index(b"fcTL") + 24  # of the first frame: its time, numerator and denominator
    seconds = [int.from_bytes(data[start + k : start + k + 2], "big") for k in (0, 2)]
    assert seconds[0] / seconds[1] == 1 / 8
    with pytest.raises(ValueError, match="fps > 0"):
        animation(frames, fps=0.0)
    with pytest.raises(ValueError, match="needs frames"):
        animation(frames[:0], fps=8.0)


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


def test_line_chart_on_a_logarithmic_axis() -> None:
    chart = line_chart("t", "x", "y", {"a": ([0, 1, 2, 3], [0.0, 1.0, 10.0, 1000.0])}, True)
    root = ElementTree.fromstring(chart)
    [line] = root.findall("{*}polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert len(heights) == 3  # zero has no place
    assert heights[1] - heights[2] == pytest.approx(2 * (heights[0] - heights[1]), abs=0.2)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"1", "10", "100", "1000"} <= set(texts) and "y (log scale)" in texts


def test_log_ticks_are_round_numbers() -> None:
    assert [10**mark for mark in log_ticks(-0.1, 1.4)] == pytest.approx([1, 2, 5, 10, 20])
    assert log_ticks(-2.5, 1.0) == [-2, -1, 0, 1]
    assert [10**mark for mark in log_ticks(0.2, 0.3)] == pytest.approx([1.6, 1.7, 1.8, 1.9])
    assert len(log_ticks(-30.0, 30.0)) <= 8


def test_a_single_point_is_seen() -> None:
    root = ElementTree.fromstring(line_chart("t", "x", "y", {"a": ([3], [5.0])}))
    assert len(root.findall("{*}circle")) == 1


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
    report.video(b"mp4", "a video")
    report.table([{"name": "x", "value": "1"}, {"name": "y", "value": "2"}])
    report.table([])
    html = report.html()
    assert "<script>" not in html
    assert "a &lt; b" in html
    assert b64decode(html.split("base64,")[1].split('"')[0]) == data
    assert b64decode(html.split("video/mp4;base64,")[1].split('"')[0]) == b"mp4"
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


def test_read_pictures_gives_the_last_of_each_tag(tmp_path: Path) -> None:
    frames = coloured(4)
    for folder, steps in (("a", (1, 5)), ("b", (3, 5))):  # a run that was killed after 5
        with SummaryWriter(str(tmp_path / folder)) as writer:
            for step in steps:
                picture = frames[step % 4] + (folder == "b")
                writer.add_image("shown", picture, step, dataformats="HWC")
    step, data = read_pictures(tmp_path)["shown"]
    assert step == 5
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(read, frames[1] + 1)


def test_read_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [(1, "a", 0.5), (1, "b", 2.0), (3, "a", 0.25)]
    entries = [f'{{"step": {s}, "tag": "{t}", "value": {v}}}' for s, t, v in lines]
    path.write_text("\n".join(entries) + "\n")
    curves = read_metrics(path)
    assert {tag: (s.tolist(), v.tolist()) for tag, (s, v) in curves.items()} == {
        "a": ([1, 3], [0.5, 0.25]),
        "b": ([1], [2.0]),
    }
    path.write_text(entries[0] + "\nhalf")
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        read_metrics(path)
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path / "none/metrics.jsonl")


def test_thinned_curves_keep_means_and_the_last_step() -> None:
    steps, values = np.arange(10), np.arange(10.0)
    assert thinned((steps, values), 10)[1] is values
    few = thinned((steps, values), 4)
    assert few[0].tolist() == [1, 4, 7, 9] and few[1].tolist() == [0.5, 3.0, 6.0, 8.5]
