"""What a world of given sizes takes to train: bytes and operations, by formulas.

What one layer keeps for the backward pass was measured on single layers of widths 192 and 512, in
bytes for each token and feature (times tokens, times width). S is the number of tokens that attend
to each other, of a clip or within a frame.

    precision   over frames, modulated     within a frame      checkpointed
    fp32        88                         64                  20; 4
    bf16        52 + pairs                 36 + pairs          12; 4

    pairs       2 heads S / width for at most 512 tokens, whose attention is made of products; for
                more the mask alone, 2 S / width where it spans frames

Layers that are not checkpointed keep 16 bytes of every token beside that, the statistics of norms,
and where attention is not made of products 4 for each head, those of softmax. A stack of layers
keeps 8 bytes of each token and feature at its ends. Under bf16 autocast the weights that are
multiplied are kept once more, in 2 bytes each. The terms beside the table were chosen after
comparing with whole worlds (`catch`, `small`).
`benchmarks/presets.py` measures how far that holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from worldflow.actions import ActionSpec
from worldflow.flow.attention import MOST_KEYS
from worldflow.flow.transformer import TransformerConfig
from worldflow.training.engine import EngineConfig
from worldflow.training.layers import transformer_layers
from worldflow.world_model import WorldModel
from worldflow.world_spec import HeldOut, WorldConfig, WorldSpec

ACTIONS = ActionSpec("discrete", n=4)
# bytes a token and feature that a layer keeps: (precision, modulated)
KEPT = {("fp32", True): 88, ("fp32", False): 64, ("bf16", True): 52, ("bf16", False): 36}
CHECKPOINTED = {("fp32", True): 20, ("fp32", False): 4, ("bf16", True): 12, ("bf16", False): 4}
BACKWARD = 32  # and what the backward pass of a layer has at once beside that
ENDS = 8


def with_both_heads(config: WorldConfig) -> WorldConfig:
    """The larger of the worlds that a preset may become."""
    return replace(config, heads=replace(config.heads, reward=True, termination=True))


def meta_world(config: WorldConfig, frame_size: int) -> WorldModel:
    """A world that has shapes and no memory."""
    shape = (frame_size, frame_size, 3)
    spec = WorldSpec(ACTIONS, shape, 8.0, {}, (0.0, 1.0), HeldOut(0.1, 0, 10))
    with torch.device("meta"):
        return WorldModel(with_both_heads(config), spec)


def count(*modules: nn.Module | None) -> int:
    """Parameters."""
    return sum(p.numel() for module in modules if module is not None for p in module.parameters())


def parameters_by_part(world: WorldModel) -> dict[str, int]:
    """Of each part of a world."""
    return {
        "codec": count(world.codec),
        "conditioning": count(world.conditioning),
        "local_blocks": count(world.flow.local_blocks),
        "global_block": count(world.flow.global_block),
        "denoiser": count(world.denoiser),
        "heads": count(world.reward_head, world.termination_head),
    }


class Stack(NamedTuple):
    """Equal transformer layers: of which size, and whether attention spans the frames of a clip."""

    size: TransformerConfig
    over_frames: bool


def flow_stacks(config: WorldConfig) -> list[Stack]:
    """The layers that the NLL goes through."""
    flow = config.flow
    local = [Stack(flow.local, False)] * flow.local_blocks
    return [*local, Stack(flow.global_block.past, True), Stack(flow.global_block.within, False)]


def denoiser_stacks(config: WorldConfig) -> list[Stack]:
    """The layers that the denoiser's loss goes through."""
    return [Stack(config.denoiser.transformer, True)]


def stack_bytes(stack: Stack, tokens: int, clip: int, engine: EngineConfig) -> float:
    """What a stack keeps of one clip for the backward pass.

    Args:
        stack: of layers.
        tokens: N, of a frame.
        clip: frames.
        engine: precision and activation checkpointing.
    """
    length, width = tokens * clip, stack.size.width
    kind = engine.precision, stack.over_frames
    if engine.activation_checkpointing:
        layer = CHECKPOINTED[kind] * length * width
    else:
        layer = (KEPT[kind] * width + 16 + _attention_bytes(stack, tokens, clip, engine)) * length
    return stack.size.depth * layer + ENDS * length * width


def _attention_bytes(stack: Stack, tokens: int, clip: int, engine: EngineConfig) -> int:
    """Of a token, beside queries, keys and values."""
    seen, heads = tokens * clip if stack.over_frames else tokens, stack.size.heads
    if engine.precision != "bf16":
        return 4 * heads
    if seen <= MOST_KEYS:
        return 2 * heads * seen
    return 4 * heads + (2 * seen if stack.over_frames else 0)


