"""The composition: codec, conditioning, flow, denoiser and heads as one world that can be stepped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.actions import ActionSpec
from worldflow.codec import Codec, CodecConfig
from worldflow.conditioning import ActionConditioning
from worldflow.denoiser import Denoiser, DenoiserConfig, tweedie
from worldflow.errors import ConfigError, DataError, MissingHeadError
from worldflow.flow.cache import WindowCache
from worldflow.flow.flow import Flow, FlowConfig, FlowState
from worldflow.heads import HeadsConfig, RewardHead, TerminationHead
from worldflow.novelty import UNCALIBRATED, Calibration, bits_per_dim, prediction_entropy
from worldflow.randomness import Generators, normal, uniform

# longer videos are scored frame by frame, as a full attention mask would outgrow the memory
FULL_FORWARD_FRAMES = 64


@dataclass
class WorldConfig:
    """What a world is built of.

    Attributes:
        sigma: standard deviation of the noise on unit-scale latents, a constant of the world.
        context: K, frames of a real episode from which a dream starts.
        condition: size of the vector that an action becomes.
    """

    sigma: float = 0.3
    context: int = 4
    condition: int = 128
    codec: CodecConfig = field(default_factory=CodecConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ConfigError(f"world.sigma is {self.sigma}; it must be positive")
        if self.context < 1:
            raise ConfigError(f"world.context is {self.context}; a dream needs a first frame")


@dataclass(frozen=True)
class WorldSpec:
    """What a world learned from, as far as its use must know.

    Attributes:
        action_spec: kind and limits of the actions.
        frame_shape: (H, W, 3).
        fps: frames a second at the speed of the source.
        source: how to make the real env again, as its dataset says.
        reward_range: smallest and largest reward of the data.
    """

    action_spec: ActionSpec
    frame_shape: tuple[int, int, int]
    fps: float
    source: dict[str, Any]
    reward_range: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Contexts:
    """Beginnings of held-out real episodes: frames (M, K, H, W, 3) uint8, actions (M, K, ...)."""

    frames: np.ndarray
    actions: np.ndarray


@dataclass(frozen=True)
class WorldState:
    """The past of B dreams; immutable, so that an old state can be stepped again.

    Attributes:
        flow: what the flow remembers.
        denoiser: what the denoiser remembers.
        frame: the last frame as shown, (B, H, W, 3) uint8.
    """

    flow: FlowState
    denoiser: WindowCache
    frame: Tensor

    @staticmethod
    def where(rows: Tensor, a: WorldState, b: WorldState) -> WorldState:
        """Rows of `a` where `rows` (B,) bool is true, rows of `b` elsewhere."""
        return WorldState(
            FlowState.where(rows, a.flow, b.flow),
            WindowCache.where(rows, a.denoiser, b.denoiser),
            torch.where(rows[:, None, None, None], a.frame, b.frame),
        )


@dataclass(frozen=True)
class Scores:
    """What the flow says of frames; all of one shape.

    Attributes:
        log_likelihood: of the frame's noisy latents, given past and actions, in nats; exact.
        bits_per_dim: the same in bits for each latent.
        uncertainty: entropy of the predicted frame in nats.
        novelty: |log-likelihood - typical| in standard deviations of held-out real frames.
    """

    log_likelihood: Tensor
    bits_per_dim: Tensor
    uncertainty: Tensor
    novelty: Tensor


@dataclass(frozen=True)
class Prediction(Scores):
    """One dreamed frame of each row.

    Attributes:
        frame: (B, H, W, 3) uint8.
        latents: denoised, (B, N, C).
        reward: (B,), or None for a world without a reward head.
        terminated: (B,) bool, or None for a world without a termination head.
        jacobi_iterations: passes of each block, the global one first, (B, blocks) int64.
    """

    frame: Tensor
    latents: Tensor
    reward: Tensor | None
    terminated: Tensor | None
    jacobi_iterations: Tensor


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
        self.conditioning = ActionConditioning(spec.action_spec, config.condition)
        self.flow = Flow(config.flow, self.tokens, self.channels, config.condition)
        self.denoiser = Denoiser(config.denoiser, self.tokens, self.channels, config.condition)
        heads, features = config.heads, config.denoiser.transformer.width
        self.reward_head = (
            RewardHead(self.tokens, features, heads.hidden, *spec.reward_range)
            if heads.reward else None
        )
        self.termination_head = (
            TerminationHead(self.tokens, features, heads.hidden) if heads.termination else None
        )

    @property
    def action_spec(self) -> ActionSpec:
        """Kind and limits of the actions."""
        return self.spec.action_spec

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, 3)."""
        return self.spec.frame_shape

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

    def noisy_latents(self, frames: Tensor, generators: Generators) -> Tensor:
        """y~ = encode(frames) + sigma * noise: (B, T, H, W, 3) uint8 to (B, T, N, C)."""
        latents = self.codec.encode_frames(frames)
        noise = normal(generators, len(latents), latents.shape[1:], like=latents)
        return latents + self.config.sigma * noise

    @torch.no_grad()
    def initial_state(
        self, frames: Tensor, actions: Tensor, generators: Generators
    ) -> WorldState:
        """The state after K real frames.

        Args:
            frames: (B, K, H, W, 3) uint8.
            actions: (B, K, ...); `actions[:, t]` led to `frames[:, t]`, `actions[:, 0]` is unused.
            generators: of the noise on the latents.

        Raises:
            DataError: frames of another size than the world's, or another number of actions.
        """
        self._check(frames, actions)
        noisy = self.noisy_latents(frames, generators)
        condition = self.conditioning(actions)
        flow = self.flow.empty_state(len(frames))
        cache = self.denoiser.empty_cache(len(frames))
        for t in range(frames.shape[1]):
            flow, _ = self.flow.observe(flow, noisy[:, t], condition[:, t])
            score, _, cache = self.denoiser.step(noisy[:, t], condition[:, t], cache)
        shown = self.codec.decode_frames(tweedie(noisy[:, -1], score, self.config.sigma))
        return WorldState(flow, cache, shown)

    @torch.no_grad()
    def step(
        self,
        state: WorldState,
        action: Tensor,
        generators: Generators,
        temperature: float = 1.0,
    ) -> tuple[WorldState, Prediction]:
        """Dream one frame of each row.

        Args:
            state: the past; it stays valid.
            action: (B, ...).
            generators: one a row, or one for the batch, see `worldflow.randomness`.
            temperature: scales z.

        Returns:
            the next state, and what happened.
        """
        batch = len(action)
        condition = self.conditioning.embed(action)
        like = state.flow.levels[0]
        z = temperature * normal(generators, batch, like.shape[1:], like=like)
        noisy, passes = self.flow.sample(state.flow, z, condition)
        # Scoring the sample instead of trusting z makes its likelihood and the cache exact, whatever
        # the sampler's tolerance.
        flow, scored = self.flow.observe(state.flow, noisy, condition)
        score, features, cache = self.denoiser.step(noisy, condition, state.denoiser)
        latents = tweedie(noisy, score, self.config.sigma)
        reward = terminated = None
        if self.reward_head is not None:
            reward = self.reward_head.mean(self.reward_head(features))
        if self.termination_head is not None:
            probability = self.termination_head.probability(self.termination_head(features))
            terminated = uniform(generators, batch, like=probability) < probability
        frame = self.codec.decode_frames(latents)
        prediction = Prediction(
            **vars(self._scores(scored.log_prob, scored.log_scale)),
            frame=frame, latents=latents, reward=reward, terminated=terminated,
            jacobi_iterations=passes,
        )
        return WorldState(flow, cache, frame), prediction

    @torch.no_grad()
    def score(
        self, frames: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> Scores:
        """Scores (B, T) of real video: frames (B, T, H, W, 3) uint8, actions (B, T, ...).

        What is scored is y~, the frame's latents plus the world's noise. Without a generator the
        noise comes from a fixed seed, so that the same video has the same scores.

        Raises:
            DataError: see `initial_state`.
        """
        self._check(frames, actions)
        noisy = self.noisy_latents(frames, generator or torch.Generator().manual_seed(0))
        condition = self.conditioning(actions)
        if frames.shape[1] <= FULL_FORWARD_FRAMES:
            out = self.flow(noisy, condition)
            return self._scores(out.log_prob, out.log_scale)
        state = self.flow.empty_state(len(frames))
        columns = []
        for t in range(frames.shape[1]):
            state, out = self.flow.observe(state, noisy[:, t], condition[:, t])
            columns.append((out.log_prob, out.log_scale))
        log_prob, log_scale = (torch.stack(c, dim=1) for c in zip(*columns, strict=True))
        return self._scores(log_prob, log_scale)

    def log_prob(
        self, frames: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """log p of each frame given its past and actions, (B, T) nats; see `score`."""
        return self.score(frames, actions, generator).log_likelihood

    @torch.no_grad()
    def reconstruct(self, frames: Tensor) -> Tensor:
        """Frames through the codec and back, uint8 (..., H, W, 3): what the world can show at best."""
        return self.codec.decode_frames(self.codec.encode_frames(frames))

    def _scores(self, log_prob: Tensor, log_scale: Tensor) -> Scores:
        return Scores(
            log_likelihood=log_prob,
            bits_per_dim=bits_per_dim(log_prob, self.dimensions),
            uncertainty=prediction_entropy(log_scale, self.dimensions),
            novelty=self.calibration.novelty(log_prob),
        )

    def _check(self, frames: Tensor, actions: Tensor) -> None:
        if frames.ndim != 5 or tuple(frames.shape[2:]) != tuple(self.frame_shape):
            raise DataError(
                f"frames have shape {tuple(frames.shape)}; this world needs "
                f"(B, T, {', '.join(map(str, self.frame_shape))}) uint8"
            )
        expected = (*frames.shape[:2], *self.action_spec.shape)
        if tuple(actions.shape) != expected:
            raise DataError(f"actions have shape {tuple(actions.shape)}, expected {expected}")
