"""A small random world, for tests of what is built on worlds."""

from __future__ import annotations

import numpy as np
import torch

from worldflow.actions import ActionSpec
from worldflow.calibration import Calibration
from worldflow.codec import CodecConfig
from worldflow.denoiser import DenoiserConfig
from worldflow.flow.block import GlobalConfig
from worldflow.flow.flow import FlowConfig
from worldflow.flow.transformer import TransformerConfig
from worldflow.heads.config import HeadsConfig
from worldflow.novelty import SEEN
from worldflow.text.spec import TextSpec
from worldflow.text.words import WordEncoder
from worldflow.world_model import WorldModel
from worldflow.world_spec import Contexts, HeldOut, WorldConfig, WorldSpec


def tiny_config(context: int = 2) -> WorldConfig:
    """The smallest sensible world: a fast test, not a good model."""
    return WorldConfig(
        context=context,
        condition=8,
        codec=CodecConfig(channels=2, widths=[8, 8, 8, 8]),
        flow=FlowConfig(
            window=3,
            local_blocks=2,
            local=TransformerConfig(8, 1, 2),
            global_block=GlobalConfig(TransformerConfig(16, 1, 2), TransformerConfig(8, 1, 2)),
        ),
        denoiser=DenoiserConfig(window=2, transformer=TransformerConfig(16, 1, 2)),
        heads=HeadsConfig(hidden=8),
    )


def randomize(module: torch.nn.Module, seed: int, scale: float = 0.3) -> None:
    """Replace zero-initialised parameters by small random ones: a new flow is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def tiny_world(
    action_spec: ActionSpec | None = None,
    frame_size: int = 64,
    seed: int = 0,
    config: WorldConfig | None = None,
    captions: tuple[str, ...] = (),
) -> WorldModel:
    """A world of random weights with both heads, contexts and a calibration, in eval mode.

    Args:
        action_spec: three discrete actions if None.
        frame_size: height and width.
        seed: of the weights and contexts.
        config: `tiny_config()` if None.
        captions: that it knows, encoded by "words"; none: it knows no text.
    """
    text = TextSpec("words", WordEncoder.digest, WordEncoder.width, captions) if captions else None
    action_spec = action_spec or ActionSpec("discrete", n=3)
    config = config or tiny_config()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        spec = WorldSpec(
            action_spec=action_spec,
            frame_shape=(frame_size, frame_size, 3),
            fps=8.0,
            source={"env_id": "worldflow/Catch-v0"},
            reward_range=(-1.0, 1.0),
            held_out=HeldOut(0.1, 0, 10),
            text=text,
        )
        world = WorldModel(config, spec)
    randomize(world, seed)
    rng = np.random.default_rng(seed)
    actions = np.zeros((5, config.context, *action_spec.shape), action_spec.dtype)
    frames = rng.integers(0, 256, (5, config.context, *spec.frame_shape), dtype=np.uint8)
    world.complete(_calibration(world, seed), Contexts(frames, actions))
    return world.eval().requires_grad_(False)


def _calibration(world: WorldModel, seed: int) -> Calibration:
    """Of made-up statistics: white noise, and uncertainties around a standard normal's entropy."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(200, world.tokens, len(SEEN), generator=generator)
    seen = torch.tensor([1.0, 0.0, 0.0]) + white / world.channels**0.5
    entropy = world.channels * (1.4 + 0.1 * torch.randn(200, world.tokens, 1, generator=generator))
    return Calibration.fit(-entropy.sum(dim=(1, 2)), [seen], [entropy])
