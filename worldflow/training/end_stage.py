"""The second stage for a head of the end that reads the episode: it alone, from latents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler
from worldflow.episode_memory import EpisodeTerminationHead
from worldflow.training.batches import Episodes
from worldflow.training.engine import Engine
from worldflow.training.flow_gradients import clip_noise, some_text
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.flow_validation import FlowValidation
from worldflow.training.logger import RunLogger
from worldflow.training.loop import row_generators, step_generators
from worldflow.training.losses import on_device
from worldflow.world_model import WorldModel


class EndStage:
    """Trains the head on clips under new noise. It needs neither the flow nor the denoiser.

    A clip that begins within an episode begins with an empty memory, as a dream does.

    Args:
        world: grown from an earlier one, with an `EpisodeTerminationHead`.
        config: how.
        episodes: encoded by the codec.
        dataset: where they come from.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        seed: of all random choices.
        engine: computes the updates.

    Attributes:
        measured: what is measured and saved, see `Engine.measured`.
    """

    name = "flow"

    def __init__(
        self,
        world: WorldModel,
        config: FlowTraining,
        episodes: Episodes,
        dataset: EpisodeDataset,
        train: np.ndarray,
        held_out: np.ndarray,
        seed: int,
        engine: Engine,
    ) -> None:
        assert isinstance(world.termination_head, EpisodeTerminationHead)
        self.world, self.head = world, world.termination_head
        self.config, self.episodes, self.seed, self.engine = config, episodes, seed, engine
        self.clips = ClipSampler(dataset.lengths, train, config.clip, over_end=True)
        held = ClipSampler(dataset.lengths, held_out, config.clip, over_end=True)
        self._validation = FlowValidation(episodes, dataset, held, seed)
        self.measured = engine.measured(world)
        world.requires_grad_(False)
        self.head.requires_grad_(True)
        engine.prepare(self.modules())

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        return [self.head]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the head's loss over the frames that have a past.

        Returns:
            the loss, nats a frame.
        """
        world, config = self.world, self.config
        rng, _ = step_generators(self.seed, self.name, step)
        batch = self.episodes.batch(self.clips.sample(config.batch, rng), config.clip)
        generators = row_generators(self.seed, self.name, step, range(config.batch))
        shape = (config.clip, world.tokens, world.channels)
        noise, batch.known = clip_noise(generators, shape, batch.known, config.action_dropout)
        batch.text = some_text(generators, batch.text, config.text_dropout)
        device = self.engine.ranks.device
        batch = on_device(batch, device)
        noisy = batch.latents + world.config.sigma * noise.to(device)
        with torch.no_grad():
            condition = world.conditioning(batch.actions, batch.known, batch.text)
        with self.engine.autocast():
            losses = self.head.loss(self.head(noisy, condition), batch.terminated)
        later = batch.valid[:, 1:]
        loss = (losses[:, 1:] * later).sum() / later.sum().clamp(min=1)
        (config.head_weight * loss).backward()
        return {"termination": loss.detach()}

    def validate(self, step: int, logger: RunLogger) -> None:
        """Measure on held-out clips, see `FlowValidation`."""
        self._validation.measure(self.measured, step, logger)
