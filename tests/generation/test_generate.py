"""`worldflow generate` from prompt, image, clip and nothing; and bad input of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.cli import USER_ERROR, main
from worldflow.data.formats.decoding import read_frames
from worldflow.errors import ConfigError, DataError
from worldflow.generation.generate import GenerateConfig
from worldflow.generation.inputs import read_actions, read_image, read_start
from worldflow.pictures.video import write_video
from worldflow.storage import save_world
from worldflow.testing import tiny_config, tiny_world

CAPTIONS = ("the ball falls left", "the ball falls right")
SHAPE = (64, 64, 3)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    save_world(tiny_world(captions=CAPTIONS), folder / "text", "card")
    save_world(tiny_world(), folder / "plain", "card")
    config = tiny_config()
    config.denoiser.lookahead = 1
    save_world(tiny_world(config=config), folder / "ahead", "card")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(world: Path, out: Path, *arguments: str, length: int = 6) -> dict:
    settings = [f"world={world}", f"length={length}", f"out={out}", "progress=false"]
    assert main(["generate", *settings, *arguments]) == 0
    report = json.loads((out / "generated.json").read_text())
    frames = [frame.pixels for frame in read_frames(out / "video.mp4")]
    assert len(frames) == len(report["frames"]) == length
    assert frames[0].shape == (256, 256, 3)
    sheet = cv2.imread(str(out / "sheet.png"))
    assert sheet is not None and sheet.shape[1] > 96 * min(length, 8)
    likelihoods = [frame["log_likelihood"] for frame in report["frames"] if not frame["given"]]
    assert report["log_likelihood_of_made"] == pytest.approx(sum(likelihoods))
    return report


def fail(capsys: pytest.CaptureFixture[str], world: Path, out: Path, *arguments: str) -> str:
    settings = [f"world={world}", f"out={out}", "progress=false"]
    assert main(["generate", *settings, *arguments]) == USER_ERROR
    assert not out.exists()
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def write_image(path: Path, shape: tuple[int, ...], dtype: type = np.uint8) -> Path:
    rng = np.random.default_rng(0)
    high = np.iinfo(dtype).max
    assert cv2.imwrite(str(path), rng.integers(0, high, shape, dtype=dtype))
    return path


def clip(path: Path, frames: int, size: int = 64) -> Path:
    rng = np.random.default_rng(0)
    write_video(path, rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8), 8.0)
    return path


def test_from_nothing_the_same_seed_is_the_same_video(worlds: Path, out: Path) -> None:
    one = run(worlds / "plain", out / "1", "seed=4")
    two = run(worlds / "plain", out / "2", "seed=4")
    three = run(worlds / "plain", out / "3", "seed=5")
    assert one["given"] == 0 and one["nearest_caption"] is None
    assert (out / "1" / "video.mp4").read_bytes() == (out / "2" / "video.mp4").read_bytes()
    assert one["frames"] == two["frames"] != three["frames"]


def test_from_a_prompt_with_guidance(
    worlds: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = run(worlds / "text", out / "l", "prompt=The ball, falls left!")
    right = run(worlds / "text", out / "r", "prompt=the ball falls right")
    guided = run(worlds / "text", out / "g", "prompt=the ball falls right", "guidance=2")
    assert left["nearest_caption"] == {"text": CAPTIONS[0], "cosine": pytest.approx(1.0)}
    assert guided["guidance"] == {"weight": 2.0, "over": "text"}
    assert left["frames"] != right["frames"] != guided["frames"]
    said = capsys.readouterr().out
    assert "log-likelihood" in said and "no caption" not in said


def test_a_prompt_unlike_all_captions_is_said(
    worlds: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In another language, for example: it is encoded like any other."""
    run(worlds / "text", out, "prompt=мяч падает влево")
    assert "no caption that this world learned from is like this prompt" in capsys.readouterr().out


def test_an_image_of_another_size_and_mode_is_the_first_frame(worlds: Path, out: Path) -> None:
    for number, shape in enumerate([(64, 64, 3), (90, 120), (32, 20, 4)]):
        path = write_image(out.with_name(f"{number}.png"), shape)
        report = run(worlds / "plain", out / str(number), f"image={path}")
        assert [frame["given"] for frame in report["frames"]] == [True] + [False] * 5


