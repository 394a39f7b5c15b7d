"""What tells captions apart comes to one scale; by known answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldflow.actions import ActionSpec
from worldflow.conditioning import Conditioning
from worldflow.errors import DataError
from worldflow.storage import WHITENING, load_world, save_world
from worldflow.testing import tiny_world
from worldflow.text.spec import TextSpec
from worldflow.text.whitening import SHRINKAGE, plain, whitening

# two scenes (first axis), each with two factors (second axis, a hundredth of the variance)
FOUR = torch.tensor([[1.0, 0.1, 0.5], [1.0, -0.1, 0.5], [-1.0, 0.1, 0.5], [-1.0, -0.1, 0.5]])


def test_scales_are_those_of_the_formula() -> None:
    mean, matrix = whitening(FOUR, torch.ones(4))
    torch.testing.assert_close(mean, torch.tensor([0.0, 0.0, 0.5]))
    variances = torch.tensor([1.0, 0.01])
    damped = variances / (variances + SHRINKAGE * 1.01)  # sqrt(c) times sqrt(c) / (c + e)
    k = (3.0 / damped.square().sum()).sqrt()
    found = ((FOUR - mean) @ matrix).abs()
    torch.testing.assert_close(found[:, :2], (k * damped).expand(4, 2))
    # scene to factor was 10 to 1 and is now 2 to 1; what all share is gone
    assert float(found[0, 0] / found[0, 1]) == pytest.approx(1.99, abs=0.01)
    torch.testing.assert_close(found[:, 2], torch.zeros(4))
    torch.testing.assert_close(found.square().mean(), torch.tensor(1.0))


def test_a_direction_without_captions_is_left_out() -> None:
    mean, matrix = whitening(FOUR, torch.ones(4))
    elsewhere = torch.tensor([0.0, 0.0, 9.0])
    torch.testing.assert_close((elsewhere - mean) @ matrix, torch.zeros(3))


def test_weights_are_repetitions() -> None:
    repeated = whitening(torch.cat((FOUR, FOUR[:1], FOUR[:1])), torch.ones(6))
    for found, wanted in zip(whitening(FOUR, torch.tensor([3, 1, 1, 1])), repeated, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_single_caption_is_only_scaled() -> None:
    one = torch.nn.functional.normalize(torch.randn(1, 5), dim=1).expand(3, 5)
    for found, wanted in zip(whitening(one, torch.ones(3)), plain(5), strict=True):
        assert torch.equal(found, wanted)


def test_conditions_of_near_captions_lie_apart() -> None:
    conditioning = Conditioning(ActionSpec("none"), 64, TextSpec("words", "x", 3))
    texts = torch.cat((FOUR, torch.zeros(1, 3)))  # the last has no caption

    def ratio() -> float:
        """Of the distances between factors and between scenes."""
        x = conditioning.initial(5, texts).detach()
        return ((x[0] - x[1]).norm() / (x[0] - x[2]).norm()).item()

    before, without = ratio(), conditioning.initial(1)
    conditioning.whiten(texts, torch.ones(5))
    assert before < 0.15 < 0.3 < ratio()
    torch.testing.assert_close(conditioning.initial(5, texts)[4:], without)
    with pytest.raises(DataError, match="no captions"):
        conditioning.whiten(torch.zeros(2, 3), torch.ones(2))


def test_worlds_of_before_have_plain_text(tmp_path: Path) -> None:
    world = tiny_world(captions=("left", "right"))
    save_world(world, tmp_path / "w", "card")
    path = tmp_path / "w" / "world.safetensors"
    weights = load_file(path)
    for name in WHITENING:
        del weights[name]
    save_file(weights, path)
    loaded = load_world(tmp_path / "w").conditioning
    mean, matrix = plain(64)
    assert torch.equal(loaded.text_mean, mean) and torch.equal(loaded.text_whitening, matrix)
