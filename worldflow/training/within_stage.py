"""The second stage where the past is frozen: the maps within a frame, on what is known of it.

Reading the past is most of the flow's work, and a world that reads it well need not learn it again
to learn which ways a frame can go (`worldflow.flow.outcomes`): its features are computed once, and
an update sees frames one by one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.metadata import write_atomically
from worldflow.data.windows import ClipSampler
from worldflow.errors import ConfigError
from worldflow.training.distributed import Ranks
from worldflow.training.engine import Engine
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.flow_validation import FlowValidation
from worldflow.training.latents import LatentEpisodes
from worldflow.training.logger import RunLogger
from worldflow.training.loop import step_generators
from worldflow.training.past_features import PastFeatures
from worldflow.training.resume import RARE
from worldflow.world_model import WorldModel
from worldflow.world_spec import WorldConfig

RAREST = 0.02  # share of the frames that are rare: the least likely ones at the start
SCORED = 512  # frames at once


class WithinStage:
    """Trains what the global block adds to the past: all else is as the run found it.

    An update takes `batch * clip` frames. A share of them, `rare` at first and falling to none, is
    drawn from the least likely 2% of the training frames: what is rare has else too few samples to
    learn from. At the end frames come as often as they are, so that their chances are learned.

    Args:
        world: grown from an earlier one.
        config: how.
        episodes: encoded by the codec.
        dataset: where they come from.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        seed: of all random choices.
        engine: computes the updates.
        folder: of the run, where the features of pasts are kept.

    Attributes:
        measured: what is measured and saved, see `Engine.measured`.
    """

    name = "flow"

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
        self.world, self.config, self._seed, self._engine = world, config, seed, engine
        clips = ClipSampler(dataset.lengths, held_out, config.clip, over_end=True)
        self._validation = FlowValidation(episodes, dataset, clips, seed)
        self.measured = engine.measured(world)
        self._frames = PastFeatures(
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
        self._rare = self._rare_frames(folder / RARE) if config.rare else np.arange(0)
        engine.prepare(self.modules())

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        block = self.world.flow.global_block
        assert block.within is not None
        return [block.within, block.project, block.head, block.outcomes]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the NLL of frames given their pasts.

        Returns:
            the NLL in nats a latent, without what the frozen local blocks add.
        """
        rng, generator = step_generators(self._seed, self.name, step)
        count = self.config.frames
        index = rng.integers(len(self._frames), size=count)
        share = self.config.rare * (1.0 - step / self.config.steps)
        rare = rng.random(count) < share
        index[rare] = self._rare[rng.integers(max(len(self._rare), 1), size=int(rare.sum()))]
        with self._engine.autocast():
            nll = -self._log_prob(index, generator).mean() / self.world.dimensions
        nll.backward()
        return {"nll": nll.detach()}

    def validate(self, step: int, logger: RunLogger) -> None:
        """Measure on held-out clips, see `FlowValidation`."""
        self._validation.measure(self.measured, step, logger)

    def _log_prob(self, index: np.ndarray, generator: torch.Generator) -> Tensor:
        """log p(u_t | past) of frames (B,), nats."""
        world, device = self.world, self._engine.ranks.device
        past, latents = self._frames.rows(index)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = (latents + world.config.sigma * noise).to(device)
        with torch.no_grad():
            hidden = world.flow.hidden(noisy[:, None])[:, 0]
        return world.flow.global_block.log_prob(hidden, past.to(device))

    def _rare_frames(self, path: Path) -> np.ndarray:
        """The frames of least likelihood under the world that the run begins with.

        They are found once: a run that goes on has other weights.
        """
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["key"] == self._frames.key:
                return np.array(kept["frames"])
        found = self._least_likely()
        write_atomically(path, json.dumps({"key": self._frames.key, "frames": found}).encode())
        return np.array(found)

    @torch.no_grad()
    def _least_likely(self) -> list[int]:
        generator, found = torch.Generator().manual_seed(self._seed), []
        for start in range(0, len(self._frames), SCORED):
            index = np.arange(start, min(start + SCORED, len(self._frames)))
            found.append(self._log_prob(index, generator).cpu().numpy())
        count = max(1, int(RAREST * len(self._frames)))
        return [int(index) for index in np.argsort(np.concatenate(found))[:count]]


def check_within(world: WorldConfig, training: FlowTraining, ranks: Ranks) -> None:
    """Refuse at once what the stage cannot do.

    Raises:
        ConfigError: clips no longer than the window, no maps within a frame, or several processes.
    """
    flow = world.flow
    if training.clip <= flow.window:
        raise ConfigError(
            f"training.flow.part=within needs training.flow.clip={training.clip} to be more than "
            f"world.flow.window={flow.window}, which the frames of a clip have before them"
        )
    if ranks.size > 1 or training.accumulate > 1 or not flow.global_block.within.depth:
        raise ConfigError(
            "training.flow.part=within needs one process, training.flow.accumulate=1, and "
            "world.flow.global_block.within.depth of 1 or more; use part=all"
        )
