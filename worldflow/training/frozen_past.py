"""What the stages share that leave the past as it is: its features are computed once.

Reading the past is most of the flow's work, and a world that reads it well need not learn it again
to learn the rest.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.metadata import write_atomically
from worldflow.data.windows import ClipSampler
from worldflow.errors import ConfigError, DataError
from worldflow.heads.termination import EPISODE, PAST
from worldflow.training.checkpoint import CHECKPOINT
from worldflow.training.distributed import Ranks
from worldflow.training.end_stage import check_end
from worldflow.training.engine import Engine
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.flow_validation import FlowValidation
from worldflow.training.latents import LatentEpisodes
from worldflow.training.logger import RunLogger
from worldflow.training.part_stage import PartStage
from worldflow.training.parts import PARTS
from worldflow.training.past_features import PastFeatures, tensors
from worldflow.training.resume import RARE
from worldflow.world_model import WorldModel
from worldflow.world_spec import WorldConfig

RAREST = 0.02  # share of the frames that are rare: the least likely ones at the start
SCORED = 512  # frames at once


class FrozenPastStage(PartStage):
    """Trains a part of the world on the pasts of frames.

    A share of what an update sees, `rare` at first and falling to none, is drawn from the least
    likely 2% of the training frames: what is rare has else too few samples to learn from. At the
    end frames come as often as they are, so that their chances are learned.

    Args:
        world: see `PartStage`, and so the next seven.
        config: how.
        episodes: encoded by the codec.
        dataset: where they come from.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        seed: of all random choices.
        engine: computes the updates.
        folder: of the run, where the features of pasts are kept.

    Attributes:
        frames: of the training episodes, with their pasts.
        rare: numbers of those that are rare.

    Raises:
        DataError: the run goes on, and which frames were rare is not known any more.
    """

    episodes: LatentEpisodes

    def __init__(
        self,
        world: WorldModel,
        config: FlowTraining,
        episodes: LatentEpisodes,
        dataset: EpisodeDataset,
        train: np.ndarray,
        held_out: np.ndarray,
        seed: int,
        engine: Engine,
        folder: Path,
    ) -> None:
        super().__init__(world, config, episodes, dataset, train, seed, engine)
        held = ClipSampler(dataset.lengths, held_out, config.clip, over_end=True)
        self._validation = FlowValidation(episodes, dataset, held, seed)
        self.frames = PastFeatures(
            world,
            episodes,
            episodes.key,
            train,
            dataset.lengths,
            config.clip,
            (config.action_dropout, config.text_dropout),
            seed,
            folder,
        )
        self.rare = self._rare_frames(folder / RARE) if config.rare else np.arange(0)
        self.train_alone()

    def validate(self, step: int, logger: RunLogger) -> None:
        """Measure on held-out clips, see `FlowValidation`."""
        self._validation.measure(self.measured, step, logger)

    def draw_rare(
        self, rng: np.random.Generator, count: int, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which samples of an update are drawn for a rare frame, and for which.

        Args:
            rng: of the update.
            count: of its samples, B.
            step: number of the update.

        Returns:
            (B,) bool, and the numbers of as many rare frames as it is true.
        """
        chosen = rng.random(count) < self.config.rare * (1.0 - step / self.config.steps)
        picks = rng.integers(max(len(self.rare), 1), size=int(chosen.sum()))
        return chosen, self.rare[picks]

    def log_prob(self, index: np.ndarray, generator: torch.Generator) -> Tensor:
        """log p(y~_t | past) of frames (B,) under new noise, nats."""
        device = self.engine.ranks.device
        past, latents = tensors(self.frames.past[index], self.frames.latents[index])
        noise = torch.randn(latents.shape, generator=generator)
        noisy = latents + self.world.config.sigma * noise
        return self.world.flow.log_prob_given(noisy.to(device), past.to(device))

    def _rare_frames(self, path: Path) -> np.ndarray:
        """The frames of least likelihood under the world that the run begins with.

        They are found once: a run that goes on has other weights.
        """
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["key"] == self.frames.key:
                return np.array(kept["frames"])
        if (path.parent / CHECKPOINT).exists():
            raise DataError(
                f"{path} is missing or of other pasts, so the run in {path.parent} cannot go on to "
                "the same result; begin anew with another out="
            )
        found = self._least_likely()
        write_atomically(path, json.dumps({"key": self.frames.key, "frames": found}).encode())
        return np.array(found)

    @torch.no_grad()
    def _least_likely(self) -> list[int]:
        generator, found = torch.Generator().manual_seed(self.seed), []
        for start in range(0, len(self.frames), SCORED):
            index = np.arange(start, min(start + SCORED, len(self.frames)))
            found.append(self.log_prob(index, generator).cpu().numpy())
        count = max(1, int(RAREST * len(self.frames)))
        return [int(index) for index in np.argsort(np.concatenate(found))[:count]]


def check_frozen_past(world: WorldConfig, training: FlowTraining, ranks: Ranks) -> None:
    """Refuse at once what these stages, and that of the end alone, cannot do.

    Raises:
        ConfigError: clips no longer than the window, several processes, no maps within a frame or
            heads to train, a hazard that would be left behind, a head that remembers and would
            learn from short clips, a denoiser that looks ahead, or what `check_end` refuses.
    """
    flow, part = world.flow, f"training.flow.part={training.part}"
    if ranks.size > 1 or training.accumulate > 1:
        raise ConfigError(f"{part} needs one process and training.flow.accumulate=1; use part=all")
    if training.part == "end":
        check_end(world, training)
        return
    if training.clip <= flow.window:
        raise ConfigError(
            f"{part} needs training.flow.clip={training.clip} to be more than "
            f"world.flow.window={flow.window}, which the frames of a clip have before them"
        )
    if training.part == "within" and not flow.global_block.within.depth:
        raise ConfigError(
            f"{part} needs world.flow.global_block.within.depth of 1 or more; use part=all"
        )
    heads = world.heads
    if training.part == "within" and heads.termination and heads.termination_reads == PAST:
        raise ConfigError(
            f"{part} changes what a head with world.heads.termination_reads=past reads; leave it "
            "out with world.heads.termination=false, and train it afterwards with "
            "training.flow.part=heads"
        )
    if training.part == "heads" and heads.reward is False and heads.termination is False:
        raise ConfigError(
            f"{part}, but there are none: the data have neither rewards nor terminations, or "
            "world.heads leaves them out"
        )
    remembers = heads.termination is not False and heads.termination_reads == EPISODE
    if training.part != "within" and remembers:
        raise ConfigError(
            f"{part} would teach the head that reads the episode on clips of "
            f"training.flow.clip={training.clip}: leave it out with world.heads.termination=false, "
            "and train it afterwards with training.flow.part=end"
        )
    if training.part == "denoiser" and world.denoiser.lookahead:
        raise ConfigError(
            f"{part} needs world.denoiser.lookahead=0: its target knows the past alone; use "
            "part=all"
        )


def check_untrained(part: str, fresh: list[str], earlier: str) -> None:
    """Refuse to leave weights at random.

    Args:
        part: that is trained.
        fresh: names of the weights that the earlier world has not.
        earlier: name or folder of that world.

    Raises:
        ConfigError: a part of the world was not learned and would not be.
    """
    left = [name for name in fresh if not name.startswith(PARTS[part].learns)]
    if left:
        raise ConfigError(
            f"training.flow.part={part} would leave {left[0]} untrained, which {earlier} has not "
            "or learned from other actions or rewards, or from other features; use part=all"
        )
