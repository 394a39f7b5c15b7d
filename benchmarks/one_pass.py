"""The floor under a step: every part of the world once, without sampler, env or scoring."""

from __future__ import annotations

from collections.abc import Callable

import torch
from dream import Dream
from torch import Tensor

from worldflow.denoiser import tweedie
from worldflow.world_model import WorldModel


def one_pass(world: WorldModel, rows: int, seed: int) -> Callable[[], Tensor]:
    """A function that runs one pass of each block, denoiser, heads and decoder on full windows.

    Returns:
        the function; it returns frames (rows, H, W, 3) uint8 and leaves the dream as it is.
    """
    dream = Dream(world, rows, seed)
    for _ in range(world.config.flow.window):
        dream.step()
    state, flow = dream.state, world.flow
    blocks = tuple(flow.local_blocks)
    with torch.inference_mode():
        condition = world.conditioning.embed(dream.action())
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(state.latents.shape, generator=generator)

    @torch.inference_mode()
    def run() -> Tensor:
        # what this writes into the cache's current slot, the next call writes again
        past, (*affines, affine) = state.flow, state.flow.affines
        known = flow.global_block.read_past(past.hidden, condition, past.cache)
        chance = flow.draw_chance(generator, noise)
        chances = () if chance is None else (chance,)
        x = flow.global_block.affine(affine.to_data(noise), known, *chances).to_data(noise)
        for block, affine in zip(reversed(blocks), reversed(affines), strict=True):
            x = block(affine.to_data(x)).to_data(x)
        score, features, _ = world.denoiser.step(x, condition, state.denoiser)
        if world.reward_head is not None:
            world.reward_head.mean(world.reward_head(features))
        if (head := world.termination_head) is not None:
            head.probability(head.step(state.episode, features, known, x, condition)[0])
        return world.codec.decode_frames(tweedie(x, score, world.config.sigma))

    return run
