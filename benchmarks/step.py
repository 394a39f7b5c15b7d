"""What a step of a world costs on this machine, as an agent sees it: tables in Markdown.

    python benchmarks/step.py world=takecover
    python benchmarks/step.py world=runs/takecover/world rows=[1,16] steps=300 out=step.json
    python benchmarks/step.py world=catch memory_steps=100000

Resets are not timed, nor are the first steps of the process, which are several times slower. Run it
with nothing else on the machine. Ratios are medians over pairs timed right after each other.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from dream import SHORTEST, long_dream, memory, require_memory
from env_steps import measure_batch
from omegaconf import MISSING
from operations import count_operations
from timing import check_out, machine, note, print_table, read_settings, write_figures

from worldflow.compiled import compile_step
from worldflow.errors import ConfigError, WorldflowError
from worldflow.storage import load_world


@dataclass
class StepBenchmark:
    """Settings.

    Attributes:
        world: a world's name or folder.
        rows: sizes of the batches to time.
        steps: timed steps of each, by Jacobi.
        paired_steps: timed rounds of each of Jacobi, the sequential sampler and the floor.
        warmup: steps before them.
        long_steps: length of the dream whose end is timed; 0: none.
        memory_steps: length of the dream whose memory is measured; 0: none.
        seed: of the episodes and of the actions.
        out: JSON file for the same figures; none if empty.
    """

    world: str = MISSING
    rows: list[int] = field(default_factory=lambda: [1, 4, 16, 64])
    steps: int = 200
    paired_steps: int = 40
    warmup: int = 20
    long_steps: int = 10_000
    memory_steps: int = 0
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if not self.rows or min(*self.rows, self.steps, self.paired_steps) < 1:
            raise ConfigError(
                f"rows={self.rows}, steps={self.steps} and paired_steps={self.paired_steps} must "
                "be positive"
            )
        if min(self.warmup, self.seed, self.memory_steps) < 0:
            raise ConfigError("warmup, seed and memory_steps cannot be negative")
        if self.long_steps and self.long_steps < SHORTEST:
            raise ConfigError(f"long_steps={self.long_steps} must be 0, or {SHORTEST} or more")


def measure(settings: StepBenchmark) -> dict[str, Any]:
    """Measure and print everything; returns the figures."""
    world = compile_step(load_world(settings.world))  # as an env has it
    figures: dict[str, Any] = {"machine": machine(), "settings": asdict(settings)}
    print(f"{settings.world}: " + ", ".join(f"{k} {v}" for k, v in figures["machine"].items()))

    batches = []
    for rows in settings.rows:
        note(f"timing batches of {rows} ...")
        batches.append(
            measure_batch(
                world,
                rows,
                settings.steps,
                settings.paired_steps,
                settings.warmup,
                settings.seed,
            )
        )
    figures["env_steps"] = [row for batch in batches for row in batch.env_steps]
    figures["speedup"] = [batch.speedup for batch in batches]
    figures["parts"] = [batch.parts for batch in batches]
    figures["floor"] = [batch.floor for batch in batches]
    figures["operations"] = count_operations(world, settings.warmup, settings.seed)
    print_table(
        "Env steps; passes are of the global block, then of the local ones.", figures["env_steps"]
    )
    print_table("Time of the sequential sampler over that of Jacobi.", figures["speedup"])
    print_table("Where the time of a Jacobi step goes.", figures["parts"])
    print_table("The floor (one pass of everything), and an env step over it.", figures["floor"])
    print_table("Operations of a batch of 1.", figures["operations"])

    if settings.long_steps:
        note(f"dreaming {settings.long_steps} steps ...")
        figures["long_dream"] = long_dream(world, settings.long_steps, settings.seed)
        ratio = figures["long_dream"]["late_to_fresh"]
        print_table(
            f"One dream without reset; a late step takes {ratio:.3f} times one of a fresh dream.",
            figures["long_dream"]["rows"],
        )
    if settings.memory_steps:
        note(f"dreaming {settings.memory_steps} steps for the memory ...")
        figures["memory"] = memory(world, settings.memory_steps, settings.seed)
        print_table("Memory of the process in one dream without reset.", figures["memory"])
    return figures


def main() -> None:
    """Read the settings, measure, print, write."""
    try:
        settings = read_settings(StepBenchmark)
        check_out(settings.out)
        if settings.memory_steps:
            require_memory()
        write_figures(settings.out, measure(settings))
    except WorldflowError as error:
        sys.exit(f"benchmarks/step.py: {error}")


if __name__ == "__main__":
    main()
