"""Figures and pictures of a run: TensorBoard and videos for people, metrics.jsonl for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from worldflow.data.metadata import write_atomically
from worldflow.evaluation.video import write_video


class RunLogger:
    """Writes scalars and pictures under tags `stage/name`, videos into the folder `videos`.

    A run that continues at step n of a stage first forgets what its killed predecessor logged after
    n, so that no figure appears twice.

    Args:
        folder: of the run.
        stage: prefix of all tags.
        start: step at which the stage starts or continues.
    """

    def __init__(self, folder: Path, stage: str, start: int) -> None:
        self.stage = stage
        self.path = folder / "metrics.jsonl"
        self._videos = folder / "videos"
        self._forget(start)
        self._tensorboard = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=start + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers at a step."""
        with self.path.open("a") as stream:
            for name, value in values.items():
                tag = f"{self.stage}/{name}"
                self._tensorboard.add_scalar(tag, value, step)
                stream.write(json.dumps({"step": step, "tag": tag, "value": value}) + "\n")

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Log a picture (H, W, 3) uint8."""
        tag = f"{self.stage}/{name}"
        self._tensorboard.add_image(tag, picture, step, dataformats="HWC")

    def speed(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers that another run of the same settings does not repeat: TensorBoard only."""
        for name, value in values.items():
            self._tensorboard.add_scalar(f"{self.stage}/{name}", value, step)

    def video(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Write frames (T, H, W, 3) uint8, of even height and width, as an mp4."""
        self._videos.mkdir(exist_ok=True)
        write_video(self._videos / f"{self.stage}_{name}_{step:07d}.mp4", frames, fps)

    def flush(self) -> None:
        """Put what was logged on disk: what a checkpoint covers is not logged again."""
        self._tensorboard.flush()

    def close(self) -> None:
        """Flush everything."""
        self._tensorboard.close()

    def _forget(self, start: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):  # a kill cut the last line
                continue
            entry = json.loads(line)
            if not entry["tag"].startswith(f"{self.stage}/") or entry["step"] <= start:
                kept.append(line)
        write_atomically(self.path, "".join(kept).encode())
