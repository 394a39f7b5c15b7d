"""The only stage of joint training: codec, flow, denoiser and heads together (SimFlow, 2512.04084).

What is minimised is a bound on the bits of the pixels, see `worldflow.pixel_bits`: the
codec learns latents that the flow can predict, as far as the pixels do not suffer by more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.codec import saliency
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.frames import to_float
from worldflow.data.windows import ClipSampler
from worldflow.errors import ConfigError
from worldflow.randomness import uniform
from worldflow.training.batches import Batch, FrameEpisodes, Steps, read_frames
from worldflow.training.codec_frames import (
    STATISTICS_FRAMES,
    FramePairs,
    fit_likelihood,
    measure_codec,
    set_scale,
)
from worldflow.training.engine import Engine
from worldflow.training.flow_gradients import (
    Counts,
    FlowGradients,
    Piece,
    clip_noise,
    some_text,
)
from worldflow.training.flow_stage import check_shares
from worldflow.training.flow_validation import FlowValidation
from worldflow.training.logger import RunLogger
from worldflow.training.loop import STREAMS, StageConfig, row_generators
from worldflow.training.losses import JointCodecLoss
from worldflow.training.order import EpochOrder
from worldflow.training.prefetch import Prefetch
from worldflow.world_model import WorldModel

# Of the latents' running statistics: over tens of batches, as one of few clips is shifted, and not
# over hundreds, as the encoder moves on.
MOMENTUM = 0.05


@dataclass
class JointTraining(StageConfig):
    """Training of everything at once.

    Attributes:
        clip: frames of a training clip.
        head_weight: of the heads' losses beside the denoiser's.
        action_dropout: share of the clips whose actions are hidden, see `FlowTraining`.
        text_dropout: share of the clips whose caption is hidden, see `FlowTraining`.
        prior_weight: of the flow's likelihood for the encoder; 1 makes it learn the bound itself.
        reconstruction_weight: of the weighted error of frames decoded at less noise than sigma, as
            they are shown, beside the bound in nats a dimension of the pixels. 0: the bound alone.
        saliency_weight: in that error, see `CodecTraining`.
    """

    steps: int = 4000
    batch: int = 8
    learning_rate: float = 1e-3
    clip: int = 8
    head_weight: float = 0.3
    action_dropout: float = 0.1
    text_dropout: float = 0.1
    prior_weight: float = 1.0
    reconstruction_weight: float = 10.0
    saliency_weight: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip < 2:
            raise ConfigError(f"training.joint.clip is {self.clip}; a past needs 2 frames or more")
        check_shares("training.joint", self.action_dropout, self.text_dropout)
        for name in ("prior_weight", "reconstruction_weight", "saliency_weight"):
            if getattr(self, name) < 0.0:
                raise ConfigError(
                    f"training.joint.{name} is {getattr(self, name)}; it must not be negative"
                )

    @property
    def frames(self) -> int:
        """Of an update."""
        return self.batch * self.clip


@dataclass
class JointWork:
    """What a rank computes in an update.

    Attributes:
        frames: (B, T, H, W, 3) uint8, the last one repeated after an episode's end.
        steps: what is recorded of the clips.
        noise: on the latents, standard normal, (B, T, N, C).
        level: of each clip, see `JointCodecLoss`, (B,).
        counts: of the whole batch.
    """

    frames: Tensor
    steps: Steps
    noise: Tensor
    level: Tensor
    counts: Counts


class JointStage:
    """Trains the whole world.

    There are no pieces: the latents' scale is that of a whole batch. It follows running statistics
    (`LatentScale.steady`), so that the flow learns the latents which the frozen codec gives.

    Args:
        world: is trained.
        config: how.
        dataset: where the frames are.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        seed: of all random choices.
        engine: computes the updates. The codec is small: it is never sharded.
        text: of the dataset's episodes, (E, W); None: none.

    Attributes:
        measured: what is measured and saved, see `Engine.measured`.
        episodes: encoded by its codec.

    Raises:
        ConfigError: the batch does not divide by the engine's ranks.
    """

    name = "joint"

    def __init__(
        self,
        world: WorldModel,
        config: JointTraining,
        dataset: EpisodeDataset,
        train: np.ndarray,
        held_out: np.ndarray,
        seed: int,
        engine: Engine | None = None,
        text: np.ndarray | None = None,
    ) -> None:
        self.world, self.config, self.seed = world, config, seed
        self.dataset, self.engine = dataset, engine or Engine()
        self.train = ClipSampler(dataset.lengths, train, config.clip, over_end=True)
        self._order = EpochOrder(len(self.train), config.batch, (seed, STREAMS[self.name]))
        [self._rows] = self.engine.ranks.rows(config.batch, 1, "training.joint.batch")
        self._pairs = [FramePairs(dataset, indices, seed) for indices in (train, held_out)]
        frames = self._pairs[0].sample(STATISTICS_FRAMES)[1]
        self._background = frames.mean(0, keepdim=True).to(self.engine.ranks.device)
        set_scale(world.codec, frames)
        world.codec.scale.steady, world.codec.scale.momentum = True, MOMENTUM
        for bias in world.codec.idle_biases:  # they would wander, and running statistics lag behind
            bias.requires_grad_(False)
        world.codec.scale.over_ranks = self.engine.ranks.size > 1
        world.codec.likelihood.requires_grad_(True)

        self.measured = self.engine.measured(world)
        clips = ClipSampler(dataset.lengths, held_out, config.clip, over_end=True)
        self.episodes = FrameEpisodes(self.measured.codec, dataset, text)
        self._validation = FlowValidation(self.episodes, dataset, clips, seed)
        self._gradients = FlowGradients(world, self.engine, config.head_weight)
        loss = JointCodecLoss(world.codec, world.config.sigma, config.reconstruction_weight > 0.0)
        self._codec_loss = self.engine.replicated(loss)
        self._work = Prefetch.beside(self.engine.ranks.device, self._prepare)

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        codec = self.world.codec
        return [codec.encoder, codec.decoder, codec.likelihood, *self._gradients.modules()]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the bound, of the weighted error, and of denoiser and heads.

        The flow's gradient at its input is needed thrice, and computed once: it leads to the flow's
        weights, it is the denoiser's target, and it goes on to the encoder.

        Returns:
            the losses; on several ranks each has its own share of them.
        """
        work, ranks, config = self._work.batch(step), self.engine.ranks, self.config
        self.world.codec.train()
        frames, valid = work.frames.to(ranks.device), work.steps.valid.to(ranks.device)
        weight = self._weight(frames) * valid.flatten()[:, None, None, None]
        noise = work.noise.to(ranks.device)
        level = work.level.to(ranks.device).repeat_interleave(config.clip)[:, None, None]
        with self.engine.autocast():
            latents, log_prob, error = self._codec_loss(
                frames.flatten(0, 1), weight, noise.flatten(0, 1), level
            )
        pixels = math.prod(self.world.frame_shape)
        nll = -(log_prob * valid.flatten()).sum() / (work.counts.frames * pixels)
        # of the mean weight of this rank to that of all, which is what the error is relative to
        relative = weight.mean() / ranks.sum(weight.mean())

        batch = Batch(latents=latents.detach().reshape(noise.shape), **vars(work.steps))
        figures, gradient = self._gradients.backward(Piece(batch, noise), work.counts)
        # from nats a latent to nats a dimension of the pixels
        gradient *= config.prior_weight * self.world.dimensions / pixels
        total = ranks.size * (nll + config.reconstruction_weight * relative * error)
        torch.autograd.backward([total, latents], [None, gradient.reshape(latents.shape)])
        own = {"pixel_nll": nll.detach(), "reconstruction": (relative * error).detach()}
        return own | figures

    def validate(self, step: int, logger: RunLogger) -> None:
        """Measure on held-out frames and clips, see `measure_codec` and `FlowValidation`."""
        measure_codec(self.measured.codec, self._pairs[1], self._background, step, logger)
        self._validation.measure(self.measured, step, logger)

    def freeze(self) -> None:
        """End the training of what is measured: the latents' scale stays the running one."""
        self.measured.eval().requires_grad_(False)
        fit_likelihood(self.measured, self._pairs[0], self.seed)

    def _weight(self, frames: Tensor) -> Tensor:
        """Of pixels, (B * T, 1, H, W); the first frame of a clip is compared with the second."""
        pixels = to_float(frames)
        previous = torch.cat([pixels[:, 1:2], pixels[:, :-1]], dim=1)
        salient = saliency(pixels.flatten(0, 1), previous.flatten(0, 1), self._background)
        return 1.0 + self.config.saliency_weight * salient

    def _prepare(self, step: int) -> JointWork:
        clip, shape = self.config.clip, (self.world.tokens, self.world.channels)
        picks = self.train.picks(self._order.positions(step))
        own = [picks[row] for row in self._rows]
        steps = self.episodes.steps(own, clip)
        generators = row_generators(self.seed, self.name, step, self._rows)
        dropout = self.config.action_dropout
        noise, steps.known = clip_noise(generators, (clip, *shape), steps.known, dropout)
        # the decoder shows denoised latents, whose remaining error lies between 0 and sigma
        level = uniform(generators, len(own), like=noise).sqrt()
        steps.text = some_text(generators, steps.text, self.config.text_dropout)
        frames = read_frames(self.dataset, own, clip)
        return JointWork(frames, steps, noise, level, Counts.of(picks, self.dataset.lengths, clip))
