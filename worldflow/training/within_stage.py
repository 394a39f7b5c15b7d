"""The second stage for the maps within a frame alone: which ways a frame can go, given its past."""

from __future__ import annotations

from torch import Tensor, nn

from worldflow.training.frozen_past import FrozenPastStage
from worldflow.training.loop import step_generators


class WithinStage(FrozenPastStage):
    """Trains what the global block adds to the past, on frames one by one.

    An update takes `batch * clip` frames, each under new noise.
    """

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        block = self.world.flow.global_block
        assert block.within is not None
        outcomes = [block.outcomes] if block.outcomes.count > 1 else []  # one has no weights
        return [block.within, block.project, block.head, *outcomes]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the NLL of frames given their pasts.

        Returns:
            the NLL in nats a latent.
        """
        rng, generator = step_generators(self.seed, self.name, step)
        count = self.config.frames
        index = rng.integers(len(self.frames), size=count)
        rare, drawn = self.draw_rare(rng, count, step)
        index[rare] = drawn
        with self.engine.autocast():
            nll = -self.log_prob(index, generator).mean() / self.world.dimensions
        nll.backward()
        return {"nll": nll.detach()}
