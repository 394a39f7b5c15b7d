"""What the presets of worlds take: parameters, memory and time, as tables in Markdown.

    python benchmarks/presets.py
    python benchmarks/presets.py presets=[small,base] frame_sizes=[64,128] out=presets.json

Parameters are counted. Memory is computed by the formulas of `footprint.py`, which are checked by
measuring forward and backward passes of a short clip, for presets not in `timed` the plainest only.
Updates are computed from the time of these passes and the number of operations, and measured too
where `timed` says so. A step is measured of all: one pass of each block, of denoiser, heads and
decoder, without compilation; a trained world needs a few passes of some. Weights are random.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from footprint import (
    ACTIONS,
    activation_bytes,
    copy_bytes,
    count,
    engines,
    meta_world,
    parameters_by_part,
    pass_bytes,
    sharded_bytes,
    state_bytes,
    update_flop,
    with_both_heads,
)
from live_memory import LiveMemory
from one_pass import one_pass
from timing import check_out, machine, note, print_table, read_settings, timed, write_figures

from worldflow.config import choices, load_config
from worldflow.errors import ConfigError, WorldflowError
from worldflow.flow.affine import AffineHead
from worldflow.testing import tiny_world
from worldflow.training.batches import Batch
from worldflow.training.distributed import Ranks
from worldflow.training.engine import Engine, EngineConfig
from worldflow.training.flow_gradients import Counts, FlowGradients, Piece
from worldflow.training.pretrain import PretrainConfig
from worldflow.world_model import WorldModel

MIB, GIB = 2**20, 2**30


@dataclass
class PresetsBenchmark:
    """Settings.

    Attributes:
        presets: names of files in configs/world/.
        frame_sizes: height and width of the frames of each.
        timed: presets whose whole updates are measured; they need 16 bytes a parameter.
        check_clip: frames of the clip by which the formulas are checked.
        repeats: timed updates and steps, of which the median counts.
        ranks: over which FSDP2 spreads a world.
        seed: of weights and clips.
        out: JSON file for the same figures; none if empty.
    """

    presets: list[str] = field(default_factory=lambda: ["small", "base", "large"])
    frame_sizes: list[int] = field(default_factory=lambda: [64, 128, 256])
    timed: list[str] = field(default_factory=lambda: ["small", "base"])
    check_clip: int = 2
    repeats: int = 3
    ranks: int = 8
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.presets) - set(choices("world"))):
            raise ConfigError(f"presets: no {unknown[0]}; there are {', '.join(choices('world'))}")
        if not self.presets or len(self.presets) != len(self.frame_sizes):
            raise ConfigError("presets and frame_sizes must be equally many, one or more")
        if not self.timed or not set(self.timed) <= set(self.presets):
            raise ConfigError(f"timed={self.timed} must be one or more of presets={self.presets}")
        if min(self.check_clip, self.repeats, self.ranks) < 1 or self.seed < 0:
            raise ConfigError(
                f"check_clip={self.check_clip}, repeats={self.repeats} and ranks={self.ranks} must "
                f"be positive, seed={self.seed} not negative"
            )


@dataclass(frozen=True)
class Preset:
    """A preset as configured.

    Attributes:
        name: of its YAML files.
        frame_size: height and width of its frames.
        config: the settings of pretraining.
        world: without memory.
    """

    name: str
    frame_size: int
    config: PretrainConfig
    world: WorldModel

    @classmethod
    def load(cls, name: str, frame_size: int) -> Preset:
        """With configs/training/NAME.yaml where there is one, the default training elsewhere."""
        training = name if name in choices("training") else "default"
        overrides = ["data=none", f"world={name}", f"training={training}"]
        config = load_config("pretrain", PretrainConfig, overrides)
        return cls(name, frame_size, config, meta_world(config.world, frame_size))

    @property
    def piece(self) -> int:
        """Clips that one process computes at once."""
        flow = self.config.training.flow
        return flow.batch // flow.accumulate

    def flop(self, engine: EngineConfig, clip: int) -> float:
        """Of an update of one clip."""
        return update_flop(self.config.world, self.world.tokens, clip, engine)


class Passes:
    """Forward and backward passes of a preset on one random clip, with random weights."""

    def __init__(self, preset: Preset, engine: EngineConfig, clip: int, seed: int) -> None:
        config = with_both_heads(preset.config.world)
        self.world = tiny_world(ACTIONS, preset.frame_size, seed, config).requires_grad_()
        self.world.codec.requires_grad_(False)
        head_weight = preset.config.training.flow.head_weight
        self._gradients = FlowGradients(self.world, Engine(Ranks(), engine), head_weight)
        generator = torch.Generator().manual_seed(seed)
        shape = (1, clip, self.world.tokens, self.world.channels)
        latents, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        yes = torch.ones(1, clip, dtype=torch.bool)
        actions = torch.zeros(1, clip, dtype=torch.int64)
        batch = Batch(
            latents=latents,
            actions=actions,
            known=yes,
            rewards=torch.zeros(1, clip),
            terminated=~yes,
            valid=yes,
            text=torch.zeros(1, 0),
        )
        self._piece = Piece(batch, noise)
        self._counts = Counts(clip, max(clip - 1, 1))
        self.trained = [p for p in self.world.parameters() if p.requires_grad]

    def run(self) -> None:
        """Add the gradients of one clip."""
        self._gradients.backward(self._piece, self._counts)

    def measure(self) -> tuple[int, float]:
        """Most bytes that they need at once, gradients apart, and their seconds the second time."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        memory = LiveMemory()
        memory.ignore([*self.world.parameters(), *self.world.buffers()])
        memory.ignore([p.grad for p in self.trained if p.grad is not None])
        with memory:
            self.run()
        _, milliseconds = timed(self.run)  # warm, and without the watch on memory
        return memory.peak, milliseconds / 1e3

    def update_seconds(self, repeats: int) -> float:
        """Median time of a whole update, AdamW's step with it."""
        optimizer = torch.optim.AdamW(self.trained, lr=1e-5, fused=True)

        def update() -> None:
            optimizer.zero_grad(set_to_none=True)
            self.run()
            optimizer.step()

        update()
        return float(np.median([timed(update)[1] for _ in range(repeats)])) / 1e3

    def step_milliseconds(self, repeats: int, seed: int) -> float:
        """Median time of one pass of everything that a step of one dream needs."""
        for module in self.world.modules():
            if isinstance(module, AffineHead):  # random maps would take long to fill the window
                torch.nn.init.zeros_(module.projection.weight)
                torch.nn.init.zeros_(module.projection.bias)
        step = one_pass(self.world.eval(), 1, seed)
        step()
        return float(np.median([timed(step)[1] for _ in range(repeats)]))


