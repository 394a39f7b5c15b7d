"""One of two processes that pretrain together, several runs one after the other.

RANK=... WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python two_ranks.py FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from training_runs import tiny_pretraining

from worldflow.training import loop
from worldflow.training.distributed import process_group
from worldflow.training.flow_stage import FlowStage
from worldflow.training.joint_stage import JointTraining
from worldflow.training.pretrain import PretrainConfig, main

STOP = 3  # updates of the flow stage that a run makes before it is stopped
JOINT: dict[str, object] = {
    "codec_mode": "joint",
    "joint": JointTraining(steps=7, batch=4, clip=4, validate_every=4, warmup=2),
}
# name: settings of the training, pieces, whether it is stopped
RUNS: dict[str, tuple[dict[str, object], int, bool]] = {
    "ddp": ({}, 2, False),
    "fsdp-pieces": ({"sharding": "full", "activation_checkpointing": True}, 2, False),
    "fsdp-stopped": ({"sharding": "full"}, 1, True),
    "continued": ({"sharding": "full"}, 1, False),
    "joint-ddp": (JOINT, 1, False),
    "joint-fsdp": ({**JOINT, "sharding": "full"}, 1, False),
}


class StoppedError(Exception):
    """Ends a run as a kill would."""


def run_config(folder: Path, name: str, settings: dict[str, object], pieces: int) -> PretrainConfig:
    """A run that averages its weights, with its settings."""
    config = tiny_pretraining(folder / "data", folder / name)
    flow = replace(config.training.flow, accumulate=pieces)
    config.training = replace(config.training, ema=0.9, flow=flow, **settings)  # type: ignore[arg-type]
    return config


def run(config: PretrainConfig, stop: bool) -> None:
    """Pretrain; figures are logged at each update."""
    loop.LOG_EVERY = 1
    update = FlowStage.update

    def stopping(stage: FlowStage, step: int) -> dict[str, torch.Tensor]:
        if step == STOP:
            raise StoppedError
        return update(stage, step)

    if not stop:
        main(config)
        return
    FlowStage.update = stopping  # type: ignore[method-assign]
    try:
        main(config)
    except StoppedError:
        return
    finally:
        FlowStage.update = update  # type: ignore[method-assign]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with process_group():
        for name, (settings, pieces, stop) in RUNS.items():
            run(run_config(folder, name, settings, pieces), stop)
