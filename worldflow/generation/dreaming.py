"""A whole video dreamed at once, also by worlds whose denoiser looks ahead.

The flow makes noisy frames one after another, which is all that it is fed; they are denoised
afterwards, when the frame behind each is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from worldflow.errors import DataError
from worldflow.flow.guidance import Guidance, Unconditional
from worldflow.novelty import bits_per_dim
from worldflow.randomness import Generators, normal
from worldflow.world_model import WorldModel


@dataclass(frozen=True)
class Request:
    """What B videos of T frames shall be.

    Attributes:
        frames: the first K frames, (B, K, H, W, 3) uint8; K may be 0.
        actions: `actions[:, t]` leads to frame t, (B, T, ...).
        known: which of them are given, (B, T) bool; the first frame has none.
        text: (B, E), see `worldflow.text.encoder.embed`; None: nothing is said.
        guidance: of the frames that are made.
        temperature: factor on their noise.
    """

    frames: Tensor
    actions: Tensor
    known: Tensor
    text: Tensor | None
    guidance: Guidance
    temperature: float


@dataclass(frozen=True)
class DreamedVideo:
    """B videos.

    Attributes:
        frames: (B, T, H, W, 3) uint8; given ones are shown as the codec renders them.
        log_likelihood: of each frame under past, actions and text, (B, T) nats, exact; of given
            frames too, and of all without guidance.
        bits_per_dim: the same in bits a latent.
    """

    frames: Tensor
    log_likelihood: Tensor
    bits_per_dim: Tensor


@torch.inference_mode()
def dream_video(
    world: WorldModel, request: Request, generator: Generators, progress: bool = False
) -> DreamedVideo:
    """Dream the frames after the given ones.

    Args:
        world: in eval mode.
        request: what is wanted.
        generator: of the noise of each row.
        progress: show a progress bar.

    Raises:
        DataError: more frames are given than wanted, or frames, actions or text do not fit.
        ConfigError: guidance over what the world does not know.
    """
    batch, length = request.known.shape
    given = request.frames.shape[1]
    if length <= given:
        raise DataError(f"{given} frames are given and {length} wanted; ask for a longer video")
    conditioning = world.conditioning
    guidance = conditioning.check_guidance(request.guidance)
    text = conditioning.texts(batch, request.text)
    condition = conditioning(request.actions, request.known, text)
    other = conditioning.without(request.actions, request.known, text, guidance)
    state = world.flow.empty_state(batch, guidance.active)
    latents = world.codec.encode_frames(request.frames) if given else None
    noisy, likelihoods = [], []
    for t in tqdm(range(length), desc="dream", unit="frame", disable=not progress):
        noise = normal(generator, batch, state.hidden.shape[1:], like=state.hidden)
        away = None if other is None else Unconditional(other[:, t], guidance.weight)
        if latents is not None and t < given:
            frame = latents[:, t] + world.config.sigma * noise
            state, scored = world.flow.observe(state, frame, condition[:, t], away)
        else:
            noise = request.temperature * noise
            chance = world.flow.draw_chance(generator, noise)
            state, scored, sample = world.flow.step(
                state, noise, condition[:, t], guidance=away, chance=chance
            )
            frame = sample.noisy
        noisy.append(frame)
        likelihoods.append(scored.log_prob)
    shown = [world.decode(y) for y in world.denoiser.stream(noisy, condition, world.config.sigma)]
    if given:
        shown[:given] = world.reconstruct(request.frames).unbind(1)
    log_likelihood = torch.stack(likelihoods, dim=1)
    bits = bits_per_dim(log_likelihood, world.dimensions)
    return DreamedVideo(torch.stack(shown, dim=1), log_likelihood, bits)