def memory_rows(preset: Preset, ranks: int) -> dict[str, Any]:
    """Computed memory of the flow's stage as configured, in GiB."""
    training, tokens = preset.config.training, preset.world.tokens
    engine: EngineConfig = training
    states = state_bytes(preset.world, engine)
    copies, shards = copy_bytes(preset.world, engine), sharded_bytes(preset.world, engine, ranks)
    by_checkpointing = [
        activation_bytes(
            preset.config.world,
            tokens,
            training.flow.clip,
            EngineConfig(engine.precision, activation_checkpointing=checkpointing),
        )
        for checkpointing in (False, True)
    ]
    clips = preset.piece * by_checkpointing[engine.activation_checkpointing]
    return {
        "preset": preset.name,
        "precision": engine.precision,
        **{name: value / GIB for name, value in asdict(states).items()},
        "bf16_copies": copies / GIB,
        "a_clip": by_checkpointing[False] / GIB,
        "a_clip_checkpointed": by_checkpointing[True] / GIB,
        "clips_at_once": preset.piece,
        "all_in_one_process": (states.total + copies + clips) / GIB,
        f"state_of_one_of_{ranks}_ranks": shards / GIB,
        "main_rank_more": 4 * count(preset.world) / GIB,
    }


def check_rows(preset: Preset, settings: PresetsBenchmark) -> list[dict[str, Any]]:
    """Measured and computed memory of forward and backward passes of one short clip, in MiB."""
    rows, clip = [], settings.check_clip
    for engine in engines() if preset.name in settings.timed else engines()[:1]:
        note(f"measuring {preset.name}, {engine.precision} ...")
        measured, seconds = Passes(preset, engine, clip, settings.seed).measure()
        computed = pass_bytes(preset.world, clip, engine)
        rows.append(
            {
                "preset": preset.name,
                "frames": clip,
                "precision": engine.precision,
                "checkpointing": engine.activation_checkpointing,
                "measured_mib": measured / MIB,
                "computed_mib": computed / MIB,
                "computed_to_measured": computed / measured,
                "tflop": preset.flop(engine, clip) / 1e12,
                "seconds": seconds,
            }
        )
    return rows


