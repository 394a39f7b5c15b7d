"""A codec trained together with the flow beside one trained before it: Markdown tables.

    python benchmarks/joint.py data=runs/data/catch world=catch training=catch \
        training.joint.steps=2000 out=runs/joint

The settings are those of `worldflow pretrain`, for both runs, and a few more (`JointBenchmark`).
Both worlds have the same parts, data and seed; `training.joint.steps` is to be chosen so that both
train for the same time, which the table shows. Each run continues where it was interrupted.

What compares is a bound on the likelihood of the pixels, in bits per dimension, and pictures: real
frames through the codec, and dreams beside the held-out episodes. NLLs of latents do not compare,
as each codec has its own.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from timing import machine, note, print_table, write_figures

from worldflow.config import load_config
from worldflow.errors import ConfigError, WorldflowError
from worldflow.evaluation.evaluate import DreamedWorld, EvaluateConfig, evaluate
from worldflow.evaluation.output import write_evaluation
from worldflow.held_out import RealData
from worldflow.training.checkpoint import read_progress
from worldflow.training.pretrain import PretrainConfig
from worldflow.training.pretrain import main as pretrain
from worldflow.training.resume import CHECKPOINT
from worldflow.training.settings import CODEC_MODES

BITS = {"total": "bits per dimension", "pixels": "of the pixels", "latents": "of the latents"}


@dataclass
class JointBenchmark(PretrainConfig):
    """Settings: those of pretraining; `out` is the folder of both runs and of `joint.json`.

    Attributes:
        clips: held-out clips that are dreamed.
        samples: dreams of each.
        start: of the clips, see `worldflow evaluate`.
        batch: rows dreamed at once.
    """

    clips: int = 64
    samples: int = 2
    start: str = "random"
    batch: int = 32


def run(config: JointBenchmark, mode: str) -> dict[str, Any]:
    """Train one world and measure it: a row of the table."""
    folder = Path(config.out) / mode
    settings = {name: getattr(config, name) for name in PretrainConfig.__dataclass_fields__}
    settings |= {"out": str(folder), "training": replace(config.training, codec_mode=mode)}
    note(f"training, {mode} ...")
    world = pretrain(PretrainConfig(**settings))
    note(f"measuring, {mode} ...")
    imported = folder / "data"  # where recordings that are no dataset of ours went
    evaluation = evaluate(
        EvaluateConfig(
            world=DreamedWorld(str(world)),
            data=RealData(str(imported if imported.is_dir() else config.data.path)),
            out=str(folder / "evaluation"),
            clips=config.clips,
            samples=config.samples,
            start=config.start,
            batch=config.batch,
            seed=config.training.seed,
        )
    )
    write_evaluation(evaluation, folder / "evaluation", strips=2)
    figures = evaluation.figures
    estimates = {label: figures["pixel_bits"][name] for name, label in BITS.items()}
    estimates |= {f"PSNR of {name}, dB": value for name, value in figures["psnr"].items()}
    seconds = read_progress(folder / CHECKPOINT).seconds
    return {"codec": mode, "seconds of training": seconds, "estimates": estimates}


def main() -> None:
    """Read the settings, train, measure, print, write."""
    try:
        config = load_config("pretrain", JointBenchmark, sys.argv[1:])
        if config.resume is not None or config.initial_world is not None:
            raise ConfigError("both runs start from random weights: leave out resume= and from=")
        rows = [run(config, mode) for mode in CODEC_MODES]
        print(", ".join(f"{key} {value}" for key, value in machine().items()))
        shown = [
            {name: value for name, value in row.items() if name != "estimates"}
            | {name: _shown(value) for name, value in row["estimates"].items()}
            for row in rows
        ]
        print_table("Same data, same parts; means, 95% intervals over clips.", shown)
        two, joint = (row["seconds of training"] for row in rows)
        print(f"seconds of training, measurements included: joint over two-stage {joint / two:.2f}")
        figures = {"machine": machine(), "settings": asdict(config), "rows": rows}
        write_figures(str(Path(config.out) / "joint.json"), figures)
    except WorldflowError as error:
        sys.exit(f"benchmarks/joint.py: {error}")


def _shown(estimate: dict[str, float]) -> str:
    digits = 4 if estimate["mean"] < 10 else 2
    mean, low, high = (f"{estimate[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()
