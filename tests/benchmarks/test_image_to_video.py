"""Dreams that begin with an image: what is given, what is wanted, known figures, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import image_to_video
import numpy as np
import pytest
import torch
from image_to_video import CODEC, FREE, NEW, PLAYED, REAL, TOLD
from prompting.continuation import compared, first_frame, motion_of, psnr_of
from prompting.given import Given, dream_from, read_given, request_from, through_noise, was_learned
from prompting.probe import ProbeTraining, train_probe
from prompting.questions import UNASKED
from squares import CAPTIONS, SQUARES, pool

from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.storage import save_world
from worldflow.testing import tiny_config, tiny_world
from worldflow.text.encoder import embed, encoder_of

SKIES = ["day", "night"]


def given_of(clips: np.ndarray, labels: np.ndarray, ends: list[int]) -> Given:
    """Clips as real ones of which clip k ends before frame `ends[k]`."""
    count, length = clips.shape[:2]
    valid = np.arange(length) < np.array(ends)[:, None]
    actions = np.arange(count * length).reshape(count, length) % 3
    known = valid & (np.arange(length) > 0)
    captions = [CAPTIONS[k % 4] for k in range(count)]
    return Given(clips, valid, actions, known, captions, labels)


def settings(tmp_path: Path, **changes: object) -> image_to_video.ImageToVideo:
    small: dict[str, object] = {
        "questions": SQUARES,
        "kept": ["sky", "side"],
        "length": 3,
        "judged": [2, 3],
        "compared": [0, 1, 3],
        "shown": 1,
        "probe": ProbeTraining(clips=8, steps=2, batch=4),
    }
    paths = {"world": str(tmp_path / "w"), "data": str(tmp_path / "data")}
    merged = {**paths, "out": str(tmp_path / "out"), **small, **changes}
    return image_to_video.ImageToVideo(**merged)  # type: ignore[arg-type]


def test_an_image_is_given_with_what_came_after(captioned: EpisodeDataset) -> None:
    given = read_given(captioned, np.arange(10), None, 4, SQUARES, seed=0)
    assert given.frames.shape == (9, 4, 32, 32, 3)  # one caption says nothing
    assert given.captions == [captioned.captions[i] for i in (0, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert given.valid.sum(axis=1).tolist() == [2] + [4] * 8
    assert not given.known[:, 0].any() and given.known[:, 1:].tolist() == (
        given.valid[:, 1:].tolist()
    )
    assert np.array_equal(given.frames[0, :2], captioned.read(0).frames)  # short: from its start
    starts = set()
    for row, index in enumerate((2, 3, 4, 5, 6, 7, 8, 9), start=1):
        whole = captioned.read(index).frames
        fits = [s for s in (0, 1) if np.array_equal(given.frames[row], whole[s : s + 4])]
        starts |= set(fits)
        assert len(fits) == 1
    assert starts == {0, 1}  # anywhere
    few = read_given(captioned, np.arange(10), 1, 4, SQUARES, seed=0)
    assert few.labels.tolist() == [[0, 0], [1, 0]]  # the first of each sky
    with pytest.raises(DataError, match="answers the question sky"):
        read_given(captioned, np.array([1]), None, 4, SQUARES, seed=0)


def test_images_that_were_learned_from_are_found(captioned: EpisodeDataset) -> None:
    images = np.stack([captioned.read(3).frames[2], captioned.read(4).frames[1]])
    assert was_learned(captioned, np.array([2, 3]), images).tolist() == [True, False]
    images[0, 5, 5, 0] ^= 1
    assert not was_learned(captioned, np.array([2, 3]), images).any()


def test_the_request_is_that_of_the_command() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    request = request_from(tiny_world(frame_size=32), images, 5, 0.5)
    assert np.array_equal(request.frames.numpy(), images[:, None])
    assert request.known.shape == (2, 5) and not request.known.any()
    assert request.text is None and not request.guidance.active and request.temperature == 0.5


def test_dreams_begin_with_the_codecs_image_and_follow_what_is_told() -> None:
    world, (clips, labels) = tiny_world(frame_size=32, captions=CAPTIONS), pool(3, seed=0)
    given = given_of(np.concatenate([clips, clips], axis=1), labels, [6, 6, 2])
    free, bits = dream_from(world, given, 3, 1.0, seed=0)
    played, _ = dream_from(world, given, 3, 1.0, seed=0, played=True)
    assert free.shape == given.frames.shape and bits.shape == (3, 6)
    codec = world.reconstruct(torch.from_numpy(given.frames[:, 0])).numpy()
    assert np.array_equal(free[:, 0], codec) and np.array_equal(played[:, 0], codec)
    assert not np.array_equal(free[:, 1:], played[:, 1:])
    nothing = replace(given, known=np.zeros_like(given.known))
    assert np.array_equal(dream_from(world, nothing, 3, 1.0, seed=0, played=True)[0], free)
    text = embed(encoder_of(world.spec.text), given.captions)
    told, _ = dream_from(world, given, 3, 1.0, seed=0, text=text)
    guided, _ = dream_from(world, given, 3, 1.0, seed=0, text=text, guidance=2.0)
    assert np.array_equal(told[:, 0], codec) and not np.array_equal(told, free)
    assert not np.array_equal(told, guided)
    apart, _ = dream_from(world, given, 1, 1.0, seed=0)
    assert np.abs(apart.astype(int) - free.astype(int)).max() <= 1


def test_the_first_frame_is_compared_with_image_and_codec() -> None:
    world, (clips, _) = tiny_world(frame_size=32), pool(4, seed=0)
    images = clips[:, 0]
    found = first_frame(world, images, 1.0, seed=0)
    assert (found["images"], found["equal"], found["largest_difference"]) == (4, 4, 0)
    codec = np.concatenate([world.reconstruct(torch.from_numpy(each[None])) for each in images])
    assert found["psnr"] == compared(images, codec, codec, seed=0)["psnr"]
    other = np.where(images > 200, images - 5, images + 5)  # off by 5 everywhere
    codec = other.copy()
    codec[1, 3, 3, 0] -= 2
    found = compared(images, other, codec, seed=0)
    assert (found["equal"], found["largest_difference"]) == (3, 2)
    assert isinstance(found["psnr"], dict)
    assert found["psnr"]["value"] == pytest.approx(20 * np.log10(255 / 5))


def test_real_frames_through_noise() -> None:
    world, (clips, labels) = tiny_world(frame_size=32), pool(3, seed=0)
    given = given_of(clips, labels, [3, 3, 3])
    shown = through_noise(world, given, 2, seed=0)
    assert np.abs(shown.astype(int) - through_noise(world, given, 1, seed=0)).max() <= 1
    codec = world.reconstruct(torch.from_numpy(clips)).numpy()
    assert shown.shape == codec.shape and not np.array_equal(shown, codec)
    quiet = tiny_world(frame_size=32, config=replace(tiny_config(), sigma=1e-4))
    shown = through_noise(quiet, given, 3, seed=0)
    assert np.abs(shown.astype(int) - codec).max() <= 1  # the noise is all that differs


def test_psnr_and_motion_by_known_answers() -> None:
    frames = np.full((3, 4, 32, 32, 3), 100, np.uint8)
    frames += np.arange(4, dtype=np.uint8)[:, None, None, None] * 5
    given = given_of(frames, np.array([[0, 0], [0, 1], [1, 0]]), [4, 2, 2])
    off = frames.copy()
    off[0] += 10
    off[1] += 30
    found = psnr_of(given, {"off": off, "same": frames}, SKIES, seed=0)
    day = found["day"]["off"]
    assert day[0] is not None and day[3] is not None
    # two clips whose squared errors are averaged; then the one that goes on
    assert day[0]["value"] == pytest.approx(10 * np.log10(255**2 / ((10**2 + 30**2) / 2)))
    assert day[3]["value"] == pytest.approx(20 * np.log10(255 / 10))
    assert found["night"]["off"][1:3] == [{"value": 100.0, "low": 100.0, "high": 100.0}, None]
    still = np.broadcast_to(frames[:, :1], frames.shape)
    moved = motion_of(given, {REAL: frames, FREE: frames, "still": still}, SKIES, real=(REAL,))
    assert moved["night"] == {REAL: [5.0, None, None], FREE: [5.0] * 3, "still": [0.0] * 3}
    assert moved["day"][REAL] == [5.0] * 3


def test_behind_the_end_only_the_game_is_asked(tmp_path: Path) -> None:
    clips, labels = pool(200, seed=0)
    probe = train_probe([clips], labels, SQUARES, ProbeTraining(steps=50, batch=16), seed=0)
    clips, labels = pool(40, seed=1)
    before = np.zeros_like(clips[:, :1])
    longer = np.concatenate([before, clips], axis=1)
    given = given_of(longer, labels, [4] * 20 + [2] * 20)  # half of them end early
    ways = {REAL: longer, CODEC: longer, FREE: longer, PLAYED: longer[:, :, :, ::-1]}
    new = np.arange(40) < 4
    rows = image_to_video.answers_at(probe, given, ways, new, 3, settings(tmp_path))
    assert set(rows) == {REAL, CODEC, FREE, NEW, PLAYED}
    asked = {
        name: [(row[sky]["sky"]["asked"], row[sky]["side"]["asked"]) for sky in SKIES]
        for name, row in rows.items()
    }
    assert asked[REAL] == asked[CODEC] == [(10, 10)] * 2
    assert asked[FREE] == asked[PLAYED] == [(20, 10)] * 2 and asked[NEW] == [(2, 2)] * 2
    assert rows[FREE]["day"]["side"]["value"] == rows[FREE]["night"]["sky"]["value"] == 1.0
    assert rows[PLAYED]["day"]["side"]["value"] == 0.0  # mirrored
    assert rows[PLAYED]["day"]["sky"]["value"] == 1.0
    only = image_to_video.answers_at(probe, given, ways, new, 3, settings(tmp_path, kept=["sky"]))
    assert "side" not in only[FREE]["day"]


def test_the_sheet_is_white_where_nothing_is_real(tmp_path: Path) -> None:
    frames = np.zeros((3, 4, 32, 32, 3), np.uint8)
    given = given_of(frames, np.array([[0, UNASKED], [0, UNASKED], [1, UNASKED]]), [4, 4, 2])
    sheet = image_to_video.contact_sheet(
        given, {FREE: frames, PLAYED: frames}, SKIES, settings(tmp_path)
    )
    black = (sheet == 0).all(axis=-1).sum() // 32**2
    assert black == 9 + 8  # one clip of each sky, three rows, three frames; one real frame missing


def test_the_command(
    tmp_path: Path,
    captioned: EpisodeDataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = tiny_world(frame_size=32, captions=CAPTIONS)
    world.spec = replace(world.spec, held_out=replace(world.spec.held_out, fraction=0.5))
    save_world(world, tmp_path / "w", "card")
    found = settings(tmp_path)
    monkeypatch.setattr(image_to_video, "read_settings", lambda schema: found)
    image_to_video.main()
    figures = json.loads((tmp_path / "out" / "image_to_video.json").read_text())
    count = sum(figures["clips"].values())
    first = figures["first_frame"]
    assert (first["images"], first["equal"], first["largest_difference"]) == (count, count, 0)
    assert [judged["last"] for judged in figures["identity"]] == [2, 3]
    assert set(figures["identity"][0]["ways"]) >= {FREE, PLAYED, TOLD}
    assert len(figures["bits_per_dim"][TOLD]) == 4
    assert (tmp_path / "out" / "sheet.png").is_file()
    out = capsys.readouterr().out
    assert "Frames 1 to 3, 0.375 s" in out and "| sky: day | sky: night | side |" in out
    with pytest.raises(SystemExit, match="holds such a report"):
        image_to_video.main()


def test_captions_can_be_left_out(tmp_path: Path, captioned: EpisodeDataset) -> None:
    save_world(tiny_world(frame_size=32, captions=CAPTIONS), tmp_path / "w", "card")
    figures = image_to_video.measure(settings(tmp_path, captioned=False), tmp_path)
    assert set(figures["bits_per_dim"]) == {FREE, PLAYED}


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    for change, message in (
        ({"kept": ["side"]}, "the first with them"),
        ({"kept": ["sky", "colour"]}, "must be of questions"),
        ({"judged": [1]}, "ends at frame 2 or later"),
        ({"compared": []}, "compared="),
        ({"clips": 0}, "clips=0"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"temperature": float("nan")}, "temperature=nan"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(tmp_path, **change)