def time_row(preset: Preset, settings: PresetsBenchmark, flop_per_second: float) -> dict[str, Any]:
    """Seconds of an update of one clip as long as configured, in float32; and of a step.

    Args:
        preset: is timed.
        settings: say whether updates are run.
        flop_per_second: of the preset's short passes.
    """
    note(f"timing {preset.name} ...")
    engine, clip = EngineConfig(), preset.config.training.flow.clip
    passes, flop = Passes(preset, engine, clip, settings.seed), preset.flop(engine, clip)
    run = preset.name in settings.timed
    return {
        "preset": preset.name,
        "clip": clip,
        "tflop": flop / 1e12,
        "update_s_computed": flop / flop_per_second,
        "update_s_measured": passes.update_seconds(settings.repeats) if run else "not run",
        "step_ms_measured": passes.step_milliseconds(settings.repeats, settings.seed),
    }


def measure(settings: PresetsBenchmark) -> dict[str, Any]:
    """Measure and print everything; returns the figures."""
    presets = [
        Preset.load(name, size)
        for name, size in zip(settings.presets, settings.frame_sizes, strict=True)
    ]
    parameters = []
    for preset in presets:
        parts = {**parameters_by_part(preset.world), "all": count(preset.world)}
        sizes = {"preset": preset.name, "frame": preset.frame_size, "tokens": preset.world.tokens}
        parameters.append(sizes | {part: number / 1e6 for part, number in parts.items()})
    print_table("Millions of parameters, counted.", parameters)
    memory = [memory_rows(preset, settings.ranks) for preset in presets]
    print_table("GiB of training flow, denoiser and heads as configured, computed.", memory)
    by_preset = [check_rows(preset, settings) for preset in presets]
    checks = [row for rows in by_preset for row in rows]
    print_table("Passes of one short clip: memory at most, operations, time.", checks)
    times = [
        time_row(preset, settings, 1e12 * rows[0]["tflop"] / rows[0]["seconds"])
        for preset, rows in zip(presets, by_preset, strict=True)
    ]
    print_table("Updates of one clip in float32, and one pass of everything in a step.", times)
    return {"parameters": parameters, "memory": memory, "checks": checks, "times": times}


def main() -> None:
    """Read the settings, measure, print, write."""
    try:
        settings = read_settings(PresetsBenchmark)
        check_out(settings.out)
        facts = {"machine": machine(), "settings": asdict(settings)}
        print("presets: " + ", ".join(f"{k} {v}" for k, v in facts["machine"].items()))
        write_figures(settings.out, {**facts, **measure(settings)})
    except WorldflowError as error:
        sys.exit(f"benchmarks/presets.py: {error}")


if __name__ == "__main__":
    main()
