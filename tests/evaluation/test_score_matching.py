"""The denoiser against the flow's exact score: cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.score_matching import EXACT, cut, explained, score_figures
from worldflow.evaluation.simulate import clip_noise
from worldflow.testing import tiny_world
from worldflow.training.losses import SCORE_LIMIT
from worldflow.world_model import WorldModel

SIZE = 32


class Known(nn.Module):
    """In place of a denoiser: `score` of noisy latents and conditions (B, T, ...)."""

    def __init__(self, score: Any) -> None:
        super().__init__()
        self.score = score

    def forward(self, noisy: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(noisy, condition), noisy


def real(lengths: list[int], seed: int = 0) -> RealClips:
    """Clips of random frames and actions."""
    rng = np.random.default_rng(seed)
    valid = np.arange(max(lengths)) < np.array(lengths)[:, None]
    frames = rng.integers(0, 256, (*valid.shape, SIZE, SIZE, 3), dtype=np.uint8)
    frames[~valid] = 0
    return RealClips(frames, rng.integers(0, 3, valid.shape), valid)


def identity_world() -> WorldModel:
    """A world whose flow and conditioning are as new: z = y~, so that the score is sigma * y~."""
    world = tiny_world(frame_size=SIZE)
    fresh = WorldModel(world.config, world.spec)
    world.flow = fresh.flow.requires_grad_(False)
    return world


def exact(world: WorldModel, lookahead: int) -> Any:
    """The score of every frame given the past and `lookahead` frames more, cut by cut."""

    def score(noisy: Tensor, condition: Tensor) -> Tensor:
        columns = []
        for t in range(noisy.shape[1]):
            seen = noisy[:, : t + 1 + lookahead].detach().requires_grad_()
            with torch.enable_grad():
                log_prob = world.flow(seen, condition[:, : seen.shape[1]]).log_prob.sum()
                (gradient,) = torch.autograd.grad(log_prob, seen)
            columns.append(-world.config.sigma * gradient[:, t])
        return torch.stack(columns, dim=1).clamp(-SCORE_LIMIT, SCORE_LIMIT)

    return score


@pytest.mark.parametrize("lookahead", [0, 1])
def test_the_exact_score_explains_itself(lookahead: int) -> None:
    world = tiny_world(frame_size=SIZE)
    world.denoiser = Known(exact(world, lookahead))
    world.config.denoiser.lookahead = lookahead
    figures = score_figures(world, real([5, 2, 27]), batch=3, seed=0)
    same, other = EXACT[lookahead], EXACT[1 - lookahead]
    assert figures["lookahead"] == lookahead and figures["frames"] == 4
    for bound in ("low", "mean", "high"):
        assert figures["explained"][same][bound] == pytest.approx(1.0, abs=1e-6)
    assert figures["explained"][other]["mean"] < 0.999
    errors = {name: error["mean"] for name, error in figures["squared_error"].items()}
    assert errors["denoiser"] == pytest.approx(errors[same], rel=1e-5)
    assert errors["denoiser"] != pytest.approx(errors[other], rel=1e-3)


def test_an_identity_flow_has_its_score_in_closed_form() -> None:
    world, clips = identity_world(), real([6, 6])
    sigma = world.config.sigma
    world.denoiser = Known(lambda noisy, condition: 0.75 * sigma * noisy)
    figures = score_figures(world, clips, batch=2, seed=3)
    for name in EXACT:  # three quarters of the score leave a sixteenth of it unexplained
        assert figures["explained"][name]["mean"] == pytest.approx(1 - 1 / 16, abs=1e-6)
    frames = torch.from_numpy(clips.frames)
    noisy = world.noisy_latents(frames, [clip_noise(3, number) for number in range(2)])[:, 4]
    clean = world.codec.encode_frames(frames)[:, 4]
    expected = {
        "noisy": noisy,
        "denoiser": noisy * (1 - 0.75 * sigma**2),
        EXACT[0]: noisy * (1 - sigma**2),
        EXACT[1]: noisy * (1 - sigma**2),
    }
    for name, estimate in expected.items():
        error = (estimate - clean).square().mean().item()
        assert figures["squared_error"][name]["mean"] == pytest.approx(error, rel=1e-5)
    assert figures["clamped"] == 0.0


def test_scores_are_clamped_as_in_training() -> None:
    world = identity_world()
    sigma = world.config.sigma
    with torch.no_grad():  # z = y~ / scale, hence the score is sigma * y~ / scale^2
        world.flow.global_block.head.projection.bias[world.channels :] = -2.0
    head = world.flow.global_block.head(torch.zeros(world.flow.global_block.head.norm.weight.shape))
    scale = torch.exp(head.log_scale)
    world.denoiser = Known(
        lambda noisy, condition: (sigma * noisy / scale**2).clamp(-SCORE_LIMIT, SCORE_LIMIT)
    )
    figures = score_figures(world, real([4]), batch=1, seed=0)
    assert 0.0 < figures["clamped"] < 1.0
    assert figures["explained"][EXACT[0]]["mean"] == pytest.approx(1.0, abs=1e-6)


def test_predicting_nothing_explains_nothing() -> None:
    world = tiny_world(frame_size=SIZE)
    world.denoiser = Known(lambda noisy, condition: torch.zeros_like(noisy))
    figures = score_figures(world, real([4, 7]), batch=2, seed=0)
    assert [figures["explained"][name]["mean"] for name in EXACT] == [0.0, 0.0]
    assert figures["squared_error"]["denoiser"] == figures["squared_error"]["noisy"]
    assert not any(parameter.requires_grad for parameter in world.parameters())


def test_figures_depend_neither_on_the_batch_nor_on_frames_after_the_end() -> None:
    world, clips = tiny_world(frame_size=SIZE), real([5, 2, 33])
    together = score_figures(world, clips, batch=8, seed=0)
    clips.frames[~clips.valid] = 255
    clips.actions[~clips.valid] = 2
    alone = score_figures(world, clips, batch=1, seed=0)
    for group in ("explained", "squared_error"):
        for name, estimate in together[group].items():
            assert estimate == pytest.approx(alone[group][name], rel=1e-4)


def test_clips_are_cut_into_equal_pieces() -> None:
    clips = replace(real([2, 20, 45]), text=np.eye(3, dtype=np.float32))
    pieces, owners = cut(clips)
    assert owners.tolist() == [0, 1, 2, 2, 2]
    assert pieces.valid.sum(axis=1).tolist() == [2, 20, 15, 15, 15]
    np.testing.assert_array_equal(pieces.frames[3, :15], clips.frames[2, 15:30])
    np.testing.assert_array_equal(pieces.actions[4, :15], clips.actions[2, 30:45])
    assert pieces.text is not None and pieces.text.argmax(axis=1).tolist() == [0, 1, 2, 2, 2]


def test_the_interval_of_a_share_is_that_of_the_ratio() -> None:
    rng = np.random.default_rng(0)
    power = rng.uniform(1.0, 3.0, 200)
    missed = 0.3 * power + 0.1 * rng.standard_normal(200)
    share = explained(missed, power)
    assert share.mean == pytest.approx(1.0 - missed.sum() / power.sum())
    picks = rng.integers(200, size=(4000, 200))
    ratios = 1.0 - missed[picks].sum(axis=1) / power[picks].sum(axis=1)
    np.testing.assert_allclose(
        [share.low, share.high], np.quantile(ratios, [0.025, 0.975]), atol=2e-3
    )
