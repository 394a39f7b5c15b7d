"""`worldflow evaluate` on a tiny world: what is compared with what, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.clips import real_clips
from worldflow.evaluation.evaluate import DreamedWorld, EvaluateConfig, main
from worldflow.evaluation.simulate import (
    Dreams,
    clip_noise,
    dream,
    errors,
    novelty_curves,
    reconstructions,
)
from worldflow.held_out import RealData, held_out_episodes
from worldflow.metrics import PSNR_LIMIT, psnr_over_time
from worldflow.storage import save_world
from worldflow.testing import tiny_world

SIZE = 32
DISCRETE = ActionSpec("discrete", n=3)
BOX = ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 2.0))
NONE = ActionSpec("none")


def test_clips_come_from_different_episodes_and_stay_inside(
    make_dataset: Callable[..., EpisodeDataset],
) -> None:
    dataset = make_dataset([3, 12, 20, 2, 9])
    clips = real_clips(dataset, np.arange(5), 10, length=6, context=2, start="random", seed=1)
    assert clips.frames[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 4]  # 3 is not longer than the context
    assert clips.valid.sum(axis=1).tolist() == [3, 6, 6, 6]
    for frames, actions, valid in zip(clips.frames, clips.actions, clips.valid, strict=True):
        numbers = frames[valid][:, 0, 0, 1].astype(int)
        assert (np.diff(numbers) == 1).all()
        np.testing.assert_array_equal(actions[valid][1:], (numbers[1:] - 1) % 3)


def test_clips_from_the_beginning(make_dataset: Callable[..., EpisodeDataset]) -> None:
    dataset = make_dataset([12, 20, 9])
    clips = real_clips(dataset, np.arange(3), 2, length=6, context=2, start="first", seed=1)
    assert len(clips.frames) == 2
    assert (clips.frames[:, 0, 0, 0, 1] == 0).all()


def test_clips_that_cannot_be(make_dataset: Callable[..., EpisodeDataset]) -> None:
    dataset = make_dataset([2, 2, 3])
    with pytest.raises(DataError, match="longer than the world's context of 3 frames"):
        real_clips(dataset, np.arange(3), 2, length=6, context=3, start="first", seed=0)
    with pytest.raises(ConfigError, match="start is 'last'"):
        real_clips(dataset, np.arange(3), 2, length=6, context=1, start="last", seed=0)


def test_held_out_episodes_are_those_of_pretraining(
    make_dataset: Callable[..., EpisodeDataset],
) -> None:
    from worldflow.data.splitting import split
    from worldflow.world_spec import HeldOut

    dataset = make_dataset([3] * 10)
    np.testing.assert_array_equal(
        held_out_episodes(dataset, HeldOut(0.2, 5, 10)), split(range(10), 0.2, 5)[1]
    )
    np.testing.assert_array_equal(held_out_episodes(dataset, None), np.arange(10))
    with pytest.raises(DataError, match="has 10 episodes, the world's dataset had 9"):
        held_out_episodes(dataset, HeldOut(0.2, 5, 9))


def test_errors_have_known_answers(make_dataset: Callable[..., EpisodeDataset]) -> None:
    dataset = make_dataset([4])
    clips = real_clips(dataset, np.arange(1), 1, length=4, context=1, start="first", seed=0)
    perfect = np.repeat(clips.frames[None, :, 1:], 2, axis=0)
    off = perfect.copy()
    off[1, ..., 2] = 3  # one of two samples is wrong by 3 in one of three channels
    zeros = np.zeros((2, 1, 3))
    dreams = Dreams(off, zeros, zeros, zeros[..., None], zeros)
    found = errors(clips, dreams, clips.frames, context=1)
    np.testing.assert_allclose(found["dream"], [[1.5, 1.5, 1.5]])
    np.testing.assert_allclose(found["copy last frame"], [[1 / 3, 4 / 3, 9 / 3]])
    np.testing.assert_array_equal(psnr_over_time(found["codec"], clips.valid[:, 1:]), PSNR_LIMIT)


@pytest.mark.parametrize("spec", [DISCRETE, BOX, NONE])
def test_dreams_and_scores(spec: ActionSpec, make_dataset: Callable[..., EpisodeDataset]) -> None:
    world, dataset = tiny_world(spec, SIZE), make_dataset([6, 9, 9], spec)
    clips = real_clips(dataset, np.arange(3), 3, length=6, context=2, start="first", seed=0)
    dreams = dream(world, clips, 2, batch=4, temperature=1.0, seed=0, progress=False)
    assert dreams.frames.shape == (2, 3, 4, SIZE, SIZE, 3)
    assert dreams.frames.dtype == np.uint8
    assert dreams.iterations.shape[:3] == dreams.novelty.shape == (2, 3, 4)
    again = dream(world, clips, 2, batch=4, temperature=1.0, seed=0, progress=False)
    np.testing.assert_array_equal(dreams.frames, again.frames)
    assert reconstructions(world, clips, 2).shape == clips.frames.shape
    curves, nll = novelty_curves(world, clips, dreams, batch=2, seed=0)
    assert all(curve.shape == (4,) and np.isfinite(curve).all() for curve in curves.values())
    assert ("wrong actions" in nll) == (spec.kind != "none")
    if spec.kind == "discrete":
        assert nll["real"] != nll["wrong actions"]


def test_nll_is_that_of_the_world(make_dataset: Callable[..., EpisodeDataset]) -> None:
    world, dataset = tiny_world(DISCRETE, SIZE), make_dataset([6, 9])
    clips = real_clips(dataset, np.arange(2), 2, length=6, context=2, start="first", seed=0)
    dreams = dream(world, clips, 1, batch=2, temperature=1.0, seed=0, progress=False)
    _, nll = novelty_curves(world, clips, dreams, batch=2, seed=0)
    _, in_pieces = novelty_curves(world, clips, dreams, batch=1, seed=0)
    frames, actions = torch.from_numpy(clips.frames), torch.from_numpy(clips.actions)
    rows = [
        world.log_prob(frames[i : i + 1], actions[i : i + 1], [clip_noise(0, i)])[0, 2:]
        for i in range(2)
    ]
    expected = -torch.cat(rows).mean().item() / world.dimensions
    assert nll["real"] == pytest.approx(expected, rel=1e-5)
    assert nll["real"] == pytest.approx(in_pieces["real"], rel=1e-5)


def test_the_command_writes_everything(
    tmp_path: Path, make_dataset: Callable[..., EpisodeDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset([5, 9, 9, 12])
    save_world(tiny_world(DISCRETE, SIZE), tmp_path / "world", "card")
    out = tmp_path / "out"
    config = EvaluateConfig(
        DreamedWorld(str(tmp_path / "world")),
        RealData(str(dataset.folder), unseen=True),
        str(out),
        clips=3,
        horizon=100,
        samples=1,
        strips=2,
        progress=False,
    )
    main(config)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "evaluation.json",
        "report.html",
        "dream_beside_reality.mp4",
        "strip_000.png",
        "strip_001.png",
        "true_and_other_actions.png",
    }
    figures = json.loads((out / "evaluation.json").read_text())
    assert figures["steps"] == list(range(1, 11))  # the longest episode ends the horizon
    assert set(figures["psnr"]) == {"dream", "copy last frame", "codec"}
    assert len(figures["psnr_over_time"]["dream"]) == 10
    assert set(figures["jacobi_iterations"]) == {"global", "local 1", "local 2"}
    assert figures["score"]["frames"] >= 3
    assert set(figures["ssim"]) == set(figures["psnr"])
    assert figures["agreement"]["agreement"]["count"] == 3
    assert figures["reward"]["error"]["on real frames"]["mean"] > 0
    assert figures["termination"]["rate"]["real"]["mean"] > 0
    page = (out / "report.html").read_text()
    assert all(
        f"<h2>{title}</h2>" in page for title in ("What actions do", "Rewards", "Terminations")
    )
    printed = capsys.readouterr().out
    assert "PSNR of dream" in printed and "that the denoiser explains" in printed
    assert "exact score, lookahead 1" in (out / "report.html").read_text()
    main(replace(config, strips=1))
    assert not (out / "strip_001.png").exists()


def test_data_of_another_source_is_refused(
    tmp_path: Path, make_dataset: Callable[..., EpisodeDataset]
) -> None:
    dataset = make_dataset([5, 9], BOX)
    save_world(tiny_world(DISCRETE, SIZE), tmp_path / "world", "card")
    data = RealData(str(dataset.folder), unseen=True)
    with pytest.raises(DataError, match="evaluate it on data of its own source"):
        main(EvaluateConfig(DreamedWorld(str(tmp_path / "world")), data, str(tmp_path / "out")))


def test_settings_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="horizon is 0"):
        EvaluateConfig(out="x", horizon=0)
