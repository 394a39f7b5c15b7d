"""Floating-point operations of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from env_steps import PARTS, PartMeter, SteppedEnv
from one_pass import one_pass
from torch.utils.flop_counter import FlopCounterMode

from worldflow.world_model import WorldModel


def _attention(query: tuple[int, ...], key: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Of scores and of mixed values, from the shapes (B, heads, tokens, head_dim)."""
    batch, heads, tokens, head_dim = query
    return 2 * 2 * batch * heads * tokens * key[2] * head_dim


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, convolutions and attention, two operations a multiply-add."""
    # torch knows the attention of GPUs only, and would count none on a CPU
    cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={cpu: _attention})


def count_operations(world: WorldModel, warmup: int, seed: int) -> list[dict[str, Any]]:
    """GFLOP of one env step of one row by each part, and of one pass of everything."""
    env, floor = SteppedEnv(world, 1, seed), one_pass(world, 1, seed)
    with PartMeter(world) as idle:
        for _ in range(warmup):
            env.step(idle, "jacobi")
    with (
        flop_counter() as counter,
        PartMeter(world, lambda: float(counter.get_total_flops())) as meter,
    ):
        cost, passes = env.step(meter, "jacobi")
        _, once = meter.measure(floor)
    env.close()
    blocks = len(passes)
    return [
        _row("env step", cost, passes),
        # the floor calls the blocks themselves, not `Flow.step`
        _row("one pass of each", {**once, "flow": once["rest"], "rest": 0.0}, np.ones(blocks)),
    ]


def _row(name: str, cost: dict[str, float], passes: np.ndarray) -> dict[str, Any]:
    gflop = {f"{part}_gflop": cost[part] / 1e9 for part in (*PARTS, "rest", "whole")}
    return {"step": name, **gflop, "passes": passes.tolist()}
