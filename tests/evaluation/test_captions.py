"""`worldflow evaluate captions=true`: every figure is of the world that was told the captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldflow.agents.evaluate_world import EvaluateWorldConfig
from worldflow.agents.evaluate_world import main as evaluate_world
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.clips import RealClips, RealData, real_clips
from worldflow.evaluation.detection import DetectionConfig
from worldflow.evaluation.evaluate import DreamedWorld, EvaluateConfig, evaluate, main
from worldflow.evaluation.score_matching import cut, examine
from worldflow.evaluation.signals import head_predictions
from worldflow.evaluation.simulate import clip_noise, dream, novelty_curves, scores
from worldflow.storage import save_world
from worldflow.testing import tiny_world
from worldflow.text.encoder import embed, encoder_of
from worldflow.world_model import WorldModel

SIZE = 32
CAPTIONS = ("left", "right", None)


@pytest.fixture
def world() -> WorldModel:
    return tiny_world(frame_size=SIZE, captions=("left", "right"))


@pytest.fixture
def dataset(make_dataset: Callable[..., EpisodeDataset]) -> EpisodeDataset:
    return make_dataset([9, 9, 9], captions=CAPTIONS)


@pytest.fixture
def clips(world: WorldModel, dataset: EpisodeDataset) -> RealClips:
    encoder = encoder_of(world.spec.text)
    return real_clips(dataset, np.arange(3), 3, 9, 2, "first", 0, encoder)


def settings(world: WorldModel, dataset: EpisodeDataset, folder: Path) -> EvaluateConfig:
    save_world(world, folder / "world", "card")
    return EvaluateConfig(
        DreamedWorld(str(folder / "world")),
        RealData(str(dataset.folder), unseen=True),
        str(folder / "out"),
        clips=3,
        horizon=6,
        samples=1,
        captions=True,
        progress=False,
    )


def test_each_clip_has_its_caption(world: WorldModel, clips: RealClips) -> None:
    expected = embed(encoder_of(world.spec.text), CAPTIONS)
    assert clips.text is not None and torch.equal(torch.from_numpy(clips.text), expected)
    assert clips.text[:2].any(axis=1).all() and not clips.text[2].any()
    pieces, owners = cut(clips)
    assert pieces.text is not None
    np.testing.assert_array_equal(pieces.text, clips.text[owners])


def test_likelihoods_are_those_under_the_captions(world: WorldModel, clips: RealClips) -> None:
    found = scores(world, clips, clips.actions, batch=2, seed=0).log_likelihood
    for row, text in enumerate(embed(encoder_of(world.spec.text), CAPTIONS)):
        frames, actions = (
            torch.from_numpy(a[row : row + 1]) for a in (clips.frames, clips.actions)
        )
        expected = world.log_prob(frames, actions, [clip_noise(0, row)], text=text[None])
        torch.testing.assert_close(found[row], expected[0], rtol=1e-5, atol=1e-3)
    untold = scores(world, replace(clips, text=None), clips.actions, 2, 0).log_likelihood
    assert (untold[:2] != found[:2]).all()
    torch.testing.assert_close(untold[2], found[2])


def test_what_is_told_changes_dreams_heads_and_scores(world: WorldModel, clips: RealClips) -> None:
    untold = replace(clips, text=None)
    told, free = (
        dream(world, c, 1, batch=3, temperature=1.0, seed=0, progress=False)
        for c in (clips, untold)
    )
    differ = (told.frames != free.frames).any(axis=(0, 2, 3, 4, 5))
    assert differ.tolist() == [True, True, False]  # nothing is told of the last
    heads = (head_predictions(world, c, 3, 0) for c in (clips, untold))
    for a, b in zip(*heads, strict=True):
        assert a is not None and b is not None
        assert (a[:2] != b[:2]).any() and np.allclose(a[2], b[2])
    a, b = (examine(world, cut(c)[0], slice(0, 3), 0) for c in (clips, untold))
    assert not torch.equal(a.matched, b.matched) and not torch.equal(a.exact[0], b.exact[0])
    _, nll = novelty_curves(world, clips, told, batch=3, seed=0)
    _, without = novelty_curves(world, untold, free, batch=3, seed=0)
    assert nll["no captions"] == without["real"] != nll["real"]
    assert "no captions" not in without


def test_the_command(
    tmp_path: Path,
    world: WorldModel,
    dataset: EpisodeDataset,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(settings(world, dataset, tmp_path))
    figures = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert figures["captions"] == 2 and "no captions" in figures["nll_per_latent"]
    assert "told the captions of 2 clips" in (tmp_path / "out/report.html").read_text()
    assert "NLL a latent, no captions" in capsys.readouterr().out


def test_what_cannot_be_told_is_refused(
    tmp_path: Path, world: WorldModel, make_dataset: Callable[..., EpisodeDataset]
) -> None:
    silent = make_dataset([9, 9, 9])
    config = settings(world, silent, tmp_path)
    with pytest.raises(DataError, match=r"no episode in .* has a caption"):
        evaluate(config)
    save_world(tiny_world(frame_size=SIZE), tmp_path / "world", "card")
    with pytest.raises(DataError, match="learned without captions"):
        evaluate(config)
    with pytest.raises(ConfigError, match="captions=false"):
        EvaluateConfig(captions=True, detection=DetectionConfig(enabled=True))


def test_the_real_game_has_no_captions(tmp_path: Path) -> None:
    world = tiny_world(captions=("left", "right"))
    world.spec.source.update(env_id="worldflow/Catch-v0")
    save_world(world, tmp_path / "world", "card")
    config = EvaluateWorldConfig(DreamedWorld(str(tmp_path / "world")), captions=True, out="x")
    with pytest.raises(ConfigError, match="real=false"):
        evaluate_world(config)
