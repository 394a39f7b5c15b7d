"""Images of held-out episodes with what really came after them, and dreams that begin with them."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from prompting.questions import Questions, answers_of, numbered
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler, load_clips
from worldflow.errors import DataError
from worldflow.evaluation.simulate import chunks
from worldflow.flow.guidance import Guidance
from worldflow.generation.dreaming import Request, dream_video
from worldflow.generation.generate import GenerateConfig, request_of
from worldflow.pictures.strips import save_png
from worldflow.randomness import generator_of
from worldflow.world_model import WorldModel


@dataclass(frozen=True)
class Given:
    """B images, each of an episode of its own, and the T - 1 frames that really came after.

    Attributes:
        frames: (B, T, H, W, 3) uint8, the image first; black behind the episode's end.
        valid: (B, T) bool, where the episode has such a frame.
        actions: (B, T, ...), recorded; `actions[:, t]` led to `frames[:, t]`.
        known: (B, T) bool, which of them there are; none led to the image.
        captions: of the episodes, (B,).
        labels: numbers of the answers that these give, (B, Q).
    """

    frames: np.ndarray
    valid: np.ndarray
    actions: np.ndarray
    known: np.ndarray
    captions: list[str]
    labels: np.ndarray


def read_given(
    dataset: EpisodeDataset,
    episodes: np.ndarray,
    count: int | None,
    length: int,
    questions: Questions,
    seed: int,
) -> Given:
    """An image of each episode, from anywhere T frames fit; of a shorter one its first.

    Args:
        dataset: with captions.
        episodes: in whose order they come; those whose captions do not answer the first question
            are left out.
        count: at most so many, the first, of each answer to the first question; None: all.
        length: T.
        questions: what is answered.
        seed: of the moments.

    Raises:
        DataError: no caption answers the first question.
    """
    first, rng = next(iter(questions)), np.random.default_rng(seed)
    captions: list[str] = []
    told: list[dict[str, str]] = []
    picks: list[tuple[int, int]] = []
    taken: dict[str, int] = {}
    for index in episodes.tolist():
        caption = dataset.captions[index] or ""
        answers = answers_of(caption, questions)
        if first not in answers or taken.get(answers[first], 0) == count:
            continue
        taken[answers[first]] = taken.get(answers[first], 0) + 1
        captions.append(caption)
        told.append(answers)
        picks.append(ClipSampler(dataset.lengths, [index], length).sample(1, rng)[0])
    if not picks:
        raise DataError(
            f"{dataset.folder}: no held-out episode has a caption that answers the question {first}"
        )
    read = [dataset.read(index, start, start + length) for index, start in picks]
    rows = [(row, 0) for row in range(len(read))]
    frames, valid = load_clips([each.frames for each in read], rows, length)
    actions, _ = load_clips([each.actions for each in read], rows, length)
    known, _ = load_clips([each.known for each in read], rows, length)
    known[:, 0] = False
    return Given(frames, valid, actions, known, captions, numbered(told, questions))


def was_learned(dataset: EpisodeDataset, episodes: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Whether each image (B, H, W, 3) is, to the pixel, a frame of one of the episodes: (B,)."""
    seen = {
        hashlib.sha256(frame.tobytes()).digest()
        for index in episodes
        for frame in dataset.read(int(index)).frames
    }
    return np.array([hashlib.sha256(image.tobytes()).digest() in seen for image in images])


def dream_from(
    world: WorldModel,
    given: Given,
    batch: int,
    temperature: float,
    seed: int,
    played: bool = False,
    text: torch.Tensor | None = None,
    guidance: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Dreams that begin with the images.

    Args:
        world: in eval mode.
        given: B images.
        batch: of them at once.
        temperature: factor on the noise.
        seed: row k draws from the stream k of it, whatever is told.
        played: tell the recorded actions; else all are unknown.
        text: what else is told, (B, E); None: nothing.
        guidance: weight towards the text.

    Returns:
        frames (B, T, H, W, 3) uint8, and their bits a latent (B, T).
    """
    length, frames, bits = given.frames.shape[1], [], []
    streams = np.random.SeedSequence(seed).spawn(len(given.frames))
    for piece in chunks(len(given.frames), batch):
        request = request_from(world, given.frames[piece, 0], length, temperature)
        if played:
            request = replace(
                request,
                actions=torch.from_numpy(given.actions[piece]),
                known=torch.from_numpy(given.known[piece]),
            )
        if text is not None:
            request = replace(request, text=text[piece], guidance=Guidance(guidance, "text"))
        dreamed = dream_video(world, request, [generator_of(s) for s in streams[piece]])
        frames.append(dreamed.frames.numpy())
        bits.append(dreamed.bits_per_dim.numpy())
    return np.concatenate(frames), np.concatenate(bits)


@torch.inference_mode()
def through_noise(world: WorldModel, given: Given, batch: int, seed: int) -> np.ndarray:
    """The real frames as the world sees them: noisy, denoised with what came before.

    What is lost here no dream can keep, which has one noisy frame where these are many. Shapes
    are those of `given.frames`; the recorded actions are told. Row k draws from stream k.
    """
    shown, streams = [], np.random.SeedSequence(seed).spawn(len(given.frames))
    for piece in chunks(len(given.frames), batch):
        frames = torch.from_numpy(given.frames[piece])
        noisy = world.noisy_latents(frames, [generator_of(s) for s in streams[piece]])
        condition = world.conditioning(
            torch.from_numpy(given.actions[piece]),
            torch.from_numpy(given.known[piece]),
            world.conditioning.texts(len(frames), None),
        )
        denoised = world.denoiser.stream([*noisy.unbind(1)], condition, world.config.sigma)
        shown.append(torch.stack([world.decode(y) for y in denoised], dim=1).numpy())
    return np.concatenate(shown)


def request_from(world: WorldModel, images: np.ndarray, length: int, temperature: float) -> Request:
    """What `worldflow generate image=PATH` asks for, for images (B, H, W, 3) at once."""
    single = []
    with tempfile.TemporaryDirectory() as folder:
        for row, image in enumerate(images):
            path = Path(folder) / f"{row}.png"
            save_png(path, image)
            config = GenerateConfig(image=str(path), length=length, temperature=temperature)
            single.append(request_of(config, world, None))
    return replace(
        single[0],
        frames=torch.cat([each.frames for each in single]),
        actions=torch.cat([each.actions for each in single]),
        known=torch.cat([each.known for each in single]),
    )
