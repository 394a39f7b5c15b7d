"""What becomes of a given image? The first frame, what it shows after 2 s, PSNR: Markdown tables.

    python benchmarks/image_to_video.py world=multi data=runs/data/multi out=runs/image_to_video

Of every held-out episode one frame is given, as an image file, by the request that
`worldflow generate image=PATH` makes: no text, actions unknown; then once more with the recorded
actions, which are unknown again behind the episode's end; and, by worlds that know text, with the
episode's caption as the prompt (`captioned=false` leaves these out, and needs no encoder). Where
the episode is long enough the image is drawn from all moments that have as many real frames
behind them as are dreamed, else it is the episode's first.

- The first frame shown is compared with the image, and with what the codec alone makes of it.
- Identity: a probe (`prompting/probe.py`), which learns from clips of the episodes that the world
  learned from, answers about the clips that end at the frames `judged`. Wanted are the answers of
  the episode's caption to the questions `kept`; behind the episode's end to the first one alone,
  which game it is. The same answers about the real clips bound them: as they are, through the
  codec, and noisy and denoised, which is all that the world sees of them. Dreams of images that
  are, to the pixel, in no episode that the world learned from are also counted by themselves.
- PSNR against the real frames, as long as there are any, beside a copy of the image.

Intervals are 95% bootstrap intervals over clips, of which each is of an episode of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING
from prompting.accuracy import percent, row_of
from prompting.clips import learned_probe, through_codec
from prompting.continuation import first_frame, motion_of, psnr_of
from prompting.given import Given, dream_from, read_given, through_noise, was_learned
from prompting.probe import Probe, ProbeTraining, probe_answers
from prompting.questions import QUESTIONS, UNASKED, check_questions
from timing import measure_into, note, print_table, read_settings

from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, WorldflowError
from worldflow.flow.guidance import Guidance
from worldflow.held_out import split_of
from worldflow.pictures.strips import save_png, strip
from worldflow.storage import load_world
from worldflow.text.encoder import embed, encoder_of

REPORT, SHEET = "image_to_video.json", "sheet.png"
REAL, CODEC, NOISED, FREE, PLAYED, TOLD, COPY = (
    "real",
    "real, through the codec",
    "real, noisy and denoised",
    "dream, actions unknown",
    "dream, recorded actions",
    "dream, caption as prompt",
    "copy of the image",
)
ENDING = REAL, CODEC, NOISED  # where the episode does
NEW = f"{FREE}, images never learned from"


@dataclass
class ImageToVideo:
    """Settings.

    Attributes:
        world: that dreams.
        data: the dataset that it learned from, with captions.
        out: folder for the figures and a contact sheet.
        questions: by name, with their answers and the phrases in captions that give them; the
            first is which game it is.
        kept: those whose answer the image shows and the play does not change.
        clips: at most so many of each game; null: one of each held-out episode.
        length: frames of a clip that the probe sees.
        judged: last frames of the clips that it answers about; the image is frame 0.
        compared: frames whose PSNR is printed, and which the sheet shows.
        shown: clips of each game on the sheet, the first ones.
        batch: dreams at once; each has a seed of its own.
        temperature: of the dreams.
        captioned: also dream with captions as prompts, where the world knows text.
        guidance: weight towards the caption, of those that have it as their prompt.
        probe: how it learns.
        seed: of everything.
    """

    world: str = MISSING
    data: str = MISSING
    out: str = MISSING
    questions: dict[str, dict[str, str]] = field(default_factory=lambda: QUESTIONS)
    kept: list[str] = field(default_factory=lambda: ["game", "side", "colour", "thing"])
    clips: int | None = None
    length: int = 8
    judged: list[int] = field(default_factory=lambda: [7, 8, 12, 16])
    compared: list[int] = field(default_factory=lambda: [0, 1, 4, 7, 8, 16])
    shown: int = 2
    batch: int = 48
    temperature: float = 1.0
    captioned: bool = True
    guidance: float = 1.0
    probe: ProbeTraining = field(default_factory=ProbeTraining)
    seed: int = 0

    def __post_init__(self) -> None:
        check_questions(self.questions)
        Guidance(self.guidance, "text")  # refuses what is no weight
        if not {next(iter(self.questions))} <= set(self.kept) <= set(self.questions):
            raise ConfigError(
                f"kept={self.kept} must be of questions={list(self.questions)}, the first with them"
            )
        clips = 1 if self.clips is None else self.clips
        if min(clips, self.length, self.shown, self.batch) < 1 or self.seed < 0:
            raise ConfigError(
                f"clips={self.clips}, length={self.length}, shown={self.shown} and "
                f"batch={self.batch} must be positive, seed={self.seed} not negative"
            )
        if not self.judged or min(self.judged) < self.length - 1:
            raise ConfigError(
                f"judged={self.judged}: a clip of length={self.length} frames ends at frame "
                f"{self.length - 1} or later"
            )
        if not self.compared or min(self.compared) < 0 or self.frames < 2:
            raise ConfigError(f"compared={self.compared} must be frames from 0 on, up to 1 or more")
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature={self.temperature} must be finite, 0 or more")

    @property
    def frames(self) -> int:
        """Of a dream, with the given one."""
        return 1 + max(*self.judged, *self.compared)


def answers_at(
    probe: Probe,
    given: Given,
    ways: Mapping[str, np.ndarray],
    new: np.ndarray,
    last: int,
    settings: ImageToVideo,
) -> dict[str, dict[str, Any]]:
    """What the probe says of the clips that end at frame `last`: by way and game, accuracies.

    Args:
        probe: which answers.
        given: with the wanted answers.
        ways: frames (B, T, H, W, 3) of each; of those of `ENDING` only what is real is judged.
        new: (B,) bool, images of which dreams are also counted by themselves.
        last: frame.
        settings: of them questions, kept, length and seed.
    """
    questions, real = settings.questions, given.valid[:, last]
    kept = np.array([name in settings.kept for name in questions])
    wanted = np.where(kept, given.labels, UNASKED)
    wanted[~real, 1:] = UNASKED
    games = list(questions[next(iter(questions))])
    rows: dict[str, dict[str, Any]] = {}
    for name, frames in ways.items():
        clips = np.ascontiguousarray(frames[:, last + 1 - settings.length : last + 1])
        found = probe_answers(probe, clips, settings.probe.sure)
        masks = {name: real if name in ENDING else np.ones_like(real)}
        if name == FREE:
            masks[NEW] = new
        for row, chosen in masks.items():
            rows[row] = {}
            for number, game in enumerate(games):
                mask = chosen & (given.labels[:, 0] == number)
                if mask.any():
                    rows[row][game] = row_of(found[mask], wanted[mask], questions, settings.seed)
    return rows


def contact_sheet(
    given: Given, ways: Mapping[str, np.ndarray], games: list[str], settings: ImageToVideo
) -> np.ndarray:
    """The first clips of every game: real, white behind the end; then the dreams."""
    steps = np.array(settings.compared)
    real = np.where(given.valid[:, :, None, None, None], given.frames, np.uint8(255))
    strips = []
    for number in range(len(games)):
        for row in np.flatnonzero(given.labels[:, 0] == number)[: settings.shown]:
            rows = {
                "real": real[row, steps],
                "unknown": ways[FREE][row, steps],
                "recorded": ways[PLAYED][row, steps],
            }
            strips.append(strip(rows, steps))
    return np.concatenate(strips)


def measure(settings: ImageToVideo, folder: Path) -> dict[str, Any]:
    """All figures; tables are printed as they come, the sheet is written."""
    world, questions, seed = load_world(settings.world), settings.questions, settings.seed
    dataset = EpisodeDataset(settings.data)
    train, held_out = split_of(dataset, world.spec.held_out)
    given = read_given(dataset, held_out, settings.clips, settings.frames, questions, seed)
    new = ~was_learned(dataset, train, given.frames[:, 0])
    games = list(questions[next(iter(questions))])
    told: dict[str, dict[str, Any]] = {FREE: {}, PLAYED: {"played": True}}
    if settings.captioned and world.spec.text is not None:
        text = embed(encoder_of(world.spec.text), given.captions)
        told[TOLD] = {"text": text, "guidance": settings.guidance}
    note("the probe learns ...")
    probe = learned_probe(world, dataset, train, settings.length, questions, settings.probe, seed)
    how = settings.batch, settings.temperature, seed
    ways = {
        REAL: given.frames,
        CODEC: through_codec(world, given.frames),
        NOISED: through_noise(world, given, settings.batch, seed),
    }
    bits = {}
    for name, arguments in told.items():
        note(f"{name} ...")
        ways[name], of_frames = dream_from(world, given, *how, **arguments)
        bits[name] = of_frames.mean(axis=0).tolist()
    copies = np.broadcast_to(given.frames[:, :1], given.frames.shape)
    against_real = {name: frames for name, frames in ways.items() if name != REAL} | {COPY: copies}
    figures: dict[str, Any] = {
        "fps": world.spec.fps,
        "clips": _counts(given, np.ones_like(new), games),
        "images_never_learned_from": _counts(given, new, games),
        "first_frame": first_frame(world, given.frames[:, 0], settings.temperature, seed),
        "identity": [
            {"last": last, "ways": answers_at(probe, given, ways, new, last, settings)}
            for last in settings.judged
        ],
        "psnr": psnr_of(given, against_real, games, seed),
        "motion": motion_of(given, ways, games, real=ENDING),
        "bits_per_dim": bits,
    }
    save_png(folder / SHEET, contact_sheet(given, ways, games, settings))
    report(figures, settings)
    return figures


def report(figures: Mapping[str, Any], settings: ImageToVideo) -> None:
    """Print the tables."""
    fps, (game, *others) = figures["fps"], settings.kept
    counts = [
        {"": name, **figures[key]}
        for name, key in (("clips", "clips"), ("new images", "images_never_learned_from"))
    ]
    print_table("Held-out images, one an episode", counts)
    found = figures["first_frame"]
    row = {
        "images": found["images"],
        "equal to the codec's, bit by bit": found["equal"],
        "largest difference, grey levels": found["largest_difference"],
        "PSNR against the image, dB [95%]": _decibels(found["psnr"]),
        "of an env's first observation": _decibels(found["env_psnr"]),
    }
    print_table("The first frame shown, dreamed from one image at a time", [row])
    for judged in figures["identity"]:
        rows = []
        for name, by_game in judged["ways"].items():
            cells = {f"{game}: {g}": percent(by_game.get(g, {}).get(game)) for g in figures["psnr"]}
            for other in others:
                asked = [each[other] for each in by_game.values() if other in each]
                cells[other] = percent(asked[0]) if len(asked) == 1 else "-"
            rows.append({"clips": name, **cells})
        first, last = judged["last"] + 1 - settings.length, judged["last"]
        print_table(f"Frames {first} to {last}, {last / fps:.3g} s: % right [95%]", rows)
    for name, ways in figures["psnr"].items():
        rows = [
            {"frames": way, **{f"{t / fps:.3g} s": _decibels(row[t]) for t in settings.compared}}
            for way, row in ways.items()
        ]
        print_table(f"{name}: PSNR against the real frame, dB [95%]", rows)
    rows = [
        {"game": name, "frames": way}
        | {f"{t / fps:.3g} s": "-" if row[t - 1] is None else row[t - 1] for t in later}
        for later in [[t for t in settings.compared if t]]
        for name, ways in figures["motion"].items()
        for way, row in ways.items()
    ]
    print_table("Change from the frame before, RMS grey levels", rows)


def _counts(given: Given, chosen: np.ndarray, games: list[str]) -> dict[str, int]:
    numbers = given.labels[chosen, 0]
    return {game: int((numbers == number).sum()) for number, game in enumerate(games)}


def _decibels(figure: Mapping[str, float] | None) -> str:
    return "-" if figure is None else "{value:.1f} [{low:.1f}, {high:.1f}]".format(**figure)


def main() -> None:
    """Read the settings, measure, print, write."""
    try:
        settings = read_settings(ImageToVideo)
        folder = Path(settings.out)
        measure_into(folder, REPORT, settings, lambda: measure(settings, folder))
    except WorldflowError as error:
        sys.exit(f"benchmarks/image_to_video.py: {error}")


if __name__ == "__main__":
    main()
