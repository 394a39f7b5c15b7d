"""The parts of a step, compiled: fixed shapes, so one graph for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from worldflow.world_model import WorldModel


def compile_step(world: WorldModel) -> WorldModel:
    """Compile what `WorldModel.step` runs, in place; the first steps of each batch size are slow.

    On a CPU the parts become C++ (a compiler is needed); on a CUDA device each is captured as a
    CUDA graph. What is compiled is the floor of a step (reading the past, one pass of each block,
    denoiser, decoder); the sampler's loop, which looks at residuals, stays in Python. Results are
    those of the eager step up to rounding, and a likelihood is exact for the sample as ever.

    Returns:
        the same world.
    """
    device = next(world.parameters()).device.type
    flow, codec = world.flow, world.codec
    flow.global_block.affine = _compiled(flow.global_block.affine, device)  # type: ignore[method-assign]
    past = flow.global_block.past
    past.step = _compiled(past.step, device)  # type: ignore[method-assign]
    for block in flow.local_blocks:
        block.forward = _compiled(block.forward, device)
    transformer = world.denoiser.transformer
    transformer.step = _compiled(transformer.step, device)  # type: ignore[method-assign]
    codec.decode = _compiled(codec.decode, device)  # type: ignore[method-assign]
    return world


def _compiled(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    if device != "cuda":
        return torch.compile(function, dynamic=False)
    captured = torch.compile(function, dynamic=False, mode="reduce-overhead")

    def run(*args: Any) -> Any:
        # a graph writes its results where the last replay's were, and the sampler keeps those
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, captured(*args))

    return run
