"""Keys and values of the last W frames: a ring for each row, each row with its own length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class LayerCache:
    """The ring of one attention layer: keys and values (B, heads, W, N, head_dim).

    `slots` says where each row's current frame goes: (B,), or one number if all agree, as writing
    to one place costs a third of writing to scattered ones.
    """

    keys: Tensor
    values: Tensor
    slots: Tensor | int

    def write(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put the current frame's (B, heads, N, head_dim) in its slot; returns the whole ring.

        Returns:
            keys and values (B, heads, W * N, head_dim), slots in ring order; which of them a query
            may see is the business of `WindowCache.mask`.
        """
        if isinstance(self.slots, int):
            self.keys[:, :, self.slots] = keys
            self.values[:, :, self.slots] = values
        else:
            rows = torch.arange(len(self.slots), device=self.slots.device)
            self.keys[rows, :, self.slots] = keys
            self.values[rows, :, self.slots] = values
        return self.keys.flatten(2, 3), self.values.flatten(2, 3)


@dataclass
class WindowCache:
    """Rings of all layers: keys, values (layers, B, heads, W, N, head_dim); time (B,) int64.

    `time[b]` is the index of the frame that row b writes next, which goes into slot time mod W. So
    a row can be reset or replaced (`where`) while the others keep every bit, and the cost of a step
    does not depend on the time.
    """

    keys: Tensor
    values: Tensor
    time: Tensor

    @classmethod
    def empty(
        cls,
        layers: int,
        batch: int,
        heads: int,
        window: int,
        tokens: int,
        head_dim: int,
        like: Tensor,
    ) -> WindowCache:
        """A cache of no frames with the dtype and device of `like`."""
        shape = (layers, batch, heads, window, tokens, head_dim)
        time = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return cls(like.new_zeros(shape), like.new_zeros(shape), time)

    @property
    def window(self) -> int:
        """W, the number of frames that attention sees, the current one included."""
        return self.keys.shape[3]

    def layers(self) -> list[LayerCache]:
        """A view of each layer's ring: writing to it writes here."""
        each = self.time % self.window
        # to look at them, a CPU need not wait for anything; a GPU would
        distinct = set() if each.is_cuda else set(each.tolist())
        slots = distinct.pop() if len(distinct) == 1 else each
        return [LayerCache(self.keys[i], self.values[i], slots) for i in range(len(self.keys))]

    def mask(self, tokens: int) -> Tensor:
        """What the current frame may attend to, (B, 1, 1, W * N) bool, N being `tokens`.

        Itself and the past frames that the ring holds; not the empty slots.
        """
        slots = torch.arange(self.window, device=self.time.device)
        age = (self.time[:, None] - slots) % self.window  # (B, W), 0 for the current frame
        visible = age <= self.time[:, None]
        return visible.repeat_interleave(tokens, dim=1)[:, None, None]

    def clone(self) -> WindowCache:
        """A copy that shares no memory."""
        return WindowCache(self.keys.clone(), self.values.clone(), self.time.clone())

    def advanced(self) -> WindowCache:
        """The same memory, one frame later."""
        return WindowCache(self.keys, self.values, self.time + 1)

    def rows(self, index: Tensor) -> WindowCache:
        """The rows `index` (B',), in memory of their own."""
        return WindowCache(
            self.keys.index_select(1, index),
            self.values.index_select(1, index),
            self.time.index_select(0, index),
        )

    def assign(self, index: Tensor, other: WindowCache) -> None:
        """Overwrite the rows `index` (B',) by those of `other`, in order."""
        self.keys.index_copy_(1, index, other.keys)
        self.values.index_copy_(1, index, other.values)
        self.time.index_copy_(0, index, other.time)

    @staticmethod
    def where(rows: Tensor, a: WindowCache, b: WindowCache) -> WindowCache:
        """Rows of `a` where `rows` (B,) is true, rows of `b` elsewhere."""
        mask = rows[None, :, None, None, None, None]
        return WindowCache(
            torch.where(mask, a.keys, b.keys),
            torch.where(mask, a.values, b.values),
            torch.where(rows, a.time, b.time),
        )
