"""The settings of the drift report."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from worldflow.errors import ConfigError
from worldflow.held_out import RealData
from worldflow.training.engine import PRECISIONS

DREAMERS = ("flow", "clean", "diffusion")
POLICIES = ("random", "recorded")
# fields that measurements do not depend on
FREE = ("out", "dreamers", "diffusion", "precision", "device", "groups")


@dataclass
class Horizon:
    """Settings.

    Attributes:
        world: name or folder of the flow; its encoder and novelty measure all dreamers alike.
        data: real episodes; the held-out ones are used.
        out: folder for everything.
        dreamers: of "flow", "clean" (the flow with clean feedback) and "diffusion".
        diffusion: folder of `train_diffusion.py`; needed for the dreamer of that name.
        precision: of the diffusion dreamer, "fp32" or "bf16".
        steps: of the long dreams.
        rows: of the long dreams.
        policy: of their actions: "random" (sticky), or "recorded" (held-out episodes' in a row).
        sticky: probability that a random action is repeated.
        temperature: of the flow.
        real_clips: held-out clips for band and reference, half for each.
        real_length: frames of each.
        groups: of real frames, for the band.
        clips: held-out clips that are dreamed under their own actions.
        psnr_steps: steps at which their PSNR is taken.
        speed_rows: sizes of batches whose step is timed.
        speed_steps: timed steps.
        batch: rows dreamed or scored at once. A dream depends on it, as each batch has a seed.
        device: "cpu", "cuda", or "auto": a GPU if there is one.
        seed: of everything.
    """

    world: str = MISSING
    data: RealData = field(default_factory=RealData)
    out: str = MISSING
    dreamers: list[str] = field(default_factory=lambda: list(DREAMERS))
    diffusion: str | None = None
    precision: str = "fp32"
    steps: int = 481
    rows: int = 16
    policy: str = "random"
    sticky: float = 0.5
    temperature: float = 1.0
    real_clips: int = 256
    real_length: int = 100
    groups: int = 400
    clips: int = 64
    psnr_steps: list[int] = field(default_factory=lambda: [1, 8, 16, 30])
    speed_rows: list[int] = field(default_factory=lambda: [1, 16])
    speed_steps: int = 20
    batch: int = 32
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.dreamers or not set(self.dreamers) <= set(DREAMERS):
            raise ConfigError(f"dreamers={self.dreamers} must be of {', '.join(DREAMERS)}")
        if "diffusion" in self.dreamers and self.diffusion is None:
            raise ConfigError(
                "the dreamer diffusion needs diffusion=FOLDER; train it: "
                "benchmarks/train_diffusion.py, or leave it out: dreamers=[flow,clean]"
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {self.precision!r}; use one of {', '.join(PRECISIONS)}"
            )
        if self.policy not in POLICIES:
            raise ConfigError(f"policy is {self.policy!r}; use one of {', '.join(POLICIES)}")
        if not 0.0 <= self.sticky <= 1.0 or self.temperature <= 0.0 or self.seed < 0:
            raise ConfigError(
                f"sticky={self.sticky} must be 0 to 1, temperature={self.temperature} positive, "
                f"seed={self.seed} not negative"
            )
        counts = ("steps", "rows", "real_length", "groups", "clips", "speed_steps", "batch")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive")
        if self.real_clips < 2:
            raise ConfigError(f"real_clips={self.real_clips}: band and reference need one each")
        for name in ("psnr_steps", "speed_rows"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be positive, one or more")
