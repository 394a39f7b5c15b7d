"""What the flow says of a frame, and what it remembers of those before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worldflow.flow.affine import Affine
from worldflow.flow.cache import WindowCache

MIXED = "guided and unguided dreams cannot be rows of one state"


class FlowOutput(NamedTuple):
    """What the forward direction says of each frame.

    Attributes:
        noise: z, of the shape of y~; by the outcomes that most probably made the tokens, as are
            the scales.
        log_prob: log p(y~_t | y~_<t, a_<=t) in nats, one number a frame, exact.
        log_scale: sum of log scale over all blocks of the frame, less log p of the outcomes, one
            number a frame. With the entropy of the standard normal it estimates that of the
            prediction (of outcomes and frame, where a token has several).
        token_log_scale: the same for each token of the frame, (..., N).
        features: what was known before the frame was made, as `GlobalBlock.forward` gives it,
            (..., N, width).
    """

    noise: Tensor
    log_prob: Tensor
    log_scale: Tensor
    token_log_scale: Tensor
    features: Tensor


class FlowSample(NamedTuple):
    """A sampled frame.

    Attributes:
        noisy: y~ (B, N, C).
        passes: of each block, the global one first: (B, blocks) int64.
        fallbacks: in how many blocks a row was inverted sequentially, as its iterates were not
            finite: (B,) int64.
    """

    noisy: Tensor
    passes: Tensor
    fallbacks: Tensor


@dataclass
class FlowState:
    """The past of each row.

    Attributes:
        cache: keys and values of the global block.
        hidden: u of the last frame, (B, N, C); zeros before the first frame.
        affines: the maps of the last frame, of the local blocks and then of the global one; the
            identity before the first frame. From them the sampler starts.
        unguided: as `cache`, of the same frames under the conditions from which guidance leads
            away; None where nothing is guided.
    """

    cache: WindowCache
    hidden: Tensor
    affines: tuple[Affine, ...]
    unguided: WindowCache | None = None

    def rows(self, index: Tensor) -> FlowState:
        """The rows `index` (B',)."""
        return FlowState(
            self.cache.rows(index),
            self.hidden.index_select(0, index),
            tuple(
                Affine(affine.mu.index_select(0, index), affine.log_scale.index_select(0, index))
                for affine in self.affines
            ),
            None if self.unguided is None else self.unguided.rows(index),
        )

    def assign(self, index: Tensor, other: FlowState) -> None:
        """Overwrite the rows `index` (B',) by those of `other`, in order.

        Raises:
            ValueError: only one of them is guided.
        """
        self.cache.assign(index, other.cache)
        self.hidden.index_copy_(0, index, other.hidden)
        for mine, new in zip(self.affines, other.affines, strict=True):
            mine.mu.index_copy_(0, index, new.mu)
            mine.log_scale.index_copy_(0, index, new.log_scale)
        if (self.unguided is None) != (other.unguided is None):
            raise ValueError(MIXED)
        if self.unguided is not None and other.unguided is not None:
            self.unguided.assign(index, other.unguided)

    @staticmethod
    def where(rows: Tensor, a: FlowState, b: FlowState) -> FlowState:
        """Rows of `a` where `rows` (B,) is true, rows of `b` elsewhere."""
        mask = rows[:, None, None]
        return FlowState(
            WindowCache.where(rows, a.cache, b.cache),
            torch.where(mask, a.hidden, b.hidden),
            tuple(
                Affine(torch.where(mask, x.mu, y.mu), torch.where(mask, x.log_scale, y.log_scale))
                for x, y in zip(a.affines, b.affines, strict=True)
            ),
            _where(rows, a.unguided, b.unguided),
        )


def _where(rows: Tensor, a: WindowCache | None, b: WindowCache | None) -> WindowCache | None:
    """Of both or of none.

    Raises:
        ValueError: only one of the dreams is guided.
    """
    if a is None and b is None:
        return None
    if a is None or b is None:
        raise ValueError(MIXED)
    return WindowCache.where(rows, a, b)