def test_a_clip_is_continued(worlds: Path, out: Path) -> None:
    path = clip(out.with_name("clip.mp4"), 5)
    # as far as the world looks back: a layer with a window of 3 frames
    assert run(worlds / "plain", out / "1", f"video={path}", length=7)["given"] == 3
    assert run(worlds / "plain", out / "5", f"video={path}", "context=5", length=7)["given"] == 5
    assert run(worlds / "plain", out / "2", f"video={path}", "context=2", length=7)["given"] == 2


def test_actions_are_obeyed(worlds: Path, out: Path) -> None:
    path = out.with_name("actions.csv")
    reports = []
    for action in (0, 2):
        path.write_text("action\n" + f"{action}\n" * 5)
        reports.append(run(worlds / "plain", out / str(action), f"actions={path}"))
    assert reports[0]["frames"][0] == reports[1]["frames"][0]  # no action led to it
    assert reports[0]["frames"][1:] != reports[1]["frames"][1:]
    run(worlds / "plain", out / "g", f"actions={path}", "guidance=1", "guidance.over=actions")
    picture = write_image(out.with_name("a.png"), (64, 64, 3))
    given = run(worlds / "plain", out / "i", f"actions={path}", f"image={picture}")
    unknown = run(worlds / "plain", out / "u", f"image={picture}")
    assert given["frames"][0] == unknown["frames"][0]
    assert given["frames"][1:] != unknown["frames"][1:]


