"""Figures, pictures and videos of a run: TensorBoard for people, metrics.jsonl for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from worldflow.data.metadata import write_atomically
from worldflow.pictures.video import animation, write_video

METRICS, TENSORBOARD, VIDEOS = "metrics.jsonl", "tensorboard", "videos"


def video_path(run: Path, tag: str, step: int) -> Path:
    """Where the video `stage/name` of a step lies in a run's folder."""
    return run / VIDEOS / f"{tag.replace('/', '_')}_{step:07d}.mp4"


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
        self.folder, self.path = folder, folder / METRICS
        self._forget(start)
        self._tensorboard = SummaryWriter(str(folder / TENSORBOARD / stage), purge_step=start + 1)

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
        """Log frames (T, H, W, 3) uint8, of even height and width, and write them as an mp4.

        TensorBoard shows them, as an animated picture, under the tag `stage/name_video`.
        """
        path = video_path(self.folder, f"{self.stage}/{name}", step)
        path.parent.mkdir(exist_ok=True)
        write_video(path, frames, fps)
        _, height, width, channels = frames.shape
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=channels,
            encoded_image_string=animation(frames, fps),
        )
        tag = f"{self.stage}/{name}_video"
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._tensorboard._get_file_writer().add_summary(summary, step)

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
