"""Rotary positions, masks and the ring cache, against what they must be."""

from __future__ import annotations

import torch

from worldflow.flow.attention import Attention, TimeRotary, attention_bias, rotate
from worldflow.flow.cache import WindowCache
from worldflow.flow.transformer import window_mask


def test_rotated_products_depend_on_the_time_difference_only() -> None:
    rotary = TimeRotary(head_dim=8, window=5)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).unbind(0)

    def product(at: int, later: int) -> torch.Tensor:
        angles = [tuple(a[None, None] for a in rotary(torch.tensor([t]))) for t in (at, later)]
        return (rotate(q, angles[0]) * rotate(k, angles[1])).sum()

    for start in (3, 17, 10_000, 123_456_789):
        torch.testing.assert_close(product(0, 4), product(start, start + 4), atol=1e-5, rtol=0)
    assert abs(product(0, 4) - product(0, 3)) > 1e-4


def test_window_mask_by_hand() -> None:
    mask = window_mask(torch.tensor([0, 0, 1, 1, 2, 2]), window=2)
    assert mask.int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
    ]


def test_ring_mask_by_hand() -> None:
    cache = WindowCache.empty(1, 3, 1, 3, 1, 2, like=torch.zeros(()))
    cache.time = torch.tensor([0, 2, 7])  # 7 goes into slot 1; slots 2 and 0 hold frames 5 and 6
    assert cache.mask(1)[:, 0, 0].int().tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert cache.mask(2)[0, 0, 0].int().tolist() == [1, 1, 0, 0, 0, 0]


def test_write_goes_to_each_rows_own_slot() -> None:
    cache = WindowCache.empty(1, 2, 1, 3, 1, 1, like=torch.zeros(()))
    cache.time = torch.tensor([1, 5])
    keys, values = cache.layers()[0].write(torch.full((2, 1, 1, 1), 7.0), torch.ones(2, 1, 1, 1))
    assert keys[:, 0, :, 0].tolist() == [[0.0, 7.0, 0.0], [0.0, 0.0, 7.0]]
    assert values.sum() == 2 and cache.keys.sum() == 14


def test_rows_at_the_same_time_are_written_alike() -> None:
    """The shortcut for equal slots puts the same numbers in the same places."""
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 3, 2, 4, 5, generator=generator)
    results = []
    for shortcut in (True, False):
        cache = WindowCache.empty(1, 3, 2, 3, 4, 5, like=torch.zeros(()))
        cache.time = torch.tensor([4, 7, 10])  # all in slot 1
        layer = cache.layers()[0]
        assert layer.slots == 1
        if not shortcut:
            layer.slots = cache.time % 3
        layer.write(keys, values)
        results.append(torch.stack((cache.keys, cache.values)))
    assert torch.equal(*results) and results[0].any()


def test_attention_under_autocast_is_the_fused_one_to_bfloat16_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    attention = Attention(width=16, heads=2)
    x = torch.randn(3, 6, 16, generator=generator)
    visible = window_mask(torch.tensor([0, 0, 1, 1, 2, 2]), window=2)
    weight = torch.randn(3, 6, 16, generator=generator)

    def gradient(enabled: bool) -> torch.Tensor:
        tokens = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = attention.mix(*attention.project(tokens, None), attention_bias(visible, like=x))
        (out.float() * weight).sum().backward()
        assert tokens.grad is not None
        return tokens.grad

    full, half = gradient(False), gradient(True)
    assert not torch.equal(full, half)
    assert (full - half).norm() < 0.02 * full.norm()
