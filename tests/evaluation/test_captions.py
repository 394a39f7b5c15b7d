"""`worldflow evaluate captions=true`: every figure is of the world that was told the captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldflow.agents.evaluate_world import EvaluateWorldConfig
from worldflow.agents.evaluate_world import main as evaluate_world
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.clips import RealClips, real_clips
from worldflow.evaluation.detection import DetectionConfig
from worldflow.evaluation.evaluate import DreamedWorld, EvaluateConfig, evaluate, main
from worldflow.evaluation.score_matching import exact_scores, examine
from worldflow.evaluation.signals import head_predictions
from worldflow.evaluation.simulate import clip_noise, dream, novelty_curves, scores
from worldflow.held_out import RealData
from worldflow.storage import save_world
from worldflow.testing import tiny_world
from worldflow.text.encoder import embed, encoder_of
from worldflow.world_model import WorldModel
from worldflow.world_state import WorldState

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


def test_each_clip_has_the_caption_of_its_episode(
    world: WorldModel, make_dataset: Callable[..., EpisodeDataset]
) -> None:
    captions = ("left", None, "right", "left", "right", "left")
    dataset, encoder = make_dataset([9] * 6, captions=captions), encoder_of(world.spec.text)
    clips = real_clips(dataset, np.array([1, 2, 4, 5]), 3, 9, 2, "first", 0, encoder)
    episodes = clips.frames[:, 0, 0, 0, 0].tolist()  # which is what its pixels say
    assert episodes != [0, 1, 2] and len(episodes) == 3
    expected = embed(encoder, [captions[episode] for episode in episodes])
    assert clips.text is not None and torch.equal(torch.from_numpy(clips.text), expected)


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


def test_each_dream_is_told_the_caption_of_its_clip(
    world: WorldModel, clips: RealClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, begin = [], world.initial_state

    def listen(*given: Any, text: torch.Tensor) -> WorldState:
        said.append(text)
        return begin(*given, text=text)

    monkeypatch.setattr(world, "initial_state", listen)
    told = dream(world, clips, 2, batch=2, temperature=1.0, seed=0, progress=False)
    assert clips.text is not None and [len(text) for text in said] == [2, 2, 2]
    expected = torch.from_numpy(clips.text[[0, 1, 2, 0, 1, 2]])
    assert torch.equal(torch.cat(said), expected)
    monkeypatch.undo()
    untold = replace(clips, text=None)
    free = dream(world, untold, 2, batch=2, temperature=1.0, seed=0, progress=False)
    differ = (told.frames != free.frames).any(axis=(0, 2, 3, 4, 5))
    assert differ.tolist() == [True, True, False]  # nothing is told of the last


def test_heads_and_scores_are_those_under_the_captions(world: WorldModel, clips: RealClips) -> None:
    rewards, ends = head_predictions(world, clips, batch=2, seed=0)
    assert clips.text is not None and rewards is not None and ends is not None
    for row in range(3):
        frames = torch.from_numpy(clips.frames[row : row + 1])
        actions = torch.from_numpy(clips.actions[row : row + 1])
        text = torch.from_numpy(clips.text[row : row + 1])
        noisy = world.noisy_latents(frames, [clip_noise(0, row)])
        condition = world.conditioning(actions, text=text)
        score, features = world.denoiser(noisy, condition)
        assert world.reward_head is not None and world.termination_head is not None
        reward = world.reward_head.mean(world.reward_head(features))
        end = world.termination_head.probability(world.termination_head(features, features))
        np.testing.assert_allclose(rewards[row], reward[0].detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(ends[row], end[0].detach().numpy(), atol=1e-5)
        if row > 0:  # not from the first clip on
            examined = examine(world, clips, slice(1, 3), 0)
            torch.testing.assert_close(examined.matched[row - 1], score[0, 7], atol=1e-5, rtol=0)
            before, _ = exact_scores(world, noisy, condition.detach(), torch.tensor([8]))
            torch.testing.assert_close(examined.exact[0][row - 1], before[0], atol=1e-4, rtol=0)
    other, _ = head_predictions(world, replace(clips, text=clips.text[::-1].copy()), 2, seed=0)
    assert other is not None and (other[[0, 2]] != rewards[[0, 2]]).any(axis=1).all()


def test_what_captions_are_worth(world: WorldModel, clips: RealClips) -> None:
    untold = replace(clips, text=None)
    dreams = dream(world, clips, 1, batch=3, temperature=1.0, seed=0, progress=False)
    _, nll = novelty_curves(world, clips, dreams, batch=3, seed=0)
    _, without = novelty_curves(world, untold, dreams, batch=3, seed=0)
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
    assert "told the captions of 2 of these clips" in (tmp_path / "out/report.html").read_text()
    assert "NLL a latent, no captions" in capsys.readouterr().out


def test_what_cannot_be_told_is_refused(
    tmp_path: Path, world: WorldModel, make_dataset: Callable[..., EpisodeDataset]
) -> None:
    partly = make_dataset([9, 2, 9], captions=(None, "left", None))  # 2 frames are no clip
    config = settings(world, partly, tmp_path)
    with pytest.raises(DataError, match=r"none of the 2 episodes .* has a caption"):
        evaluate(config)
    save_world(tiny_world(frame_size=SIZE), tmp_path / "world", "card")
    with pytest.raises(DataError, match=r"learned without captions; set captions=false"):
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
