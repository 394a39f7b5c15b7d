"""The parts of a step with Python taken out: fixed graphs instead of modules that call modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from worldflow.errors import ConfigError
from worldflow.flow.transformer import VideoTransformer
from worldflow.storage import load_world
from worldflow.world_model import WorldModel

DEVICES = ("auto", "cpu", "cuda")


def open_world(name: str | Path, device: str = "auto") -> WorldModel:
    """A world to dream in, on a device: of many rows at once on a GPU, compiled on a CPU.

    On a GPU the step stays eager. With hundreds of rows its kernels are large, while `_capture`
    would compile anew, for a minute, for the rows of the training, of its evaluations and of each
    number of resets.

    Args:
        name: of the world, or its folder.
        device: "cpu", "cuda", or "auto": a GPU if there is one.

    Raises:
        ConfigError: there is no such device here.
        WorldFormatError: the world cannot be loaded.
    """
    if device not in DEVICES:
        raise ConfigError(f"world_device is {device!r}; use one of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("world_device=cuda, but torch finds no GPU: use world_device=cpu")
    world = load_world(name)
    if device == "cpu" or not available:
        return compile_step(world)
    return world.to("cuda")


def compile_step(world: WorldModel) -> WorldModel:
    """Compile what `WorldModel.step` runs, in place; the world can then be used, not trained.

    But for its heads, which are not compiled: their weights may change.

    On a CPU the passes of the sampler, the layers that read the past and the decoder become
    TorchScript: the same kernels, hence the same bits, called without Python in between, which is
    two fifths of a pass over one row. On a CUDA device the floor of a step (reading the past, one
    pass of each block, denoiser, decoder) is captured as CUDA graphs; results are those of the
    eager step up to rounding, and the first steps of each batch size are slow. The sampler's loop,
    which looks at residuals, stays in Python.

    Returns:
        the same world.
    """
    world.eval().requires_grad_(False)
    if next(world.parameters()).device.type == "cuda":
        _capture(world)
    else:
        _trace(world)
    return world


def _trace(world: WorldModel) -> None:
    flow, codec = world.flow, world.codec
    x = torch.zeros(2, world.tokens, world.channels, dtype=codec.dtype)
    for local in flow.local_blocks:
        local.forward = _traced(local, "forward", x)
    features = x.new_zeros(2, world.tokens, flow.global_block.features)
    block = flow.global_block
    chance: tuple[Tensor, ...] = ()
    if block.outcomes.count > 1:
        block.mixture = _traced(block, "mixture", x, features)  # type: ignore[method-assign]
        chance = (x[..., 0],)
    block.affine = _traced(block, "affine", x, features, *chance)  # type: ignore[method-assign]
    codec.decode = _traced(codec, "decode", x)  # type: ignore[method-assign]
    for transformer in (flow.global_block.past, world.denoiser.transformer):
        _trace_layers(transformer, x.new_zeros)


def _trace_layers(transformer: VideoTransformer, zeros: Callable[..., Tensor]) -> None:
    """What lies before and after the cache, which is written in Python."""
    config, head_dim = transformer.config, transformer.head_dim
    x = zeros(2, transformer.tokens, config.width)
    modulation = (zeros(2, 1, config.width),) * 4
    rotation = (zeros(2, 1, 1, head_dim),) * 2
    queries = zeros(2, config.heads, transformer.tokens, head_dim)
    keys = zeros(2, config.heads, transformer.window * transformer.tokens, head_dim)
    bias = zeros(2, 1, 1, transformer.window * transformer.tokens)
    for layer in transformer.layers:
        before = _traced(layer, "before_cache", x, modulation, rotation)
        after = _traced(layer, "after_cache", x, queries, keys, keys, bias, modulation)
        layer.before_cache, layer.after_cache = before, after  # type: ignore[assignment]


def _traced(module: nn.Module, method: str, *example: Any) -> Callable[..., Any]:
    """A method of a module as TorchScript; it takes any number of rows."""
    with warnings.catch_warnings(), torch.no_grad():
        # torch.compile and torch.export are to replace it, but their graphs are called from Python
        # and gain little here; see docs/performance.md
        warnings.filterwarnings("ignore", message=".*is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        script = torch.jit.trace_module(module, {method: example}, check_trace=False)
        # weights become constants; folding them together would change the bits
        script = torch.jit.freeze(script, preserved_attrs=[method], optimize_numerics=False)
    like = getattr(module, method)(*example)
    graph = getattr(script, method)

    def run(*args: Any) -> Any:
        # unoptimized: it would specialise to each new number of rows and stride, for seconds
        with torch.jit.optimized_execution(False):
            return _named_as(like, graph(*args))

    return run


def _named_as(like: Any, result: Any) -> Any:
    """Plain tuples of a graph as the named ones (of `like`) that the method gives."""
    if not hasattr(like, "_fields"):
        return result
    return type(like)(*(_named_as(*pair) for pair in zip(like, result, strict=True)))


def _capture(world: WorldModel) -> None:
    flow, codec = world.flow, world.codec
    block = flow.global_block
    if block.outcomes.count > 1:
        block.mixture = _captured(block.mixture)  # type: ignore[method-assign]
    block.affine = _captured(block.affine)  # type: ignore[method-assign]
    past = block.past
    past.step = _captured(past.step)  # type: ignore[method-assign]
    for local in flow.local_blocks:
        local.forward = _captured(local.forward)
    transformer = world.denoiser.transformer
    transformer.step = _captured(transformer.step)  # type: ignore[method-assign]
    codec.decode = _captured(codec.decode)  # type: ignore[method-assign]


def _captured(function: Callable[..., Any]) -> Callable[..., Any]:
    captured = torch.compile(function, dynamic=False, mode="reduce-overhead")

    def run(*args: Any) -> Any:
        # a graph writes its results where the last replay's were, and the sampler keeps those
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, captured(*args))

    return run
