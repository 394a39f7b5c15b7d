"""Updates of pretraining in its own loop, split into their parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from timing import milliseconds
from torch import Tensor, nn

from worldflow.training.checkpoint import Progress
from worldflow.training.codec_stage import CodecStage
from worldflow.training.flow_stage import FlowStage
from worldflow.training.logger import RunLogger
from worldflow.training.loop import Stage, StageConfig, run_stage


class MarkedStage:
    """A stage of pretraining that notes when its updates begin, pass a mark, and end.

    Args:
        stage: what is trained.
        marks: modules whose calls are noted: each call begins a new part of an update.
        updates: how many.
    """

    def __init__(self, stage: Stage, marks: Sequence[nn.Module], updates: int) -> None:
        self._stage, self.name = stage, stage.name
        self.measured, self.engine = stage.measured, stage.engine
        # the loop validates and saves after the last update, which is not timed
        self.config: StageConfig = replace(stage.config, steps=updates, validate_every=updates)
        self.times: list[list[float]] = []
        self._handles = [module.register_forward_pre_hook(self._mark) for module in marks]

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        return self._stage.modules()

    def update(self, step: int) -> dict[str, Tensor]:
        """The stage's own update."""
        self.times.append([milliseconds()])
        figures = self._stage.update(step)
        self.times[-1].append(milliseconds())
        return figures

    def validate(self, step: int, logger: RunLogger) -> None:
        """Nothing: it is no part of an update. The last call, so the marks end here."""
        for handle in self._handles:
            handle.remove()

    def _mark(self, *_: object) -> None:
        self.times[-1].append(milliseconds())


@dataclass
class StageFigures:
    """What the updates of a stage cost.

    Attributes:
        name: of the stage.
        whole: a row of figures.
        parts: a row for each part.
    """

    name: str
    whole: dict[str, Any]
    parts: list[dict[str, Any]]


def time_codec_updates(stage: CodecStage, folder: Path, updates: int, warmup: int) -> StageFigures:
    """Time updates of the codec stage; `folder` is for what the loop writes."""
    # the encoder is called once, when the batch is there
    marked = MarkedStage(stage, [stage.world.codec.encoder], updates + warmup + 1)
    parts = ("batch preparation", "codec forward and backward")
    return _time(marked, parts, folder, warmup, frames=stage.config.batch)


def time_flow_updates(stage: FlowStage, folder: Path, updates: int, warmup: int) -> StageFigures:
    """Time updates of the flow stage; `folder` is for what the loop writes."""
    # actions are embedded once for the flow, when the batch is there, and once for the denoiser
    marked = MarkedStage(stage, [stage.world.conditioning], updates + warmup + 1)
    parts = (
        "batch preparation",
        "flow forward and backward",
        "denoiser and heads forward and backward",
    )
    frames = stage.config.batch * stage.config.clip
    return _time(marked, parts, folder, warmup, frames)


def _time(
    stage: MarkedStage, parts: Sequence[str], folder: Path, warmup: int, frames: int
) -> StageFigures:
    """Run the loop; an update goes from its beginning to that of the next.

    Args:
        parts: names of the parts that the marks begin; the optimizer follows them.
        frames: of a batch.

    Raises:
        RuntimeError: an update has not the marks that the parts need.
    """
    folder.mkdir()
    trained = nn.ModuleList(stage.modules())
    run_stage(stage, trained, folder, Progress(stage.name, 0, 0.0, ""), stage.config.steps)
    if any(len(times) != len(parts) + 1 for times in stage.times):
        raise RuntimeError(f"the updates of stage {stage.name} have other parts than {parts}")
    following = [times[0] for times in stage.times[1:]]
    spans = np.diff(
        [[*times, end] for times, end in zip(stage.times[:-1], following, strict=True)]
    )[warmup:]
    whole = float(np.median(spans.sum(axis=1)))
    medians = np.median(spans, axis=0).tolist()
    return StageFigures(
        name=stage.name,
        whole={
            "stage": stage.name,
            "update_ms": whole,
            "frames_per_update": frames,
            "frames_per_second": 1e3 * frames / whole,
        },
        parts=[
            {"part": part, "ms": ms, "percent": 100.0 * ms / whole}
            for part, ms in zip((*parts, "clipping and optimizer"), medians, strict=True)
        ],
    )
