"""The table of translations: known answers of its figures, and the command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import translation
from translation import (
    AVERAGE,
    CODEC,
    COPY,
    FOREIGN,
    TRANSLATION,
    Pairs,
    Translation,
    measure,
    read_pairs,
    sheet,
    translate,
    ways,
    without_twins,
)

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.pairing import PairConfig
from worldflow.data.pairing import main as pair
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.ssim import ssim
from worldflow.storage import save_world
from worldflow.testing import tiny_world
from worldflow.world_model import WorldModel

LENGTH = 4


@pytest.fixture
def pairs(dataset: EpisodeDataset, tmp_path: Path) -> EpisodeDataset:
    """Forty pairs of four frames of noise and their mirror images, three actions kept."""
    folders = str(dataset.folder), str(tmp_path / "pairs")
    return pair(PairConfig(*folders, LENGTH, "mirror", actions="kept", progress=False))


@pytest.fixture
def world() -> WorldModel:
    return tiny_world()


def shifted(target: np.ndarray, by: int) -> np.ndarray:
    return np.asarray(target + np.uint8(by))


def test_decibels_and_gain_of_known_errors() -> None:
    """20 log10 (255 / d) dB where every value is off by d; the gain of 2 over 16 is 20 log10 8."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 200, (3, LENGTH, 16, 16, 3), dtype=np.uint8)
    shown = {TRANSLATION: shifted(target, 2), COPY: shifted(target, 16), CODEC: target}
    found = measure(target, shown)
    assert found["clips"] == 3 and found["frames"] == LENGTH
    for name, off in ((TRANSLATION, 2), (COPY, 16)):
        expected = 20 * np.log10(255 / off)
        figures = found["ways"][name]
        assert figures["psnr"] == pytest.approx(dict.fromkeys(("value", "low", "high"), expected))
        assert figures["psnr_of_frames"] == pytest.approx([expected] * LENGTH)
        assert figures["ssim"]["value"] == pytest.approx(ssim(shown[name], target).mean())
    assert found["ways"][CODEC]["psnr"]["value"] == 100.0
    assert found["ways"][CODEC]["ssim"]["value"] == pytest.approx(1.0)
    expected = 20 * np.log10(8)
    assert found["gain"] == pytest.approx(dict.fromkeys(("value", "low", "high"), expected))


def test_errors_are_averaged_before_they_become_decibels() -> None:
    target = np.full((2, 1, 16, 16, 3), 100, np.uint8)
    half = target.copy()
    half[0] += 20  # squared errors of 400 and 0
    found = measure(target, {TRANSLATION: half, COPY: shifted(target, 20)})
    psnr = found["ways"][TRANSLATION]["psnr"]
    assert psnr["value"] == pytest.approx(10 * np.log10(255**2 / 200))
    assert psnr["low"] == pytest.approx(20 * np.log10(255 / 20)) and psnr["high"] == 100.0
    assert found["gain"]["value"] == pytest.approx(10 * np.log10(2))


def test_a_translation_goes_on_from_its_source(world: WorldModel, pairs: EpisodeDataset) -> None:
    read = read_pairs(pairs, np.arange(len(pairs)), 3, seed=0)
    assert np.array_equal(read.source, read.target[:, :, :, ::-1])
    assert read.known.tolist() == [[False] * 5 + [True] * 3] * 3
    made = translate(world, read, read.source, batch=2, temperature=1.0, seed=0)
    assert made.shape == read.target.shape and made.dtype == np.uint8
    one = Pairs(*(array[:2] for array in vars(read).values()))
    again = translate(world, one, one.source, batch=2, temperature=1.0, seed=0)
    assert np.array_equal(made[:2], again)  # row k has its own noise


def test_ways_are_what_they_are_called(
    world: WorldModel, pairs: EpisodeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a world that returns the mirror image of what it is given."""
    settings = Translation("w", clips=4, batch=3)
    read = read_pairs(pairs, np.arange(len(pairs)), 4, seed=0)

    def mirrored(_world: WorldModel, _pairs: Pairs, source: np.ndarray, *_: object) -> np.ndarray:
        return source[:, :, :, ::-1]

    monkeypatch.setattr(translation, "translate", mirrored)
    shown = ways(world, read, settings)
    assert np.array_equal(shown[TRANSLATION], read.target)
    assert np.array_equal(shown[COPY], read.source)
    assert np.array_equal(shown[FOREIGN], read.target[[3, 0, 1, 2]])
    assert np.abs(shown[AVERAGE][0] - read.target.mean(axis=0)).max() <= 0.5
    codec = world.reconstruct(torch.from_numpy(read.target)).numpy()
    assert np.array_equal(shown[CODEC], codec)
    found = measure(read.target, shown)
    assert found["ways"][TRANSLATION]["psnr"]["value"] == 100.0
    errors = {name: each["psnr"]["value"] for name, each in found["ways"].items()}
    assert errors[AVERAGE] > errors[COPY]  # of noise
    assert found["gain"]["value"] == pytest.approx(100.0 - errors[COPY])
    assert sheet(read, shown[TRANSLATION]).shape[1] == 72 + LENGTH * 66


def test_the_command_prints_a_table(
    world: WorldModel,
    pairs: EpisodeDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_world(world, tmp_path / "world", "card")
    out, picture = tmp_path / "out.json", tmp_path / "sheet.png"
    words = ["translation.py", f"world={tmp_path / 'world'}", f"data.path={pairs.folder}"]
    words += ["data.unseen=true", "clips=3", "batch=2"]
    monkeypatch.setattr(sys, "argv", [*words, f"out={out}", f"sheet={picture}"])
    translation.main()
    printed = capsys.readouterr().out
    assert "| foreign source |" in printed and "gain over copy: " in printed
    figures = json.loads(out.read_text())
    assert list(figures["ways"]) == [TRANSLATION, COPY, AVERAGE, FOREIGN, CODEC]
    assert figures["clips"] == 3 and cv2.imread(str(picture)) is not None

    for word, error, message in (
        ("clips=1", ConfigError, "clips=1 must be two or more"),
        ("temperature=-1", ConfigError, "temperature=-1.0"),
        (f"data.path={tmp_path / 'data'}", DataError, "holds no pairs; make them"),
    ):
        monkeypatch.setattr(sys, "argv", [*words, word])
        with pytest.raises(error, match=message):
            translation.main()


def test_pairs_of_another_kind_are_refused(
    pairs: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = tiny_world(ActionSpec("none"))
    save_world(without, tmp_path / "world", "card")
    words = ["translation.py", f"world={tmp_path / 'world'}", f"data.path={pairs.folder}"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(DataError, match="give pairs of its kind"):
        translation.main()


def test_pairs_that_were_learned_from_are_left_out(dataset: EpisodeDataset) -> None:
    for index in (2, 5):
        dataset.paths[index].write_bytes(dataset.paths[8].read_bytes())
    left = without_twins(dataset, np.array([0, 1, 2]), np.array([5, 7, 8, 9]))
    assert left.tolist() == [7, 9]
    assert without_twins(dataset, np.arange(0), np.array([5, 7])).tolist() == [5, 7]


def test_one_pair_is_too_few(pairs: EpisodeDataset) -> None:
    with pytest.raises(DataError, match="1 held-out pairs"):
        read_pairs(pairs, np.arange(1), 4, seed=0)
    assert replace(Translation("w"), clips=2).clips == 2