def transient_bytes(stack: Stack, tokens: int, clip: int, engine: EngineConfig) -> float:
    """What the backward pass of one layer of a stack has at once, beside what is kept."""
    length = tokens * clip
    again = 0.0
    if engine.activation_checkpointing:
        again = KEPT[engine.precision, stack.over_frames] * length * stack.size.width
    return again + BACKWARD * length * stack.size.width


def activation_bytes(config: WorldConfig, tokens: int, clip: int, engine: EngineConfig) -> float:
    """Most bytes at once of one clip's activations: in the flow's passes or the denoiser's.

    They come one after the other, see `worldflow.training.flow_gradients`.
    """
    passes = []
    for stacks in (flow_stacks(config), denoiser_stacks(config)):
        kept = sum(stack_bytes(stack, tokens, clip, engine) for stack in stacks)
        passes.append(kept + max(transient_bytes(s, tokens, clip, engine) for s in stacks))
    return max(passes) + 4 * (tokens * clip) ** 2  # and the mask itself


def copy_bytes(world: WorldModel, engine: EngineConfig) -> int:
    """The weights of the larger of both passes once more, under bf16 autocast."""
    if engine.precision != "bf16":
        return 0
    return 2 * max(count(world.flow), count(world.denoiser))


def pass_bytes(world: WorldModel, clip: int, engine: EngineConfig) -> float:
    """Most bytes at once of forward and backward passes of one clip, beside weights and gradients.

    In small worlds that is not an activation, but the gradient of the largest weight on its way
    to those of the pieces before.
    """
    activations = activation_bytes(world.config, world.tokens, clip, engine)
    largest = 4 * max(p.numel() for p in world.flow.parameters())
    return max(copy_bytes(world, engine) + activations, largest)


@dataclass(frozen=True)
class StateBytes:
    """What stays from update to update, in bytes.

    Attributes:
        weights: of the whole world, in float32.
        gradients: of all but the codec, which is frozen in the flow's stage.
        moments: both of AdamW.
        average: of the weights, if there is one, and on the main rank the copy that is measured.
    """

    weights: float
    gradients: float
    moments: float
    average: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.moments + self.average


def state_bytes(world: WorldModel, engine: EngineConfig) -> StateBytes:
    """Of one process without sharding."""
    everything, codec = count(world), count(world.codec)
    trained = everything - codec
    average = 4 * (trained + everything) if engine.ema else 0
    return StateBytes(4 * everything, 4 * trained, 8 * trained, average)


def sharded_bytes(world: WorldModel, engine: EngineConfig, ranks: int) -> float:
    """Of a rank under FSDP2; the main one has a copy of the whole world beside it, to measure.

    A rank holds its share of weights, gradients, moments and average, the codec, and what is
    gathered: the module at work without its layers, and of these two at a time, with gradients.
    """
    codec = count(world.codec)
    trained = count(world) - codec
    share = (16 + (4 if engine.ema else 0)) * trained / ranks
    gathered = 0
    for module in (world.flow, world.denoiser):
        layers = [count(layer) for layer in transformer_layers(module)]
        gathered = max(gathered, 8 * (count(module) - sum(layers) + 2 * max(layers)))
    return share + 4 * codec + gathered


def update_flop(config: WorldConfig, tokens: int, clip: int, engine: EngineConfig) -> float:
    """Multiplications and additions of an update of one clip, in its transformer layers and heads.

    A backward pass takes twice its forward pass; activation checkpointing makes the latter twice.
    """
    forward = sum(
        _forward_flop(stack, tokens, clip)
        for stack in (*flow_stacks(config), *denoiser_stacks(config))
    )
    heads = 2 * 2 * clip * tokens * config.denoiser.transformer.width * config.heads.hidden
    return forward * (4 if engine.activation_checkpointing else 3) + 3 * heads


def _forward_flop(stack: Stack, tokens: int, clip: int) -> float:
    width, length = stack.size.width, tokens * clip
    seen = length if stack.over_frames else tokens  # masked keys are multiplied too
    return stack.size.depth * length * (2 * 12 * width**2 + 4 * seen * width)


def engines() -> list[EngineConfig]:
    """Both precisions, without and with activation checkpointing; the plain one is the first."""
    return [
        EngineConfig(precision, activation_checkpointing=checkpointing)
        for precision in ("fp32", "bf16")
        for checkpointing in (False, True)
    ]
