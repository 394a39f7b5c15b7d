"""Whole videos against stepping, scoring and whole clips."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worldflow.errors import ConfigError, DataError
from worldflow.flow.guidance import Guidance
from worldflow.generation.dreaming import Request, dream_video
from worldflow.testing import randomize, tiny_config, tiny_world
from worldflow.text.encoder import embed, encoder_of
from worldflow.world_model import WorldModel

CAPTIONS = ("the ball falls left", "the ball falls right")
LENGTH = 9  # longer than any window


def request(world: WorldModel, given: int, rows: int = 2, **changes: object) -> Request:
    generator = torch.Generator().manual_seed(5)
    frames = torch.randint(0, 256, (rows, given, *world.frame_shape), generator=generator)
    actions = torch.randint(0, 3, (rows, LENGTH), generator=generator)
    known = torch.ones(rows, LENGTH, dtype=torch.bool)
    text = None
    if world.spec.text is not None:
        text = embed(encoder_of(world.spec.text), CAPTIONS[:rows])
    plain = Request(frames.to(torch.uint8), actions, known, text, Guidance(), 1.0)
    return replace(plain, **changes)  # type: ignore[arg-type]


def seeds(rows: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(rows)]


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(1.5, "text"), Guidance(1.0, "both")])
@pytest.mark.parametrize("given", [0, 3])
def test_a_video_is_what_stepping_dreams(given: int, guidance: Guidance) -> None:
    world = tiny_world(captions=CAPTIONS).double()
    world.termination_head = None  # which draws between two frames
    wanted = request(world, given, guidance=guidance)
    whole = dream_video(world, wanted, seeds())
    noise = seeds()
    shown, likelihoods = [], []
    if given:
        # the noise of one frame after another, as a video draws it
        state = world.initial_state(
            wanted.frames, wanted.actions[:, :given], noise, text=wanted.text, guidance=guidance
        )
    else:
        state, prediction = world.first_frame(2, noise, text=wanted.text, guidance=guidance)
        shown.append(prediction.frame)
        likelihoods.append(prediction.log_likelihood)
    for t in range(max(given, 1), LENGTH):
        state, prediction = world.step(state, wanted.actions[:, t], noise)
        shown.append(prediction.frame)
        likelihoods.append(prediction.log_likelihood)
    off_by = whole.frames[:, given:].int() - torch.stack(shown, 1).int()
    assert off_by.abs().max() <= 1  # rounding of conditions, made together or one by one
    expected = torch.stack(likelihoods, 1)
    torch.testing.assert_close(whole.log_likelihood[:, given:], expected, atol=1e-6, rtol=0)
    if given:
        assert torch.equal(whole.frames[:, :given], world.reconstruct(wanted.frames))
        scored = world.log_prob(wanted.frames, wanted.actions[:, :given], seeds(), text=wanted.text)
        torch.testing.assert_close(whole.log_likelihood[:, :given], scored, atol=1e-6, rtol=0)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_streaming_is_denoising_whole_clips(lookahead: int) -> None:
    config = tiny_config()
    config.denoiser.lookahead = lookahead
    denoiser = tiny_world(config=config).denoiser.double()
    randomize(denoiser, 1)
    noisy = torch.randn(2, LENGTH, 16, 2, dtype=torch.float64)
    condition = torch.randn(2, LENGTH, 8, dtype=torch.float64)
    expected = noisy - 0.3 * denoiser(noisy, condition)[0]
    found = torch.stack(list(denoiser.stream(list(noisy.unbind(1)), condition, 0.3)), 1)
    torch.testing.assert_close(found, expected)


def test_worlds_that_look_ahead_generate_though_they_cannot_step() -> None:
    config = tiny_config()
    config.denoiser.lookahead = 1
    world = tiny_world(config=config)
    video = dream_video(world, request(world, 0), seeds())
    assert video.frames.shape == (2, LENGTH, 64, 64, 3)
    with pytest.raises(ConfigError, match="cannot step"):
        world.first_frame(2, seeds())


def test_unknown_actions_do_not_count() -> None:
    world = tiny_world()
    known = torch.zeros(2, LENGTH, dtype=torch.bool)
    one = dream_video(world, request(world, 1, known=known), seeds())
    other = (request(world, 1).actions + 1) % 3
    two = dream_video(world, request(world, 1, known=known, actions=other), seeds())
    assert torch.equal(one.frames, two.frames)
    three = dream_video(world, request(world, 1), seeds())
    assert not torch.equal(one.log_likelihood, three.log_likelihood)


def test_cold_dreams_do_not_depend_on_the_seed() -> None:
    world = tiny_world()
    cold = request(world, 0, temperature=0.0)
    one, two = (dream_video(world, cold, noise) for noise in (seeds(), seeds()[::-1]))
    assert torch.equal(one.frames, two.frames)
    warm = dream_video(world, request(world, 0), seeds())
    assert not torch.equal(one.frames, warm.frames)


def test_what_lies_beyond_the_reach_changes_nothing() -> None:
    config = tiny_config()
    config.flow.global_block.past.depth = 2
    config.denoiser.transformer.depth = 3
    config.flow.sampler.method = "sequential"  # Jacobi starts from the last frame's map
    world = tiny_world(config=config).double()
    reach = world.config.reach
    assert reach == 2 * (3 - 1) + 1  # the denoiser's is 3 * (2 - 1) + 1
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (1, reach + 4, 64, 64, 3), generator=generator)
    frames, actions = frames.to(torch.uint8), torch.zeros(1, reach + 4).long()
    noise = world.noisy_latents(frames, generator)

    def dream(first: int) -> torch.Tensor:
        world.noisy_latents = lambda *_: noise[:, first:]  # type: ignore[method-assign]
        unknown = torch.zeros(1, reach + 4 - first, dtype=torch.bool)
        state = world.initial_state(frames[:, first:], actions[:, first:], known=unknown)
        return world.step(state, torch.tensor([1]), torch.Generator().manual_seed(1))[1].latents

    whole = dream(0)
    torch.testing.assert_close(dream(4), whole)
    assert not torch.allclose(dream(5), whole)


def test_more_given_than_wanted_is_refused() -> None:
    world = tiny_world()
    with pytest.raises(DataError, match="9 frames are given and 9 wanted"):
        dream_video(world, request(world, LENGTH), seeds())
