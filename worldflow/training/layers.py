"""Transformer layers that are compiled, or computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldflow.flow.attention import TransformerLayer

Forward = Callable[..., Tensor]


def transformer_layers(module: nn.Module) -> list[TransformerLayer]:
    """All transformer layers in a module."""
    return [layer for layer in module.modules() if isinstance(layer, TransformerLayer)]


def prepare_layers(
    modules: Iterable[nn.Module], compiled: bool, activation_checkpointing: bool
) -> None:
    """Change how the layers of modules run where gradients are computed, in place.

    Layers are compiled one by one: those of equal sizes share one graph, and gradients of the
    layers behind are exchanged while those before are still computed.
    """
    if not (compiled or activation_checkpointing):
        return
    for module in modules:
        for layer in transformer_layers(module):
            eager: Forward = layer.forward
            training = torch.compile(eager, dynamic=False) if compiled else eager
            if activation_checkpointing:
                # nothing in a layer is random
                training = partial(
                    checkpoint, training, use_reentrant=False, preserve_rng_state=False
                )
            layer.forward = _by_mode(training, eager)  # type: ignore[method-assign]


def _by_mode(training: Forward, eager: Forward) -> Forward:
    """Measuring and dreaming have other shapes, for which nothing shall be compiled."""

    def forward(*args: object) -> Tensor:
        return training(*args) if torch.is_grad_enabled() else eager(*args)

    return forward
