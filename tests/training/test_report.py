"""The report of a run: its figures are those that were logged, and it holds all it shows."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import pytest
from report_pages import charts, lines_of, sections, tables
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import tiny_pretraining, write_dataset

import worldflow
from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.splitting import split
from worldflow.novelty import noise_floor
from worldflow.training.curves import read_metrics
from worldflow.training.joint_stage import JointTraining
from worldflow.training.pretrain import PretrainConfig, main
from worldflow.training.report_charts import position_charts

DISCRETE = ActionSpec("discrete", n=3)
# (mode, stage of the codec, stage of the flow)
MODES = [("two-stage", "codec", "flow"), ("joint", "joint", "joint")]


def test_positions_are_in_the_order_of_their_numbers() -> None:
    """A line over a clip of more than 100 frames, whose tags are of two and of three digits."""
    curves = {
        f"flow/nll_position/{k:02d}": (np.array([7, 9]), np.array([k, k + 0.5]))
        for k in (100, 2, 99, 10, 101)
    }
    by_position, over_time = position_charts(curves, "flow", 0.0)
    line = lines_of(by_position)["update 7"]
    assert line == pytest.approx(np.array([[k, k] for k in (2, 10, 99, 100, 101)]), abs=0.5)
    assert list(lines_of(over_time)) == [f"frame {k}" for k in (2, 10, 99, 100, 101)]


class Finished(NamedTuple):
    """A run that came to its end."""

    folder: Path
    config: PretrainConfig
    codec: str
    flow: str
    bar: str
    page: str


@pytest.fixture(scope="module", params=MODES, ids=[mode[0] for mode in MODES])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    mode, codec, flow = request.param
    folder = tmp_path_factory.mktemp(mode)
    write_dataset(folder / "data", DISCRETE)
    config = tiny_pretraining(folder / "data", folder / "run")
    config.training.codec_mode = mode
    config.training.joint = JointTraining(steps=7, batch=4, clip=4, validate_every=4, warmup=2)
    with pytest.MonkeyPatch.context() as patch, (folder / "bar").open("w") as terminal:
        patch.setattr("sys.stderr", terminal)
        main(config)
    page = (folder / "run/report.html").read_text()
    return Finished(folder / "run", config, codec, flow, (folder / "bar").read_text(), page)


def test_the_tables_have_the_last_held_out_figures(run: Finished) -> None:
    logged = [json.loads(line) for line in (run.folder / "metrics.jsonl").open()]
    rows = {row["figure"]: row for row in tables(sections(run.page)["Held-out figures"])[0]}
    held_out = {e["tag"] for e in logged if "held_out" in e["tag"] or "position" in e["tag"]}
    assert rows.keys() == held_out and len(held_out) > 10
    for tag, row in rows.items():
        points = [(e["step"], e["value"]) for e in logged if e["tag"] == tag]
        assert float(row["first"]) == pytest.approx(points[0][1], rel=1e-3)
        assert float(row["last"]) == pytest.approx(points[-1][1], rel=1e-3)
        assert int(row["update"]) == points[-1][0]


def test_the_curves_are_those_of_the_metrics(run: Finished) -> None:
    """Every figure of metrics.jsonl is a line of a chart, read back from its pixels."""
    curves = read_metrics(run.folder / "metrics.jsonl")
    drawn = [line for svg in charts(run.page).values() for line in lines_of(svg).values()]
    positions = sorted(tag for tag in curves if "nll_position" in tag)
    assert len(positions) == 4
    missing = []
    for tag, (steps, values) in curves.items():
        wanted = np.stack([steps, values], axis=1)
        if not any(_alike(line, wanted) for line in drawn):
            missing.append(tag)
    assert missing == []
    floor = noise_floor(run.config.world.sigma)
    assert any(np.allclose(line[:, 1], floor, atol=0.02) for line in drawn)
    last = np.array([[k, curves[tag][1][-1]] for k, tag in enumerate(positions)])
    assert any(_alike(line, last) for line in drawn)  # frame by frame


def _alike(line: np.ndarray, wanted: np.ndarray) -> bool:
    """Up to the hundredth of a chart's height that a tenth of a pixel may be."""
    if line.shape != wanted.shape:
        return False
    room = 0.01 * max(float(np.ptp(wanted[:, 1])), 0.5 * float(np.abs(wanted[:, 1]).max()), 0.02)
    steps = np.abs(line[:, 0] - wanted[:, 0]) < 0.1
    return bool(steps.all() and (np.abs(line[:, 1] - wanted[:, 1]) < room).all())


