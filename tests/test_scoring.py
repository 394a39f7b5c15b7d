"""What novelty is made of: closed forms, live scoring against clips, episodes, a blurred frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from worldflow.errors import DataError
from worldflow.novelty import prediction_entropy
from worldflow.randomness import fixed
from worldflow.scoring import LiveScorer, episode_scores, token_detail
from worldflow.testing import tiny_world
from worldflow.text.encoder import embed, encoder_of


def video(length: int = 6, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    frames = torch.randint(
        0, 256, (rows, length, 64, 64, 3), dtype=torch.uint8, generator=generator
    )
    return frames, torch.randint(3, (rows, length), generator=generator)


def test_statistics_have_their_closed_forms() -> None:
    world = tiny_world().double()
    frames, actions = video()
    scores = world.score(frames, actions)
    noisy = world.noisy_latents(frames, fixed(3))
    z = world.flow(noisy, world.conditioning(actions)).noise
    energy, correlation, detail = scores.token_statistics.unbind(-1)
    torch.testing.assert_close(energy, z.square().mean(-1))
    torch.testing.assert_close(correlation[:, 1:], (z[:, 1:] * z[:, :-1]).mean(-1))
    assert not correlation[:, 0].any()
    latents = world.codec.encode_frames(frames)
    torch.testing.assert_close(detail, token_detail(world, frames, latents).double())
    # log p, uncertainty and energy hang together
    dimensions = world.dimensions
    excess = 0.5 * dimensions * (1.0 - scores.statistics[..., 0])
    torch.testing.assert_close(scores.log_likelihood, excess - scores.uncertainty)
    torch.testing.assert_close(scores.token_uncertainty.sum(-1), scores.uncertainty)


def test_a_dream_is_judged_by_its_uncertainty() -> None:
    world = tiny_world()
    frames, actions = (torch.from_numpy(a) for a in (world.context.frames, world.context.actions))
    state = world.initial_state(frames, actions)
    for temperature in (1.0, 3.0):
        _, made = world.step(state, actions[:, 0], torch.Generator().manual_seed(0), temperature)
        torch.testing.assert_close(made.token_statistics[..., 0], made.token_uncertainty)
        torch.testing.assert_close(made.token_uncertainty.sum(-1), made.uncertainty)
        table = world.calibration.require("dreamed").windows[1]
        torch.testing.assert_close(made.novelty, table.novelty(made.statistics))
    identity = prediction_entropy(torch.zeros(()), world.channels)
    assert made.token_uncertainty.shape == (5, 16) and identity > 0


def test_live_scores_are_those_of_the_clip() -> None:
    world = tiny_world().double()
    frames, actions = video()
    whole = world.score(frames, actions)
    generators, scorer = fixed(3), LiveScorer(world, 3)
    # the clip's noise is drawn in one go, frame after frame: the same numbers as one by one
    scorer.reset(torch.ones(3, dtype=torch.bool), frames[:, 0], generators)
    for t in range(1, 6):
        scores = scorer.step(frames[:, t], actions[:, t], generators)
        for name in ("log_likelihood", "uncertainty", "novelty", "token_statistics"):
            torch.testing.assert_close(getattr(scores, name), getattr(whole, name)[:, t])


def test_live_scores_under_a_text_are_those_of_the_clip_under_it() -> None:
    world = tiny_world(captions=("left", "right")).double()
    frames, actions = video()
    text = embed(encoder_of(world.spec.text), ["left", "right", "left"])
    plain, whole = (world.score(frames, actions, text=t).log_likelihood for t in (None, text))
    generators, scorer = fixed(3), LiveScorer(world, 3, text)
    scorer.reset(torch.ones(3, dtype=torch.bool), frames[:, 0], generators)
    for t in range(1, 6):
        found = scorer.step(frames[:, t], actions[:, t], generators).log_likelihood
        torch.testing.assert_close(found, whole[:, t])
        assert not torch.isclose(found, plain[:, t]).any()
    with pytest.raises(DataError, match="text has shape"):
        LiveScorer(world, 2, text)


def test_a_reset_row_starts_anew_and_the_others_keep_every_bit() -> None:
    world = tiny_world()
    frames, actions = video()
    everyone, second = torch.ones(3, dtype=torch.bool), torch.tensor([False, True, False])
    scorers = [LiveScorer(world, 3) for _ in range(2)]
    for scorer in scorers:
        scorer.reset(everyone, frames[:, 0], fixed(3))
        scorer.step(frames[:, 1], actions[:, 1], fixed(3))
    scorers[0].reset(second, frames[:, 0], [None, *fixed(1), None])
    a, b = (s.step(frames[:, 1], actions[:, 1], fixed(3)).log_likelihood for s in scorers)
    assert torch.equal(a[[0, 2]], b[[0, 2]]) and a[1] != b[1]
    fresh = LiveScorer(world, 3)
    fresh.reset(everyone, frames[:, 0], fixed(3))
    assert fresh.step(frames[:, 1], actions[:, 1], fixed(3)).log_likelihood[1] == a[1]


def test_detail_falls_where_a_frame_is_blurred() -> None:
    world = tiny_world()
    sharp = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    half = sharp.copy()
    half[:32] = cv2.GaussianBlur(sharp, (0, 0), 2)[:32]
    frames = torch.from_numpy(np.stack([sharp, half]))
    # the same latents: what the codec shows does not tell the two apart
    latents = world.codec.encode_frames(frames[:1]).expand(2, -1, -1)
    change = (lambda d: (d[1] - d[0]).reshape(4, 4))(token_detail(world, frames, latents))
    assert (change[0] < -2.0).all() and (change[3] == 0).all()


def test_scores_of_episodes() -> None:
    world = tiny_world()
    scores = world.score(*video())
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[0, 4:] = False
    whole, part = episode_scores(scores), episode_scores(scores, valid)
    torch.testing.assert_close(whole.log_likelihood, scores.log_likelihood.sum(1))
    torch.testing.assert_close(part.log_likelihood[0], scores.log_likelihood[0, :4].sum())
    torch.testing.assert_close(part.novelty[0], scores.novelty[0, :4].mean())
    assert part.peak_novelty[0] == scores.novelty[0, :4].max()
    assert torch.equal(part.novelty[1:], whole.novelty[1:])
    with pytest.raises(ValueError, match="no valid frame"):
        episode_scores(scores, torch.zeros_like(valid))
