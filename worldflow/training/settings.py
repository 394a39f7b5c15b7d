"""The settings of training, `training.` on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from worldflow.errors import ConfigError
from worldflow.training.codec_stage import CodecTraining
from worldflow.training.engine import EngineConfig
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.joint_stage import JointTraining

CODEC_MODES = ("two-stage", "joint")


@dataclass
class TrainingConfig(EngineConfig):
    """How a world is trained, beside what `EngineConfig` says.

    Attributes:
        seed: of weights, batches and noise.
        checkpoint_every: updates between checkpoints.
        codec_mode: "two-stage": first the codec, then all else on its latents. "joint": everything
            at once, the codec too for what the flow can predict (`codec=joint`).
        codec: first of the two stages.
        flow: second of the two stages.
        joint: the stage in their place.
    """

    seed: int = 0
    checkpoint_every: int = 200
    codec_mode: str = "two-stage"
    codec: CodecTraining = field(default_factory=CodecTraining)
    flow: FlowTraining = field(default_factory=FlowTraining)
    joint: JointTraining = field(default_factory=JointTraining)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0 or self.checkpoint_every < 1:
            raise ConfigError(
                f"training.seed={self.seed} must not be negative, training.checkpoint_every="
                f"{self.checkpoint_every} must be positive"
            )
        if self.codec_mode not in CODEC_MODES:
            raise ConfigError(
                f"training.codec_mode is {self.codec_mode!r}; use one of {', '.join(CODEC_MODES)}"
            )

    @property
    def is_joint(self) -> bool:
        """Whether the codec is trained together with the rest."""
        return self.codec_mode == "joint"

    @property
    def clips(self) -> FlowTraining | JointTraining:
        """Of the stage that learns from clips."""
        return self.joint if self.is_joint else self.flow