def test_calibration_data_settings_and_next_command(run: Finished) -> None:
    parts = sections(run.page)
    calibration = worldflow.load_world(run.folder / "world").calibration
    [levels] = tables(parts["Calibration of novelty"])
    found = [float(value) for value in levels[0].values()]
    assert found == pytest.approx(list(calibration.quantiles), rel=1e-3)
    assert f"of {calibration.frames} held-out frames" in parts["Calibration of novelty"]

    data = {row[""]: row["value"] for row in tables(parts["Data"])[0]}
    dataset = EpisodeDataset(run.config.data.path)
    _, held_out = split(dataset.recordings, 0.34, 0)
    assert data["episodes"] == f"6, of which {len(held_out)} are held out"
    assert data["steps"] == f"42, of which {7 * len(held_out)} are held out"
    assert data["lossy compression"] == "none known" and data["source"] == '{"env_id": "none"}'
    actions = np.concatenate([dataset.steps_of(k).actions[1:] for k in range(6)])
    assert data["actions"] == "recorded for 42 of 42 steps"
    for action, count in enumerate(np.bincount(actions, minlength=3)):
        assert data[f"action {action}"] == f"{count} ({100 * count / 42:.1f}%)"

    computed = {row[""]: row["value"] for row in tables(parts["How it was computed"])[0]}
    assert computed["ranks"] == "1" and computed["training.precision"] == "fp32"
    assert float(computed[f"frames a second, stage {run.flow}"].split()[0]) > 0

    joint = run.flow == "joint"
    settings = parts["Settings"]
    assert "world.sigma=0.3" in settings and "data.held_out=0.34" in settings
    assert ("training.joint.steps=7" in settings) == joint
    assert ("training.flow.steps=7" in settings) != joint
    assert f"worldflow evaluate world={run.folder / 'world'} data=" in parts["What comes next"]
    assert f"worldflow train-agent world={run.folder / 'world'}" in parts["What comes next"]


