"""The end of an episode, read from all of the episode that a small memory keeps.

What ends an episode may have left the picture long before: a fireball that goes out of view and
hits the player from the side. No frame shows it then, and features that were made to draw frames
need not remember it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from worldflow.errors import DataError
from worldflow.heads.termination import EPISODE, EndHead

TOKEN_WIDTH, TOKEN_FEATURES, ACTION_FEATURES = 128, 32, 16


@dataclass(frozen=True)
class EpisodeMemory:
    """What is remembered of B episodes; zeros before their first frames.

    Attributes:
        summary: of all up to the last action that was read, (B, M).
        before: noisy latents of the frame before the last, (B, N, C).
        last: those of the last frame, (B, N, C).
    """

    summary: Tensor
    before: Tensor
    last: Tensor

    def rows(self, index: Tensor) -> EpisodeMemory:
        """The rows `index` (B',), in memory of their own."""
        return EpisodeMemory(*(x.index_select(0, index) for x in vars(self).values()))

    def assign(self, index: Tensor, other: EpisodeMemory) -> None:
        """Overwrite the rows `index` (B',) by those of `other`, in order."""
        for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
            mine.index_copy_(0, index, theirs)

    @staticmethod
    def where(rows: Tensor, a: EpisodeMemory, b: EpisodeMemory) -> EpisodeMemory:
        """Rows of `a` where `rows` (B,) is true, rows of `b` elsewhere."""
        pairs = zip(vars(a).values(), vars(b).values(), strict=True)
        return EpisodeMemory(
            *(torch.where(rows.view(-1, *[1] * (x.ndim - 1)), x, y) for x, y in pairs)
        )


class EpisodeTerminationHead(EndHead):
    """The probability that the episode ends with the next frame, given all before and the action.

    A hazard, as `TerminationHead` of the past is, but with features and a memory of its own.
    One small network reads every token of the last two frames, a recurrent one (GRU) what it found
    and the action.

    Args:
        tokens: N.
        channels: C.
        condition: size of a frame's conditioning vector, D.
        hidden: width of the last hidden layer; the memory's is half as much again.
    """

    def __init__(self, tokens: int, channels: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.reads = EPISODE
        memory = 3 * hidden // 2
        self.token = nn.Sequential(
            nn.Linear(2 * channels, TOKEN_WIDTH),
            nn.SiLU(),
            nn.Linear(TOKEN_WIDTH, TOKEN_FEATURES),
            nn.SiLU(),
        )
        self.frame = nn.Sequential(nn.Linear(tokens * TOKEN_FEATURES, memory), nn.SiLU())
        self.action = nn.Linear(condition, ACTION_FEATURES)
        seen = memory + ACTION_FEATURES
        self.summary = nn.GRU(seen, memory, batch_first=True)
        self.trunk = nn.Sequential(
            nn.Linear(memory + seen, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )

    def begin(self, like: Tensor) -> EpisodeMemory:
        """See `EndHead.begin`."""
        nothing = torch.zeros_like(like)
        return EpisodeMemory(
            like.new_zeros(len(like), self.summary.hidden_size), nothing, nothing.clone()
        )

    def forward(self, noisy: Tensor, condition: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, T) of whole clips.

        Args:
            noisy: latents (B, T, N, C); those of a frame do not change its own logit.
            condition: (B, T, D).
            lengths: frames of each clip that are read, (B,), 1 or more; beyond them logits are 0.
                None: all.
        """
        rows, frames = noisy.shape[:2]
        kept = torch.full((rows,), frames) if lengths is None else lengths.cpu()
        nothing = torch.zeros_like(noisy[:, :1])
        last = torch.cat((nothing, noisy[:, :-1]), dim=1)
        before = torch.cat((nothing, last[:, :-1]), dim=1)

        def pack(x: Tensor) -> PackedSequence:
            return pack_padded_sequence(x, kept, batch_first=True, enforce_sorted=False)

        packed = pack(condition)
        shape = packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        # in full precision: what is remembered goes through the network hundreds of times
        with torch.autocast(noisy.device.type, enabled=False):
            seen = self._seen(pack(before).data, pack(last).data, packed.data.float())
            summary, _ = self.summary(PackedSequence(seen, *shape))
            logits = self._logits(summary.data, seen)
        padded, _ = pad_packed_sequence(
            PackedSequence(logits, *shape), batch_first=True, total_length=frames
        )
        return padded

    def step(
        self,
        memory: EpisodeMemory | None,
        features: Tensor,
        past: Tensor,
        noisy: Tensor,
        condition: Tensor,
    ) -> tuple[Tensor, EpisodeMemory]:
        """See `EndHead.step`; features, past and latents of a frame do not change its logit."""
        if memory is None:
            raise DataError("this state is of another world, whose head of the end has no memory")
        seen = self._seen(memory.before, memory.last, condition)
        _, (summary,) = self.summary(seen[:, None], memory.summary[None].contiguous())
        # of its own, as `EpisodeMemory.assign` writes in place
        after = EpisodeMemory(summary, memory.last.clone(), noisy.clone())
        return self._logits(summary, seen), after

    def of_clips(self, features: Tensor, past: Tensor, noisy: Tensor, condition: Tensor) -> Tensor:
        """See `EndHead.of_clips`."""
        return self(noisy, condition)

    def _seen(self, before: Tensor, last: Tensor, condition: Tensor) -> Tensor:
        tokens = self.token(torch.cat((before, last), dim=-1))
        frame = self.frame(rearrange(tokens, "... n d -> ... (n d)"))
        return torch.cat((frame, self.action(condition)), dim=-1)

    def _logits(self, summary: Tensor, seen: Tensor) -> Tensor:
        return self.trunk(torch.cat((summary, seen), dim=-1)).squeeze(-1)
