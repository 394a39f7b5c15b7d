"""The global-local flow: y~ -> local blocks -> u -> global block -> z, exact in every frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from worldflow.errors import ConfigError
from worldflow.flow.affine import Affine
from worldflow.flow.block import GlobalBlock, GlobalConfig, LocalBlock
from worldflow.flow.cache import WindowCache
from worldflow.flow.guidance import Unconditional, guide, guide_choice
from worldflow.flow.outcomes import Mixture
from worldflow.flow.sampler import SamplerConfig, invert
from worldflow.flow.state import FlowOutput, FlowSample, FlowState
from worldflow.flow.transformer import TransformerConfig
from worldflow.randomness import Generators, uniform


@dataclass
class FlowConfig:
    """Sizes of the flow.

    Attributes:
        window: W, frames that the global block's attention spans, the current one included.
        local_blocks: number of local blocks; their token order alternates.
        local: size of each local block.
        global_block: size of the global block.
        sampler: how blocks are inverted.
    """

    window: int = 8
    local_blocks: int = 2
    local: TransformerConfig = field(default_factory=lambda: TransformerConfig(128, 2, 4))
    global_block: GlobalConfig = field(default_factory=GlobalConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        if self.window < 1 or self.local_blocks < 0:
            raise ConfigError(
                f"flow.window={self.window} must be positive, flow.local_blocks="
                f"{self.local_blocks} not negative"
            )


class Flow(nn.Module):
    """The causal normalizing flow over noisy latents (STARFlow-V, section 3).

    Args:
        config: sizes.
        tokens: N, tokens of a frame.
        channels: C of a token.
        condition: size of a frame's conditioning vector.
    """

    def __init__(self, config: FlowConfig, tokens: int, channels: int, condition: int) -> None:
        super().__init__()
        self.config, self.tokens, self.channels = config, tokens, channels
        self.local_blocks = nn.ModuleList(
            # orders alternate up to the global block, whose order is the natural one
            LocalBlock(config.local, tokens, channels, flip=(config.local_blocks - index) % 2 == 1)
            for index in range(config.local_blocks)
        )
        self.global_block = GlobalBlock(
            config.global_block, tokens, channels, config.window, condition
        )

    def forward(self, noisy: Tensor, condition: Tensor) -> FlowOutput:
        """Score clips: noisy (B, T, N, C), condition (B, T, D); the first frame has no past."""
        frames = rearrange(noisy, "b t n c -> (b t) n c")
        hidden, affines = self._local(frames)
        features = self.global_block(hidden.reshape(noisy.shape), condition)
        out, _ = self._score(hidden, affines, features.flatten(0, 1))
        return FlowOutput(*(x.unflatten(0, noisy.shape[:2]) for x in out))

    def hidden(self, noisy: Tensor) -> Tensor:
        """u of clips (B, T, N, C): what the local blocks make of each frame."""
        return self._local(noisy.flatten(0, 1))[0].reshape(noisy.shape)

    def log_prob_given(self, noisy: Tensor, past: Tensor) -> Tensor:
        """log p(y~_t | past) of single frames, in nats: (M,).

        Args:
            noisy: (M, N, C).
            past: what `global_block.past_of` knows of each, (M, N, its width).
        """
        hidden, affines = self._local(noisy)
        return self._score(hidden, affines, self.global_block.project_past(past))[0].log_prob

    def draw_chance(self, generator: Generators, like: Tensor) -> Tensor | None:
        """What `step` chooses outcomes by, (B, N); nothing is drawn if there is one only.

        Args:
            generator: one for the batch or one a row.
            like: a tensor (B, ...) whose dtype and device it shall have.
        """
        if self.config.global_block.outcomes == 1:
            return None
        return uniform(generator, len(like), like, (self.tokens,))

    def empty_state(self, batch: int, guided: bool = False) -> FlowState:
        """The state before the first frame; `guided`: one whose steps may be guided."""
        cache = self.global_block.past.empty_cache(batch)
        zeros = cache.keys.new_zeros(batch, self.tokens, self.channels)
        affines = (Affine(zeros, zeros),) * (len(self.local_blocks) + 1)
        return FlowState(cache, zeros, affines, cache if guided else None)

    def observe(
        self,
        state: FlowState,
        noisy: Tensor,
        condition: Tensor,
        guidance: Unconditional | None = None,
    ) -> tuple[FlowState, FlowOutput]:
        """Append a frame: noisy (B, N, C), condition (B, D). Equals `forward` at that frame.

        `guidance` is for states whose steps are guided: its condition is remembered too.
        """
        features, cache = self._read_past(state, condition)
        _, unguided = self._read_unguided(state, guidance)
        return self._append(noisy, features, cache, unguided)

    def step(
        self,
        state: FlowState,
        noise: Tensor,
        condition: Tensor,
        sampler: SamplerConfig | None = None,
        guidance: Unconditional | None = None,
        chance: Tensor | None = None,
    ) -> tuple[FlowState, FlowOutput, FlowSample]:
        """Sample the next frame and append it.

        The blocks are inverted one after another, the global one first. Each inversion starts from
        the last frame's affine map, applied to the new noise: what one pass over the last frame
        would give, without that pass. The sample is then scored like any other frame, so that its
        likelihood and the cache are exact whatever the sampler's tolerance.

        With guidance the global block's outcome is that of `guide_choice` and its map that of
        `guide`; the likelihood stays that under the condition alone.

        Args:
            state: the past; not changed.
            noise: z (B, N, C), already scaled by the temperature.
            condition: (B, D).
            sampler: how to invert; the config's by default.
            guidance: None: none.
            chance: of the outcomes, uniform numbers in [0, 1), (B, N); None: there is one only.

        Raises:
            ValueError: guidance, of a state that was not begun with it; or no chance where it is
                needed.
        """
        sampler = sampler or self.config.sampler
        features, cache = self._read_past(state, condition)
        without, unguided = self._read_unguided(state, guidance)
        top = self.global_block

        # a compiled map of one outcome takes two arguments
        chances = () if chance is None else (chance,)

        def guided(x: Tensor) -> Affine:
            if guidance is None or without is None:
                return top.affine(x, features, *chances)
            if chance is None:
                maps = top.affine(x, features), top.affine(x, without)
            else:  # the same outcome on both sides
                told, untold = top.mixture(x, features), top.mixture(x, without)
                chosen = guide_choice(told.log_weights, untold.log_weights, guidance.weight)
                outcome = Mixture(told.affine, chosen).choose(chance)
                maps = told.take(outcome), untold.take(outcome)
            return guide(*maps, guidance.weight)

        blocks: list[tuple[Callable[[Tensor], Affine], list[int]]] = [
            (block, block.order) for block in self._local_blocks()
        ]
        blocks.append((guided, self.global_block.order))
        x, passes, fallbacks = noise, [], []
        for (block, order), affine in zip(reversed(blocks), reversed(state.affines), strict=True):
            x, count, fallback = invert(block, x, affine.to_data(x), order, sampler)
            passes.append(count)
            fallbacks.append(fallback)
        sample = FlowSample(x, torch.stack(passes, dim=1), torch.stack(fallbacks, dim=1).sum(1))
        return *self._append(x, features, cache, unguided), sample

    def _read_past(self, state: FlowState, condition: Tensor) -> tuple[Tensor, WindowCache]:
        """What is known of the next frame, and a copy of the cache with the last one in it."""
        cache = state.cache.clone()
        return self.global_block.read_past(state.hidden, condition, cache), cache

    def _read_unguided(
        self, state: FlowState, guidance: Unconditional | None
    ) -> tuple[Tensor | None, WindowCache | None]:
        """As `_read_past`, of the unconditional side."""
        if guidance is None:
            return None, None
        if state.unguided is None:
            raise ValueError("this state has no unconditional side: begin it with guided=True")
        cache = state.unguided.clone()
        return self.global_block.read_past(state.hidden, guidance.condition, cache), cache

    def _append(
        self, noisy: Tensor, features: Tensor, cache: WindowCache, unguided: WindowCache | None
    ) -> tuple[FlowState, FlowOutput]:
        hidden, affines = self._local(noisy)
        out, affine = self._score(hidden, affines, features)
        after = None if unguided is None else unguided.advanced()
        return FlowState(cache.advanced(), hidden, (*affines, affine), after), out

    def _score(
        self, hidden: Tensor, affines: tuple[Affine, ...], features: Tensor
    ) -> tuple[FlowOutput, Affine]:
        """Of frames u (M, N, C) that the local `affines` gave; also the global block's map."""
        scored = self.global_block.score(hidden, features)
        maps = (*affines, scored.affine)
        out = FlowOutput(
            noise=scored.affine.to_noise(hidden),
            log_prob=scored.log_prob.sum(dim=-1) - _log_scale(affines, hidden),
            log_scale=_log_scale(maps, hidden) - scored.log_weight.sum(dim=-1),
            token_log_scale=_token_log_scale(maps, hidden) - scored.log_weight,
            features=features,
        )
        return out, scored.affine

    def _local_blocks(self) -> list[LocalBlock]:
        return [block for block in self.local_blocks if isinstance(block, LocalBlock)]

    def _local(self, frames: Tensor) -> tuple[Tensor, tuple[Affine, ...]]:
        """frames (B, N, C) through the local blocks: u, and the map of each block."""
        affines = []
        for block in self.local_blocks:
            affine = block(frames)
            frames = affine.to_noise(frames)
            affines.append(affine)
        return frames, tuple(affines)


def _frame_sum(values: Tensor) -> Tensor:
    """Sum over tokens and channels of each frame."""
    return values.sum(dim=(-2, -1))


def _log_scale(affines: Sequence[Affine], frames: Tensor) -> Tensor:
    """Sum of the log scales of each frame over all the maps, (...,); zero if there are none.

    `frames` are what the maps are of; their device is that of the sum.
    """
    return sum((_frame_sum(affine.log_scale) for affine in affines), start=_zero(frames))


def _token_log_scale(affines: Sequence[Affine], frames: Tensor) -> Tensor:
    """The same of each token, (..., N)."""
    return sum((affine.log_scale.sum(dim=-1) for affine in affines), start=_zero(frames))


def _zero(frames: Tensor) -> Tensor:
    return torch.zeros((), device=frames.device)