def test_pictures_and_video_are_inside(run: Finished) -> None:
    part = sections(run.page)["Held-out frames and dreams"]
    found = {
        kind: b64decode(data)
        for kind, data in re.findall(r"data:(\w+/\w+);base64,([^\"]+)\"", part)
    }
    assert found.keys() == {"image/png", "video/mp4"}
    video = run.folder / f"videos/{run.flow}_real_codec_dream_0000007.mp4"
    assert found["video/mp4"] == video.read_bytes()
    picture = cv2.imdecode(np.frombuffer(found["image/png"], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[0] > 2 * 3 * 64  # two clips: real, codec and dream, enlarged
    assert "at update 7" in part
    assert not re.search(r"(src|href)=\"(?!data:)", run.page)  # it needs no other file


def test_tensorboard_shows_all_that_is_listed(run: Finished) -> None:
    """Losses, NLL by position, errors, gradient norms, speed, memory, pictures and videos."""
    scalars: dict[str, list[float]] = {}
    images: dict[str, list[tuple[int, bytes]]] = {}
    for path in (run.folder / "tensorboard").rglob("events.*"):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            scalars[tag] = [event.value for event in events.Scalars(tag)]
        for tag in events.Tags()["images"]:
            images[tag] = [(e.step, e.encoded_image_string) for e in events.Images(tag)]
    flow, codec = run.flow, run.codec
    wanted = {f"{flow}/nll", f"{flow}/denoiser", f"{flow}/reward", f"{flow}/termination"}
    wanted |= {f"{codec}/loss"} if codec == "codec" else {"joint/pixel_nll", "joint/reconstruction"}
    wanted |= {f"{flow}/held_out_{name}" for name in ("nll", "denoiser", "reward", "pixel_bits")}
    wanted |= {f"{flow}/nll_position/{t:02d}" for t in range(4)}
    modules = ("conditioning", "flow", "denoiser", "reward_head", "termination_head")
    wanted |= {f"{flow}/gradient_norm/{name}" for name in modules}
    wanted |= {f"{codec}/gradient_norm/codec{'.encoder' if codec == 'joint' else ''}"}
    wanted |= {f"{stage}/{name}" for stage in (codec, flow) for name in ("memory_mib",)}
    wanted |= {f"{stage}/frames_per_second" for stage in (codec, flow)}
    wanted |= {f"{codec}/held_out_psnr"}
    assert wanted <= scalars.keys()
    assert scalars[f"{flow}/frames_per_second"][-1] > 0
    assert 50 < scalars[f"{flow}/memory_mib"][-1] < 50_000

    assert [step for step, _ in images[f"{flow}/real_codec_dream"]] == [4, 7]
    assert images[f"{codec}/real_above_codec"][-1][1].startswith(b"\x89PNG")
    shown = images[f"{flow}/real_codec_dream_video"]
    assert [step for step, _ in shown] == [4, 7]
    with av.open(BytesIO(shown[-1][1]), format="apng") as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 2 * 4  # two clips
    # the left column is the real clip, enlarged: its left upper pixel of every square is exact
    dataset = EpisodeDataset(run.config.data.path)
    real = {dataset.read(k).frames[t].tobytes() for k in range(6) for t in range(8)}
    scale = 192 // 32
    assert all(f[16 : 16 + 192 : scale, :192:scale].tobytes() in real for f in frames)


def test_the_progress_bar_says_how_long_it_will_take(run: Finished) -> None:
    final = [line for line in re.split(r"[\r\n]", run.bar) if line.startswith("pretrain")]
    bars = {line.split(":")[0].split()[1]: line for line in final}
    assert bars.keys() == {run.codec, run.flow}
    assert all(re.search(r"\d+/\d+ \[\d\d:\d\d, 00:00 left", line) for line in bars.values())
    assert ("left, then flow, " in bars[run.codec]) == (run.codec == "codec")
    assert "then" not in bars[run.flow]


def test_a_finished_run_writes_its_page_again(run: Finished) -> None:
    path = run.folder / "report.html"
    path.unlink()
    main(run.config)
    assert path.read_text() == run.page
    assert not list(run.folder.glob("*.partial"))


def test_lossy_video_without_actions(tmp_path: Path) -> None:
    """It has neither wrong actions nor, for lack of heads and actions, an agent to train."""
    write_dataset(tmp_path / "data", ActionSpec("none"))
    path = tmp_path / "data/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lossy": "h264 video"}))
    main(tiny_pretraining(tmp_path / "data", tmp_path / "run"))
    page = (tmp_path / "run/report.html").read_text()
    data = {row[""]: row["value"] for row in tables(sections(page)["Data"])[0]}
    assert data["actions"] == "none"
    assert data["lossy compression"] == "h264 video: likelihoods describe it too"
    assert "train-agent" not in page and "wrong actions" not in page


def test_actions_that_nobody_recorded(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", DISCRETE)
    dataset = EpisodeDataset(tmp_path / "data")
    writer = EpisodeWriter(tmp_path / "partly", dataset.metadata)
    for index in range(6):
        episode = dataset.read(index)
        known = np.arange(8) < 4
        writer.add(index, Episode(**{**vars(episode), "known": known}))
    main(tiny_pretraining(tmp_path / "partly", tmp_path / "run"))
    page = (tmp_path / "run/report.html").read_text()
    data = {row[""]: row["value"] for row in tables(sections(page)["Data"])[0]}
    assert data["actions"] == "recorded for 18 of 42 steps"
    counts = np.bincount(
        np.concatenate([dataset.steps_of(k).actions[1:4] for k in range(6)]), minlength=3
    )
    assert [data[f"action {k}"].split()[0] for k in range(3)] == [str(n) for n in counts]
