"""Do dreams show what their prompt says? Accuracy against the weight of guidance: Markdown tables.

    python benchmarks/prompts.py world=multi data=runs/data/multi out=runs/prompts

A probe (`prompting/probe.py`) learns from clips of the episodes that the world learned from to
answer questions about their frames: which game, and what happens in it. It is verified on held-out
episodes first. Then it answers the same questions about dreams from prompts alone: the captions of
the data, each combination of answers equally often, and paraphrases, which no caption is like. No
action is told, and no frame is given. An answer of which the probe is unsure is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from prompting.accuracy import row_of, shown
from prompting.clips import learned_probe, real_clips_of, through_codec
from prompting.probe import Probe, ProbeTraining, probe_answers
from prompting.questions import (
    PARAPHRASES,
    QUESTIONS,
    UNSURE,
    answers_of,
    by_answers,
    check_questions,
    numbered,
)
from timing import measure_into, note, print_table, read_settings

from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, WorldflowError
from worldflow.flow.guidance import Guidance
from worldflow.generation.dreaming import Request, dream_video
from worldflow.generation.inputs import no_actions
from worldflow.held_out import split_of
from worldflow.pictures.strips import save_png, strip
from worldflow.randomness import generator_of
from worldflow.storage import load_world
from worldflow.text.encoder import TextEncoder, embed, encoder_of
from worldflow.world_model import WorldModel

REPORT = "prompts.json"


@dataclass
class Prompts:
    """Settings.

    Attributes:
        world: that learned from captions.
        data: the dataset that it learned from.
        out: folder for the figures and a contact sheet.
        questions: by name, with their answers and the phrases in captions that give them; the
            first is which game it is, the others are its factors.
        paraphrases: prompts that are no captions, and the answers that they ask for.
        guidance: weights; the sheet shows the one of `sheet`.
        sheet: a weight, of `guidance`.
        clips: dreams of each combination of answers, and of each paraphrase.
        length: frames of a clip.
        batch: dreams at once; each has a seed of its own.
        temperature: of the dreams.
        probe: how it learns.
        seed: of everything.
    """

    world: str = MISSING
    data: str = MISSING
    out: str = MISSING
    questions: dict[str, dict[str, str]] = field(default_factory=lambda: QUESTIONS)
    paraphrases: dict[str, dict[str, str]] = field(default_factory=lambda: PARAPHRASES)
    guidance: list[float] = field(default_factory=lambda: [0.0, 1.0, 2.0, 4.0])
    sheet: float = 2.0
    clips: int = 24
    length: int = 8
    batch: int = 48
    temperature: float = 1.0
    probe: ProbeTraining = field(default_factory=ProbeTraining)
    seed: int = 0

    def __post_init__(self) -> None:
        check_questions(self.questions)
        if min(self.clips, self.length, self.batch) < 1 or self.seed < 0:
            raise ConfigError(
                f"clips={self.clips}, length={self.length} and batch={self.batch} must be "
                f"positive, seed={self.seed} not negative"
            )
        if self.sheet not in self.guidance:
            raise ConfigError(f"sheet={self.sheet} is not among guidance={self.guidance}")


@dataclass(frozen=True)
class Asked:
    """What is dreamed.

    Attributes:
        prompts: (B,).
        labels: numbers of the answers that they ask for, (B, Q).
        names: a short name of each, for the sheet.
    """

    prompts: list[str]
    labels: np.ndarray
    names: list[str]


def asked_of_captions(dataset: EpisodeDataset, settings: Prompts) -> Asked:
    """The captions of a dataset, each combination of answers equally often."""
    given = (caption for caption in dataset.captions if caption is not None)
    prompts, names = [], []
    for combination, captions in by_answers(given, settings.questions).items():
        prompts += [captions[k % len(captions)] for k in range(settings.clips)]
        names += [" ".join(combination[-2:])] * settings.clips
    told = [answers_of(prompt, settings.questions) for prompt in prompts]
    return Asked(prompts, numbered(told, settings.questions), names)


def asked_of_paraphrases(settings: Prompts) -> Asked:
    """The paraphrases, each equally often."""
    prompts = [prompt for prompt in settings.paraphrases for _ in range(settings.clips)]
    told = [settings.paraphrases[prompt] for prompt in prompts]
    names = [" ".join([*answers.values()][-2:]) for answers in told]
    return Asked(prompts, numbered(told, settings.questions), names)


def dreams(
    world: WorldModel, encoder: TextEncoder, prompts: Sequence[str], weight: float, s: Prompts
) -> tuple[np.ndarray, float]:
    """A dream of each prompt, (B, T, H, W, 3), and their bits a latent under their prompt."""
    frames, bits = [], []
    text = embed(encoder, prompts)
    actions, known = no_actions(world.action_spec, s.length)
    for start in range(0, len(prompts), s.batch):
        rows = range(start, min(start + s.batch, len(prompts)))
        request = Request(
            torch.zeros((len(rows), 0, *world.frame_shape), dtype=torch.uint8),
            torch.from_numpy(np.stack([actions] * len(rows))),
            torch.from_numpy(np.stack([known] * len(rows))),
            text[rows.start : rows.stop],
            Guidance(weight, "text"),
            s.temperature,
        )
        seeds = [np.random.SeedSequence(s.seed, spawn_key=(row,)) for row in rows]
        noise = [generator_of(sequence) for sequence in seeds]
        dreamed = dream_video(world, request, noise)
        frames.append(dreamed.frames.numpy())
        bits.append(dreamed.bits_per_dim.numpy())
    return np.concatenate(frames), float(np.concatenate(bits).mean())


def contact_sheet(clips: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The first dream of every name, a row each, in two halves beside each other."""
    first = [rows[0] for rows in _rows_of(names).values()]
    half, steps = -(-len(first) // 2), np.arange(clips.shape[1])
    halves = []
    for chosen in (first[:half], first[half:]):
        rows = {names[row]: clips[row] for row in chosen}
        if len(rows) < half:  # an odd number: white
            rows |= {"": np.full_like(clips[0], 255)}
        halves.append(strip(rows, steps))
    return np.concatenate(halves, axis=1)


def measure(settings: Prompts, folder: Path) -> dict[str, Any]:
    """All figures; tables are printed as they come, the sheet is written."""
    world, questions = load_world(settings.world), settings.questions
    dataset, encoder = EpisodeDataset(settings.data), encoder_of(world.spec.text)
    train, held_out = split_of(dataset, world.spec.held_out)
    note("the probe learns ...")
    how = settings.length, questions
    probe = learned_probe(world, dataset, train, *how, settings.probe, settings.seed)
    clips, labels = real_clips_of(dataset, held_out, None, *how, settings.seed)
    own = {"real": clips, "real, through the codec": through_codec(world, clips)}
    figures: dict[str, Any] = {"held_out_clips": len(clips), "probe": {}, "dreams": []}
    for name, pool in own.items():
        found = probe_answers(probe, pool, settings.probe.sure)
        figures["probe"][name] = row_of(found, labels, questions, settings.seed)
    print_table(
        f"The probe on {len(clips)} held-out clips, % right, 95% intervals over clips",
        [{"clips": name, **shown(row, questions)} for name, row in figures["probe"].items()],
    )
    asked = {
        "captions": asked_of_captions(dataset, settings),
        "paraphrases": asked_of_paraphrases(settings),
    }
    for kind, wanted in asked.items():
        figures["dreams"] += _dreamed(world, encoder, probe, kind, wanted, settings, folder)
    return figures


def _dreamed(
    world: WorldModel,
    encoder: TextEncoder,
    probe: Probe,
    kind: str,
    asked: Asked,
    settings: Prompts,
    folder: Path,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    questions = settings.questions
    for weight in settings.guidance if asked.prompts else []:
        note(f"dreaming {kind}, guidance {weight:g} ...")
        clips, bits = dreams(world, encoder, asked.prompts, weight, settings)
        found = probe_answers(probe, clips, settings.probe.sure)
        by_prompt = {
            prompt: row_of(found[[*mask]], asked.labels[[*mask]], questions, settings.seed)
            for prompt, mask in _rows_of(asked.prompts).items()
        }
        rows.append(
            {
                "prompts": kind,
                "guidance": weight,
                "clips": len(clips),
                "bits_per_dim": bits,
                "unsure": float((found == UNSURE)[asked.labels >= 0].mean()),
                "accuracy": row_of(found, asked.labels, questions, settings.seed),
                "by_prompt": by_prompt,
            }
        )
        if weight == settings.sheet:
            save_png(folder / f"{kind}.png", contact_sheet(clips, asked.names))
    if rows:
        print_table(
            f"Dreams of {kind}, % right, 95% intervals over {len(asked.prompts)} clips",
            [
                {"guidance": f"{row['guidance']:g}", **shown(row["accuracy"], questions)}
                | {"unsure": 100 * row["unsure"], "bits a latent": row["bits_per_dim"]}
                for row in rows
            ],
        )
    return rows


def _rows_of(prompts: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    return rows


def main() -> None:
    """Read the settings, measure, print, write."""
    try:
        settings = read_settings(Prompts)
        folder = Path(settings.out)
        measure_into(folder, REPORT, settings, lambda: measure(settings, folder))
    except WorldflowError as error:
        sys.exit(f"benchmarks/prompts.py: {error}")


if __name__ == "__main__":
    main()