def test_worlds_that_look_ahead(
    worlds: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(worlds / "ahead", out / "a", "lookahead=1")
    message = fail(capsys, worlds / "plain", out / "b", "lookahead=1")
    assert "world.denoiser.lookahead=1" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prompt="], "prompt is empty"),
        (["prompt=   "], "prompt is empty"),
        (["prompt=" + "word " * 10_000], "10000 words, the encoder 'words' reads 256"),
        (["prompt=?!"], "has no words"),
        (["image=a.png", "video=b.mp4"], "not from both"),
        (["context=3"], "of video="),
        (["length=0"], "length=0 must be positive"),
        (["temperature=-1"], "temperature is -1"),
        (["guidance=-1"], "guidance is -1"),
        (["guidance.over=sound"], "guidance.over is 'sound'"),
        (["fit=squeeze"], "fit is 'squeeze'"),
        (["lookahead=2"], "lookahead=2"),
        (["image=nowhere.png"], "there is no such image"),
        (["video=nowhere.mp4"], "there is no such video"),
        (["actions=nowhere.csv"], "there is no such file"),
        (["encoder=bert", "prompt=ball"], "there is no text encoder 'bert'"),
    ],
)
def test_bad_settings(
    worlds: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert message in fail(capsys, worlds / "text", out, *arguments)


def test_prompts_and_guidance_for_worlds_without_text(
    worlds: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "learned without captions" in fail(capsys, worlds / "plain", out, "prompt=ball")
    assert "knows no text" in fail(capsys, worlds / "plain", out, "guidance=1")


def test_guidance_towards_nothing_is_refused(
    worlds: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fail(capsys, worlds / "text", out, "guidance=2")
    assert "guidance=2 over text leads towards a prompt" in message
    settings = ["guidance=2", "guidance.over=actions"]
    assert "towards actions" in fail(capsys, worlds / "text", out, "prompt=ball", *settings)
    assert "a prompt or actions" in fail(
        capsys, worlds / "text", out, "guidance=2", "guidance.over=both"
    )
    run(worlds / "text", out, "prompt=ball falls left", "guidance=2", "guidance.over=both")


def test_a_video_is_not_written_over(
    worlds: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = write_image(out.with_name("a.png"), (80, 64, 3))
    report = run(worlds / "text", out, f"image={picture}", "fit=pad", "prompt=ball falls left")
    assert (report["fit"], report["context"], report["encoder"]) == ("pad", None, "words")
    before = (out / "video.mp4").read_bytes()
    settings = [f"world={worlds / 'text'}", f"out={out}", "seed=1", "progress=false"]
    assert main(["generate", *settings]) == USER_ERROR
    assert "holds a generated video; choose another out" in capsys.readouterr().err
    assert (out / "video.mp4").read_bytes() == before


def test_bad_files(worlds: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, world = out.parent, worlds / "plain"
    (folder / "text.png").write_text("no image")
    assert "no image that can be decoded" in fail(capsys, world, out, f"image={folder}/text.png")
    deep = write_image(folder / "deep.png", (64, 64, 3), np.uint16)
    assert "uint16, not uint8" in fail(capsys, world, out, f"image={deep}")
    (folder / "text.mp4").write_text("no video")
    assert "damaged" in fail(capsys, world, out, f"video={folder}/text.mp4")
    with av.open(str(folder / "empty.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height = stream.width = 64  # type: ignore[attr-defined]
        stream.pix_fmt = "yuv420p"  # type: ignore[attr-defined]
        container.start_encoding()  # else the file is not even made
    assert "no video in it" in fail(capsys, world, out, f"video={folder}/empty.mp4")
    path = clip(folder / "clip.mp4", 3)
    message = fail(capsys, world, out, f"video={path}", "context=4")
    assert "3 frames, fewer than context=4" in message
    assert "longer video" in fail(capsys, world, out, f"video={path}", "length=3")
    actions = folder / "actions.csv"
    actions.write_text("action\n0\n1\n")
    message = fail(capsys, world, out, f"actions={actions}", "length=6")
    assert "2 actions, but a video of 6 frames" in message
    actions.write_text("action\n7\n0\n")
    assert "0..2" in fail(capsys, world, out, f"actions={actions}", "length=3")


def test_actions_may_be_of_the_whole_video_or_of_what_is_made(tmp_path: Path) -> None:
    spec, path = ActionSpec("discrete", n=3), tmp_path / "a.jsonl"
    path.write_text('{"action": 1}\n' * 5)
    actions, known = read_actions(path, spec, 6, 3)
    assert actions.tolist() == [0, 1, 1, 1, 1, 1] and known.tolist() == [False] + [True] * 5
    actions, known = read_actions(path, spec, 8, 3)
    assert actions.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert known.tolist() == [False] * 3 + [True] * 5
    with pytest.raises(DataError, match="takes 6 or 4; set length"):
        read_actions(path, spec, 7, 3)
    with pytest.raises(DataError, match="knows no actions"):
        read_actions(path, ActionSpec("none"), 6, 3)
    box = ActionSpec("box", low=(0.0, 0.0), high=(1.0, 1.0))
    with pytest.raises(DataError, match=r"a\.jsonl"):
        read_actions(path, box, 6, 3)


def test_actions_are_not_cut_anew(tmp_path: Path) -> None:
    box = ActionSpec("box", low=(0.0, 0.0), high=(1.0, 1.0))
    path = tmp_path / "a.csv"
    path.write_text("action\n" + "0.5\n" * 6)  # not three actions of two numbers
    with pytest.raises(DataError, match=r"shape \(\) a row, but this world's have \(2,\)"):
        read_actions(path, box, 7, 1)
    path.write_text("action_0,action_1\n" + "0.25,0.5\n" * 6)
    assert read_actions(path, box, 7, 1)[0][1:].tolist() == [[0.25, 0.5]] * 6
    with pytest.raises(DataError, match=r"shape \(2,\) a row"):
        read_actions(path, ActionSpec("discrete", n=3), 7, 1)
    path.write_text("action\n" + "0.5\n" * 6)
    one = ActionSpec("box", low=(0.0,), high=(1.0,))
    assert read_actions(path, one, 7, 1)[0][1:].tolist() == [[0.5]] * 6
    path.write_text("action_0\n" + "2\n" * 6)
    assert read_actions(path, ActionSpec("discrete", n=3), 7, 1)[0][1:].tolist() == [2] * 6


def test_images_are_fitted(tmp_path: Path) -> None:
    halves = np.zeros((64, 128, 3), np.uint8)
    halves[:, 96:] = 255  # outside of the square in the middle
    cv2.imwrite(str(tmp_path / "wide.png"), halves)
    assert not read_image(tmp_path / "wide.png", SHAPE, "crop").any()
    stretched = read_image(tmp_path / "wide.png", SHAPE, "stretch")
    assert stretched.shape == (1, *SHAPE) and (stretched[0, :, 49:] == 255).all()
    with pytest.raises(ConfigError, match="fit is 'zoom'"):
        read_image(tmp_path / "wide.png", SHAPE, "zoom")
    with pytest.raises(DataError, match="no squares, so 48 x 64"):
        read_image(tmp_path / "wide.png", (48, 64, 3), "crop")
    with pytest.raises(ConfigError, match="neither an image"):
        read_start(tmp_path / "x.doc", SHAPE, "crop", 1)


def test_settings_have_defaults() -> None:
    assert not GenerateConfig().guidance.active
