"""Detectors on data whose strangeness is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from worldflow.data.episodes import EpisodeDataset
from worldflow.evaluation.detectors import ensemble, random_network
from worldflow.evaluation.detectors.ensemble import (
    Disagreement,
    NextLatents,
    PredictionError,
    fit_members,
)
from worldflow.evaluation.detectors.likelihood import (
    NegativeLogLikelihood,
    Novelty,
    WindowNovelty,
    WorldScores,
)
from worldflow.evaluation.detectors.random_network import RandomNetworkDistillation
from worldflow.evaluation.detectors.reconstruction import ReconstructionError
from worldflow.evaluation.simulate import clip_noise
from worldflow.testing import tiny_world
from worldflow.training.latents import LatentEpisodes

SIZE = 32


def video(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (3, 5, SIZE, SIZE, 3), dtype=np.uint8)
    return frames, rng.integers(0, 3, (3, 5))


def test_likelihoods_are_the_worlds() -> None:
    world, (frames, actions) = tiny_world(None, SIZE), video()
    found = world.score(
        torch.from_numpy(frames), torch.from_numpy(actions), [clip_noise(4, i) for i in range(3)]
    )
    scored = WorldScores(world, 2, 4)
    novelty = Novelty(scored).score(frames, actions)
    np.testing.assert_allclose(novelty, found.novelty, rtol=1e-4)
    over = WindowNovelty(scored, 2)
    windows = world.calibration.require("seen").over(found.statistics, 2).numpy()
    np.testing.assert_allclose(over.score(frames, actions), windows, rtol=1e-4)
    assert over.of_window(windows).tolist() == windows[:, -1].tolist() != windows.mean(1).tolist()
    nll = NegativeLogLikelihood(scored).score(frames, actions)
    np.testing.assert_allclose(nll, -found.log_likelihood, rtol=1e-5)
    assert scored.of(frames, actions) is scored.of(frames, actions)
    other = scored.of(frames[::-1].copy(), actions)  # another video is scored anew
    assert not np.allclose(other.log_likelihood, found.log_likelihood)


def test_reconstruction_error() -> None:
    world, (frames, actions) = tiny_world(None, SIZE), video()
    shown = world.reconstruct(torch.from_numpy(frames)).numpy()
    expected = np.square(frames.astype(float) - shown).mean(axis=(2, 3, 4))
    np.testing.assert_allclose(ReconstructionError(world, 2).score(frames, actions), expected)


def distillation(dataset: EpisodeDataset, folder: Path, updates: int) -> RandomNetworkDistillation:
    episodes = np.arange(len(dataset))
    return RandomNetworkDistillation(dataset, episodes, updates, folder, 2, 0, progress=False)


def test_a_random_network_knows_what_it_was_shown(
    tmp_path: Path,
    make_dataset: Callable[..., EpisodeDataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = make_dataset([8, 8])
    detector = distillation(dataset, tmp_path / "b", 20)
    seen = np.stack([dataset.read(i).frames for i in range(2)])
    known, strange = detector.score(seen, np.zeros((2, 8))), detector.score(*video())
    assert np.isnan(known[:, 0]).all()
    assert known[:, 1:].max() < strange[:, 1:].min()
    untrained = distillation(dataset, tmp_path / "c", 1).score(seen, np.zeros((2, 8)))
    assert known[:, 1:].mean() < 0.5 * untrained[:, 1:].mean()

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(random_network, "_fit", refuse)
    again = distillation(dataset, tmp_path / "b", 20).score(seen, np.zeros((2, 8)))
    np.testing.assert_array_equal(again, known)
    with pytest.raises(AssertionError, match="trained again"):
        distillation(dataset, tmp_path / "b", 21)


def test_disagreement_and_error_have_known_answers() -> None:
    world, (frames, actions) = tiny_world(None, SIZE), video()
    members = [NextLatents(world).eval().requires_grad_(False) for _ in range(3)]
    frames[1] = frames[1, :1]  # at rest: a new member, which repeats the last frame, is right
    error = PredictionError(world, members, 2).score(frames, actions)
    assert np.isnan(error[:, 0]).all()
    np.testing.assert_allclose(error[1, 1:], 0.0, atol=1e-9)
    latents = world.codec.encode_frames(torch.from_numpy(frames)).numpy()
    expected = np.square(np.diff(latents[0], axis=0)).mean(axis=(1, 2))
    np.testing.assert_allclose(error[0, 1:], expected, rtol=1e-4)
    disagreement = Disagreement(world, members, 2)
    np.testing.assert_allclose(disagreement.score(frames, actions)[:, 1:], 0.0, atol=1e-9)
    for number, member in enumerate(members):
        member.outward.bias.fill_(float(number))  # guesses of +0, +1 and +2
    np.testing.assert_allclose(disagreement.score(frames, actions)[:, 1:], 2 / 3, rtol=1e-4)
    shifted = PredictionError(world, members, 2).score(frames, actions)
    np.testing.assert_allclose(shifted[1, 1:], 1.0, rtol=1e-4)


def test_members_learn_differ_and_are_kept(
    tmp_path: Path,
    make_dataset: Callable[..., EpisodeDataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, dataset = tiny_world(None, SIZE), make_dataset([12, 12, 3])
    data = LatentEpisodes(world.codec, dataset, tmp_path)
    drift = [np.arange(n, dtype=np.float32)[:, None, None] for n in (12, 12, 3)]
    data.latents = [np.tile(times, (1, world.tokens, world.channels)) for times in drift]
    episodes = np.arange(3)

    def members(updates: int) -> list[NextLatents]:
        return fit_members(
            world, data, dataset.lengths, episodes, updates, tmp_path, 0, progress=False
        )

    found = members(30)
    first, second, _ = (member.inward.weight for member in found)
    assert not torch.equal(first, second)
    latents = torch.from_numpy(np.stack([data.latents[i] for i in range(2)]))
    actions = torch.zeros(2, 12, dtype=torch.int64)
    for member in found:  # a new member repeats the last frame, which is wrong by 1 everywhere
        error = (member(latents, actions) - latents[:, 1:]).square().mean().item()
        assert error < 0.5

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(ensemble, "_fit", refuse)
    assert torch.equal(members(30)[0].inward.weight, first)
    with pytest.raises(AssertionError, match="trained again"):
        members(31)
