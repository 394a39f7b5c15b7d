"""How a world takes in real frames and dreams new ones; `WorldModel` has it as methods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from worldflow.denoiser import tweedie
from worldflow.flow.cache import WindowCache
from worldflow.flow.guidance import Guidance, Unconditional
from worldflow.flow.state import FlowOutput, FlowSample, FlowState
from worldflow.randomness import Generators, normal, uniform
from worldflow.scoring import dreamed_scores
from worldflow.world_state import Prediction, WorldState

if TYPE_CHECKING:
    from worldflow.world_model import WorldModel


def observe_frames(
    world: WorldModel,
    frames: Tensor,
    actions: Tensor,
    generator: Generators,
    known: Tensor | None,
    text: Tensor | None,
    guidance: Guidance | None,
) -> WorldState:
    """See `WorldModel.initial_state`."""
    batch, conditioning, sigma = len(frames), world.conditioning, world.config.sigma
    guidance = conditioning.check_guidance(guidance)
    text = conditioning.texts(batch, text)
    noisy = world.noisy_latents(frames, generator)
    condition = conditioning(actions, known, text)
    other = conditioning.without(actions, known, text, guidance)
    flow = world.flow.empty_state(batch, guidance.active)
    cache, head = world.denoiser.empty_cache(batch), world.termination_head
    memory = None if head is None else head.begin(noisy[:, 0])
    for t in range(frames.shape[1]):
        away = None if other is None else Unconditional(other[:, t], guidance.weight)
        seen = noisy[:, t], condition[:, t]
        flow, out = world.flow.observe(flow, *seen, away)
        score, features, cache = world.denoiser.step(*seen, cache)
        if memory is not None and head is not None:
            _, memory = head.step(memory, features, out.features, *seen)
    latents = tweedie(noisy[:, -1], score, sigma)
    return WorldState(flow, cache, latents, text, guidance, memory)


def dream_first(
    world: WorldModel,
    batch: int,
    generator: Generators,
    temperature: float,
    text: Tensor | None,
    guidance: Guidance | None,
) -> tuple[WorldState, Prediction]:
    """See `WorldModel.first_frame`."""
    guidance = world.conditioning.check_guidance(guidance)
    text = world.conditioning.texts(batch, text)
    flow = world.flow.empty_state(batch, guidance.active)
    nothing, cache, head = flow.hidden, world.denoiser.empty_cache(batch), world.termination_head
    memory = None if head is None else head.begin(nothing)
    state = WorldState(flow, cache, nothing, text, guidance, memory)
    # no action led to it: something of the shape of actions, which are not known
    spec, device = world.action_spec, nothing.device
    action = torch.from_numpy(np.zeros((batch, *spec.shape), spec.dtype)).to(device)
    unknown = torch.zeros(batch, dtype=torch.bool, device=device)
    state, prediction = dream_frame(world, state, action, generator, temperature, unknown)
    return state, replace(prediction, reward=None, terminated=None, termination_probability=None)


@dataclass(frozen=True)
class DrawnFrame:
    """The next frame of B rows.

    Attributes:
        latents: denoised, (B, N, C).
        flow: the flow's state with the noisy sample as its last frame.
        denoiser: the denoiser's cache with it.
        scored: the flow's likelihood of the sample.
        sample: how it was made.
        features: of the denoiser, (B, N, width).
    """

    latents: Tensor
    flow: FlowState
    denoiser: WindowCache
    scored: FlowOutput
    sample: FlowSample
    features: Tensor


def draw_frame(
    world: WorldModel,
    flow: FlowState,
    denoiser: WindowCache,
    condition: Tensor,
    generator: Generators,
    temperature: float,
    guidance: Unconditional | None = None,
) -> DrawnFrame:
    """Draw the next frame of B rows; what it came after is not changed.

    Args:
        world: in eval mode.
        flow: what the flow has seen.
        denoiser: what the denoiser has seen.
        condition: of the frame, (B, D).
        generator: of its noise: one for the batch, or one a row.
        temperature: factor on the noise.
        guidance: None: none.
    """
    z = temperature * normal(generator, len(condition), flow.hidden.shape[1:], like=flow.hidden)
    chance = world.flow.draw_chance(generator, z)
    after, scored, sample = world.flow.step(flow, z, condition, guidance=guidance, chance=chance)
    score, features, cache = world.denoiser.step(sample.noisy, condition, denoiser)
    latents = tweedie(sample.noisy, score, world.config.sigma)
    return DrawnFrame(latents, after, cache, scored, sample, features)


def dream_frame(
    world: WorldModel,
    state: WorldState,
    action: Tensor,
    generator: Generators,
    temperature: float,
    known: Tensor | None,
) -> tuple[WorldState, Prediction]:
    """See `WorldModel.step`."""
    batch, conditioning = len(state), world.conditioning
    condition = conditioning.embed(action, known, state.text)
    other = conditioning.without(action, known, state.text, state.guidance)
    away = None if other is None else Unconditional(other, state.guidance.weight)
    drawn = draw_frame(world, state.flow, state.denoiser, condition, generator, temperature, away)
    features, sample = drawn.features, drawn.sample
    reward = terminated = probability = memory = None
    if world.reward_head is not None:
        reward = world.reward_head.mean(world.reward_head(features))
    if (head := world.termination_head) is not None:
        ends, memory = head.step(
            state.episode, features, drawn.scored.features, sample.noisy, condition
        )
        probability = head.probability(ends)
        terminated = uniform(generator, batch, like=probability) < probability
    prediction = Prediction(
        **vars(dreamed_scores(world, drawn.scored)),
        latents=drawn.latents,
        decode=world.decode,
        reward=reward,
        terminated=terminated,
        termination_probability=probability,
        jacobi_iterations=sample.passes,
        sequential_fallbacks=sample.fallbacks,
    )
    # of its own, as `WorldState.assign` writes in place
    text = None if state.text is None else state.text.clone()
    after = WorldState(drawn.flow, drawn.denoiser, drawn.latents, text, state.guidance, memory)
    return after, prediction
