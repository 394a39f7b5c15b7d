"""Whether prompts are obeyed: questions, probe and accuracies by known answers, and the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import prompts
import pytest
import torch
from prompting.accuracy import FACTORS, accuracies
from prompting.probe import ProbeTraining, probe_answers, train_probe
from prompting.questions import (
    PARAPHRASES,
    QUESTIONS,
    UNASKED,
    UNSURE,
    answers_of,
    by_answers,
    check_questions,
    numbered,
)
from squares import CAPTIONS, SQUARES, pool

from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.storage import save_world
from worldflow.testing import tiny_world
from worldflow.text.encoder import encoder_of


def test_captions_answer_what_they_speak_of() -> None:
    found = answers_of("catch, the ball falls on the left and is missed", QUESTIONS)
    assert found == {"game": "catch", "side": "left", "end": "missed"}
    found = answers_of("grid world, you must fetch a red ball", QUESTIONS)
    assert found == {"game": "grid", "colour": "red", "thing": "ball"}
    assert answers_of("the red ball", QUESTIONS) == {}  # of no game
    assert answers_of("grid world, a scared cat", QUESTIONS) == {"game": "grid"}  # whole words
    with pytest.raises(DataError, match=r"gives \['left', 'right'\] to the question 'side'"):
        answers_of("left or right", SQUARES)


def test_answers_have_numbers() -> None:
    rows = numbered([{"side": "right"}, {"sky": "day", "side": "left"}], SQUARES)
    assert rows.tolist() == [[UNASKED, 1], [0, 0]]
    with pytest.raises(ConfigError, match="no answer 'up' to a question 'side'"):
        numbered([{"side": "up"}], SQUARES)
    with pytest.raises(ConfigError, match="two answers or more"):
        check_questions({"side": {"left": "left"}})


def test_every_paraphrase_asks_for_what_there_is_and_is_no_caption() -> None:
    assert (numbered(list(PARAPHRASES.values()), QUESTIONS)[:, 0] >= 0).all()
    # a caption names its game in words that no paraphrase has
    assert not any("game" in answers_of(prompt, QUESTIONS) for prompt in PARAPHRASES)


def test_captions_are_grouped_by_what_they_answer() -> None:
    groups = by_answers(["go left", "left", "go left", "right", "nothing"], SQUARES)
    assert groups == {("left",): ["go left", "left"], ("right",): ["right"]}


def test_accuracies_are_counted() -> None:
    wanted = np.array([[0, 1], [0, UNASKED], [1, 0], [1, 1]])
    found = np.array([[0, 1], [0, 0], [UNSURE, 1], [1, UNSURE]])
    questions = {**SQUARES, "never": {"a": "a", "b": "b"}}
    never = np.full((4, 1), UNASKED)
    shares = accuracies(np.c_[found, never], np.c_[wanted, never], questions, seed=0)
    assert set(shares) == {"sky", "side", FACTORS}
    assert (shares["sky"][0].value, shares["sky"][1]) == (0.75, 4)
    assert (shares["side"][0].value, shares["side"][1]) == (pytest.approx(1 / 3), 3)
    assert shares[FACTORS][0].value == shares["side"][0].value
    assert 0.0 <= shares["sky"][0].low < 0.75 < shares["sky"][0].high <= 1.0
    # many clips of which all are right leave no doubt
    sure = accuracies(np.zeros((9, 2), int), np.zeros((9, 2), int), SQUARES, seed=0)["side"][0]
    assert (sure.low, sure.value, sure.high) == (1.0, 1.0, 1.0)


def test_the_probe_sees_what_clips_show() -> None:
    clips, labels = pool(200, seed=0)
    training = ProbeTraining(steps=60, batch=32)
    probe = train_probe([clips, 255 - (255 - clips) // 2], labels, SQUARES, training, seed=0)
    clips, labels = pool(100, seed=1)
    assert np.array_equal(probe_answers(probe, clips, 0.8), labels)
    mirrored = probe_answers(probe, clips[:, :, :, ::-1].copy(), 0.8)
    assert np.array_equal(mirrored[:, 0], labels[:, 0])
    assert np.array_equal(mirrored[:, 1], 1 - labels[:, 1])
    with torch.no_grad():
        probe.head.weight.zero_(), probe.head.bias.zero_()
    assert (probe_answers(probe, clips, 0.8) == UNSURE).all()  # both answers are as probable


def test_the_probe_has_the_same_bits_for_the_same_seed() -> None:
    clips, labels = pool(20, seed=0)
    one, two, other = (
        train_probe([clips], labels, SQUARES, ProbeTraining(steps=3, batch=4), seed=seed)
        for seed in (1, 1, 2)
    )
    weights = [probe.head.weight for probe in (one, two, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def settings(tmp_path: Path, **changes: object) -> prompts.Prompts:
    small: dict[str, object] = {
        "questions": SQUARES,
        "paraphrases": {"bright, to the left": {"sky": "day", "side": "left"}},
        "guidance": [0.0, 1.0],
        "sheet": 1.0,
        "clips": 2,
        "length": 3,
        "probe": ProbeTraining(clips=8, steps=2, batch=4),
    }
    paths = {"world": str(tmp_path / "w"), "data": str(tmp_path / "data")}
    return prompts.Prompts(**{**paths, "out": str(tmp_path / "out"), **small, **changes})  # type: ignore[arg-type]


def test_a_dream_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    world = tiny_world(frame_size=32, captions=CAPTIONS)
    encoder = encoder_of(world.spec.text)
    together, bits = prompts.dreams(world, encoder, CAPTIONS[:3], 1.0, settings(tmp_path))
    apart, again = prompts.dreams(world, encoder, CAPTIONS[:3], 1.0, settings(tmp_path, batch=1))
    assert together.shape == (3, 3, 32, 32, 3)
    assert np.abs(together.astype(int) - apart.astype(int)).max() <= 1
    assert bits == pytest.approx(again, rel=1e-4)


def test_the_command(
    tmp_path: Path,
    captioned: EpisodeDataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_world(tiny_world(frame_size=32, captions=CAPTIONS), tmp_path / "w", "card")
    found = settings(tmp_path)
    monkeypatch.setattr(prompts, "read_settings", lambda schema: found)
    prompts.main()
    figures = json.loads((tmp_path / "out" / "prompts.json").read_text())
    assert [(row["prompts"], row["guidance"], row["clips"]) for row in figures["dreams"]] == [
        ("captions", 0.0, 8),
        ("captions", 1.0, 8),
        ("paraphrases", 0.0, 2),
        ("paraphrases", 1.0, 2),
    ]
    assert figures["dreams"][0]["accuracy"]["side"]["asked"] == 8
    assert set(figures["dreams"][2]["by_prompt"]) == {"bright, to the left"}
    assert figures["probe"]["real"]["sky"]["asked"] == figures["held_out_clips"]
    assert (tmp_path / "out" / "captions.png").is_file()
    assert "| guidance | sky | side | factors |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds such a report"):
        prompts.main()


def test_bad_settings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change, message in (
        ({"sheet": 7.0}, "sheet=7.0 is not among"),
        ({"clips": 0}, "clips=0"),
        ({"questions": {}}, "two answers or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(tmp_path, **change)
    with pytest.raises(ConfigError, match=r"probe\.sure is 1"):
        ProbeTraining(sure=1.0)
    monkeypatch.setattr(sys, "argv", ["prompts.py", "world=catch", "data=x", "out=y", "colour=red"])
    with pytest.raises(SystemExit, match="colour"):
        prompts.main()
