"""The second stage for a head of the end that reads the episode: it alone, from latents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler
from worldflow.errors import ConfigError
from worldflow.heads.episode_memory import EpisodeTerminationHead
from worldflow.heads.termination import EPISODE
from worldflow.training.batches import Batch, Episodes
from worldflow.training.engine import Engine
from worldflow.training.flow_gradients import clip_noise, some_text
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.flow_validation import FlowValidation
from worldflow.training.logger import RunLogger
from worldflow.training.loop import row_generators, step_generators
from worldflow.training.losses import on_device
from worldflow.training.part_stage import PartStage
from worldflow.world_model import WorldModel
from worldflow.world_spec import WorldConfig

MEASURED, AT_ONCE = 256, 32  # held-out episodes at most, and those that are read together
SHOWN = 32  # frames of clips that the flow is measured on: it takes the square of them


class EndStage(PartStage):
    """Trains the head on clips under new noise. It needs neither the flow nor the denoiser.

    Clips should be as long as episodes: a memory goes astray after more frames than it was trained
    on. An episode that is no longer than a clip is seen from its beginning, as dreams are that
    agents learn in; of longer ones every other clip begins within them, with an empty memory.

    Args:
        world: with an `EpisodeTerminationHead`; see `PartStage`, and so the next seven.
        config: how.
        episodes: encoded by the codec.
        dataset: where they come from.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        seed: of all random choices.
        engine: computes the updates.
    """

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
        self.head = world.termination_head
        super().__init__(world, config, episodes, dataset, train, seed, engine)
        frames = min(config.clip, max(SHOWN, world.config.context + 1))
        shown = ClipSampler(dataset.lengths, held_out, frames, over_end=True)
        self._validation = FlowValidation(episodes, dataset, shown, seed, termination=False)
        # the same episodes from their beginnings, under the same noise, each time
        rng, _ = step_generators(seed, self.name, 0)
        self._held_out = [(int(index), 0) for index in rng.permutation(held_out)[:MEASURED]]
        self.train_alone()

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
        picks = self.clips.sample(config.batch, rng)
        picks[::2] = [(episode, 0) for episode, _ in picks[::2]]
        batch = self.episodes.batch(picks, config.clip)
        generators = row_generators(self.seed, self.name, step, range(config.batch))
        shape = (config.clip, world.tokens, world.channels)
        noise, batch.known = clip_noise(generators, shape, batch.known, config.action_dropout)
        batch.text = some_text(generators, batch.text, config.text_dropout)
        logits, terminated, later = self._read(world, batch, noise)
        loss = (self.head.loss(logits, terminated) * later).sum() / later.sum().clamp(min=1)
        loss.backward()
        return {"termination": loss.detach()}

    @torch.no_grad()
    def validate(self, step: int, logger: RunLogger) -> None:
        """Log the loss on held-out episodes, the ends that come there, and those foreseen.

        Of an episode longer than a clip its first frames count.

        And at the end, of clips of `SHOWN` frames, what `FlowValidation` measures: it is all but
        the head's, which does not change.
        """
        world, clip = self.measured, self.config.clip
        losses = ends = foreseen = frames = 0.0
        generator = torch.Generator().manual_seed(self.seed)
        for start in range(0, len(self._held_out), AT_ONCE):
            batch = self.episodes.batch(self._held_out[start : start + AT_ONCE], clip)
            noise = torch.randn(batch.latents.shape, generator=generator)
            logits, terminated, later = self._read(world, batch, noise)
            head = world.termination_head
            assert head is not None
            losses += float((head.loss(logits, terminated) * later).sum())
            foreseen += float((head.probability(logits) * later).sum())
            ends += float((terminated * later).sum())
            frames += float(later.sum())
        figures = {"termination": losses / frames, "ends": ends, "ends_foreseen": foreseen}
        logger.scalars(step, {f"held_out_{name}": value for name, value in figures.items()})
        if step == self.config.steps:
            self._validation.measure(world, step, logger)

    def _read(
        self, world: WorldModel, batch: Batch, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of clips (B, T), true ends, and which of them count: of frames with a past."""
        head, lengths = world.termination_head, batch.valid.sum(dim=1)
        assert isinstance(head, EpisodeTerminationHead)
        batch = on_device(batch, self.engine.ranks.device)
        noisy = batch.latents + world.config.sigma * noise.to(batch.latents.device)
        with torch.no_grad():
            condition = world.conditioning(batch.actions, batch.known, batch.text)
        later = batch.valid.clone()
        later[:, 0] = False
        return head(noisy, condition, lengths), batch.terminated, later


def check_memory(world: WorldConfig, name: str, clip: int, longest: int) -> None:
    """Refuse to teach a head that reads the episode on pieces of episodes.

    Args:
        world: all of which is trained.
        name: of the setting `clip`.
        clip: frames of a training clip.
        longest: frames of the longest episode to learn from.

    Raises:
        ConfigError: there is such a head, and an episode that is longer than a clip.
    """
    if world.heads.termination and world.heads.termination_reads == EPISODE and clip < longest:
        raise ConfigError(
            f"world.heads.termination_reads=episode needs {name}={clip} to be as long as episodes, "
            f"{longest} frames: set it so, or train the world with world.heads.termination=false, "
            "and then its head with training.flow.part=end"
        )


def check_end(world: WorldConfig, training: FlowTraining) -> None:
    """Refuse at once what the stage cannot do.

    Raises:
        ConfigError: no head of the end, or none that reads the episode, or rare frames, which are
            the flow's.
    """
    if world.heads.termination is False:
        raise ConfigError(
            "training.flow.part=end, but the data have no terminations, or "
            "world.heads.termination=false leaves their head out"
        )
    if world.heads.termination_reads != EPISODE:
        raise ConfigError(
            "training.flow.part=end is for world.heads.termination_reads=episode; use part=heads"
        )
    if training.rare:
        raise ConfigError(
            "training.flow.part=end knows no rare frames: leave training.flow.rare at 0"
        )
