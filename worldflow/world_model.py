"""The composition: codec, conditioning, flow, denoiser and heads as one world to step in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldflow.actions import ActionSpec
from worldflow.calibration import UNCALIBRATED, Calibration
from worldflow.codec import Codec
from worldflow.conditioning import Conditioning
from worldflow.denoiser import Denoiser, tweedie
from worldflow.errors import DataError, MissingHeadError
from worldflow.flow.flow import Flow
from worldflow.flow.guidance import Guidance
from worldflow.heads.config import build_heads
from worldflow.randomness import Generators, fixed, normal
from worldflow.scoring import flow_output, score_video
from worldflow.stepping import dream_first, dream_frame, observe_frames
from worldflow.world_spec import Contexts, WorldConfig, WorldSpec
from worldflow.world_state import Prediction, Scores, WorldState


class WorldModel(nn.Module):
    """A learned world.

    Args:
        config: what it is built of.
        spec: what it learned from.
        calibration: of novelty, which is NaN until the end of pretraining measures it.
        context: real beginnings to dream from; None until the end of pretraining.
    """

    def __init__(
        self,
        config: WorldConfig,
        spec: WorldSpec,
        calibration: Calibration = UNCALIBRATED,
        context: Contexts | None = None,
    ) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.calibration, self._context = calibration, context
        height, width, _ = spec.frame_shape
        self.codec = Codec(config.codec, (height, width))
        self.tokens, self.channels = self.codec.tokens, config.codec.channels
        self.conditioning = Conditioning(
            spec.action_spec, config.condition, spec.text, spec.knows_unknown_actions
        )
        self.flow = Flow(config.flow, self.tokens, self.channels, config.condition)
        self.denoiser = Denoiser(config.denoiser, self.tokens, self.channels, config.condition)
        widths = config.denoiser.transformer.width, self.flow.global_block.features
        self.reward_head, self.termination_head = build_heads(
            config.heads, self.tokens, widths, (self.channels, config.condition), spec.reward_range
        )
        # input features outermost in memory: with the few rows of a step, CPUs then multiply in
        # two thirds of the time
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.data = module.weight.data.t().contiguous().t()

    @property
    def action_spec(self) -> ActionSpec:
        """Kind and limits of the actions."""
        return self.spec.action_spec

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, 3)."""
        return self.spec.frame_shape

    @property
    def heads(self) -> list[nn.Module]:
        """Those it has."""
        return [head for head in (self.reward_head, self.termination_head) if head is not None]

    @property
    def dimensions(self) -> int:
        """Number of latents of a frame, N * C."""
        return self.tokens * self.channels

    @property
    def context(self) -> Contexts:
        """Beginnings of held-out real episodes.

        Raises:
            DataError: the world has none yet.
        """
        if self._context is None:
            raise DataError("this world has no contexts; `worldflow pretrain` adds them at its end")
        return self._context

    def complete(self, calibration: Calibration, context: Contexts) -> None:
        """Set what the end of pretraining measures."""
        self.calibration, self._context = calibration, context

    def require_heads(self) -> None:
        """Raises MissingHeadError unless the world predicts both reward and termination."""
        for name in ("reward", "termination"):
            if getattr(self, f"{name}_head") is None:
                raise MissingHeadError(
                    f"this world has no {name} head, so it cannot be an env; pretrain it with "
                    f"world.heads.{name}=true on data that has it"
                )

    def noisy_latents(self, frames: Tensor, generator: Generators) -> Tensor:
        """y~ = encode(frames) + sigma * noise: (B, T, H, W, 3) uint8 to (B, T, N, C)."""
        return self.add_noise(self.codec.encode_frames(frames), generator)

    def add_noise(self, latents: Tensor, generator: Generators) -> Tensor:
        """y~ = y + sigma * noise, of latents (B, ...)."""
        noise = normal(generator, len(latents), latents.shape[1:], like=latents)
        return latents + self.config.sigma * noise

    @torch.inference_mode()
    def initial_state(
        self,
        frames: Tensor,
        actions: Tensor,
        generator: Generators | None = None,
        known: Tensor | None = None,
        text: Tensor | None = None,
        guidance: Guidance | None = None,
    ) -> WorldState:
        """The state after K real frames.

        Args:
            frames: (B, K, H, W, 3) uint8.
            actions: (B, K, ...); `actions[:, t]` led to `frames[:, t]`, `actions[:, 0]` is unused.
            generator: of the noise on the latents; None: a fixed seed for each row.
            known: (B, K) bool, whether the action is known; None: all are.
            text: what the dreams are about, (B, E), see `worldflow.text.encoder.embed`; None: not
                said.
            guidance: of the frames to come; None: none.

        Raises:
            DataError: frames of another size than the world's, another number of actions, or text
                for a world that knows none.
            ConfigError: guidance over what the world is not conditioned on.
        """
        self._check(frames, actions)
        generator = generator or fixed(len(frames))
        return observe_frames(self, frames, actions, generator, known, text, guidance)

    @torch.inference_mode()
    def first_frame(
        self,
        batch: int,
        generator: Generators,
        temperature: float = 1.0,
        text: Tensor | None = None,
        guidance: Guidance | None = None,
    ) -> tuple[WorldState, Prediction]:
        """Dream the first frame of each row, from nothing or from text; `step` goes on from it.

        The prediction has neither reward nor end: the heads learn from frames that have a past.

        Args:
            batch: B.
            generator: as for `step`.
            temperature: scales z.
            text: as for `initial_state`.
            guidance: as for `initial_state`.

        Raises:
            DataError, ConfigError: see `initial_state`.
        """
        return dream_first(self, batch, generator, temperature, text, guidance)

    @torch.inference_mode()
    def step(
        self,
        state: WorldState,
        action: Tensor,
        generator: Generators,
        temperature: float = 1.0,
        known: Tensor | None = None,
    ) -> tuple[WorldState, Prediction]:
        """Dream one frame of each row.

        Args:
            state: the past; it stays valid.
            action: (B, ...).
            generator: one for the batch or one a row, see `worldflow.randomness`.
            temperature: scales z.
            known: (B,) bool, rows whose action is given; the others go on as video without actions
                does. None: all are.

        Returns:
            the next state, and what happened. They are inference tensors: clone what autograd
            shall record.

        Raises:
            DataError: as many actions as rows of the state are needed, of the world's shape.
        """
        batch = len(state)
        if tuple(action.shape) != (batch, *self.action_spec.shape):
            raise DataError(
                f"action has shape {tuple(action.shape)}, this state needs "
                f"{(batch, *self.action_spec.shape)}"
            )
        return dream_frame(self, state, action, generator, temperature, known)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Denoised latents (..., N, C), as frames (..., H, W, 3) uint8."""
        return self.codec.decode_frames(latents)

    def fork(self, state: WorldState, rows: Sequence[int] | None = None) -> WorldState:
        """Branch dreams: a state whose row i goes on from row `rows[i]` of `state`.

        For planners, which try a row under many actions. No step changes `state` itself.

        Args:
            state: of B dreams.
            rows: which of them, in any order, any number of times; None: each once.

        Raises:
            DataError: a row that the state does not have.
        """
        index = torch.arange(len(state)) if rows is None else torch.as_tensor(rows)
        if not index.numel() or int(index.min()) < 0 or int(index.max()) >= len(state):
            raise DataError(
                f"rows {index.tolist()} are not in 0..{len(state) - 1}; name one or more"
            )
        return state.rows(index.to(state.latents.device))

    @torch.no_grad()
    def score(
        self,
        frames: Tensor,
        actions: Tensor,
        generator: Generators | None = None,
        known: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Scores:
        """Scores (B, T) of real video: frames (B, T, H, W, 3) uint8, actions (B, T, ...).

        What is scored is y~, the frame's latents plus the world's noise. Without a generator each
        row's noise comes from the same fixed seed, so that a video has the same scores whatever
        else is in the batch. `known` and `text` are as for `initial_state`.

        Raises:
            DataError: see `initial_state`.
        """
        self._check(frames, actions)
        text = self.conditioning.texts(len(frames), text)
        return score_video(self, frames, actions, generator or fixed(len(frames)), known, text)

    @torch.no_grad()
    def log_prob(
        self,
        frames: Tensor,
        actions: Tensor,
        generator: Generators | None = None,
        known: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """log p of each frame given past, actions and text, (B, T) nats; see `score`."""
        self._check(frames, actions)
        noisy = self.noisy_latents(frames, generator or fixed(len(frames)))
        return flow_output(
            self, noisy, actions, known, self.conditioning.texts(len(frames), text)
        ).log_prob

    @torch.no_grad()
    def denoise(
        self, frames: Tensor, actions: Tensor, generator: Generators | None = None
    ) -> Tensor:
        """Real video through codec, noise and denoiser, uint8 (B, T, H, W, 3): a dream's ceiling.

        It works offline, so also with a denoiser that looks ahead.

        Raises:
            DataError: see `initial_state`.
        """
        self._check(frames, actions)
        noisy = self.noisy_latents(frames, generator or fixed(len(frames)))
        score, _ = self.denoiser(noisy, self.conditioning(actions))
        return self.codec.decode_frames(tweedie(noisy, score, self.config.sigma))

    @torch.no_grad()
    def reconstruct(self, frames: Tensor) -> Tensor:
        """uint8 frames (..., H, W, 3) through the codec and back: the best that can be shown."""
        return self.codec.decode_frames(self.codec.encode_frames(frames))

    def _check(self, frames: Tensor, actions: Tensor) -> None:
        shape = tuple(frames.shape)
        if len(shape) != 5 or shape[2:] != tuple(self.frame_shape) or frames.dtype != torch.uint8:
            raise DataError(
                f"frames have shape {shape} and type {frames.dtype}; this world needs "
                f"(B, T, {', '.join(map(str, self.frame_shape))}) uint8"
            )
        if not shape[1]:
            raise DataError("there are no frames; give at least one")
        expected = (*frames.shape[:2], *self.action_spec.shape)
        if tuple(actions.shape) != expected:
            raise DataError(f"actions have shape {tuple(actions.shape)}, expected {expected}")
