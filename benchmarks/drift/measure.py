"""What is measured of a dreamer, and of real video in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from drift.dreamers import Dreamer
from drift.statistics import Frames, image_statistics
from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.envs.policies import RandomPolicy
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.controllability import agreement_figures, other_actions
from worldflow.evaluation.simulate import Dreams, chunks, clip_noise
from worldflow.metrics import bootstrap, decibels, squared_error
from worldflow.scoring import LiveScorer
from worldflow.world_model import WorldModel

WARMUP = 3  # steps before the timed ones


@dataclass(frozen=True)
class LongDream:
    """A long dream of R rows.

    Attributes:
        frames: what is kept of its T frames.
        pictures: of the first row, at some steps, (P, H, W, 3) uint8.
        seconds: that the steps took, without what is measured of them.
    """

    frames: Frames
    pictures: np.ndarray
    seconds: float


def features_of(world: WorldModel, frames: Tensor) -> np.ndarray:
    """Latents averaged over tokens: frames (..., H, W, 3) uint8 to (..., C)."""
    with torch.no_grad():
        latents = world.codec.encode_frames(frames.to(next(world.parameters()).device))
    return latents.mean(dim=-2).float().cpu().numpy()


def long_dream(
    dreamer: Dreamer,
    judge: WorldModel,
    given: Tensor,
    actions: Tensor,
    shown: np.ndarray,
    seed: int,
    title: str,
) -> LongDream:
    """Dream on from given frames, and measure every frame as it appears.

    Args:
        dreamer: what dreams.
        judge: the flow world whose novelty and features are measured, of all dreamers alike.
        given: real frames, (R, K, H, W, 3) uint8.
        actions: (R, K + T, ...), those of the given frames first.
        shown: numbers of the steps, from 1, of which pictures are kept; they rise.
        seed: of the dream, and of the noise under which its frames are scored.
        title: of the progress bar.
    """
    rows, context = given.shape[:2]
    noise = torch.Generator().manual_seed(seed + 1)
    scorer = LiveScorer(judge, rows)
    scorer.reset(torch.ones(rows, dtype=torch.bool), given[:, 0], noise)
    for t in range(1, context):
        scorer.step(given[:, t], actions[:, t], noise)
    dreamer.begin(given, actions[:, :context], seed)
    image, features, novelty, pictures, seconds = [], [], [], [], 0.0
    for t in tqdm(range(context, actions.shape[1]), desc=title, unit="step", mininterval=1.0):
        begun = time.perf_counter()
        frames = dreamer.step(actions[:, t])
        seconds += time.perf_counter() - begun
        image.append(image_statistics(frames.numpy()))
        features.append(features_of(judge, frames))
        novelty.append(scorer.step(frames, actions[:, t], noise).novelty.cpu().numpy())
        if t - context + 1 in shown:
            pictures.append(frames[0].numpy())
    kept = Frames(*(np.stack(each, axis=1) for each in (image, features, novelty)))
    return LongDream(kept, np.stack(pictures), seconds)


def real_video(judge: WorldModel, clips: RealClips, batch: int, seed: int) -> Frames:
    """The same of real clips, frame by frame; frames after a clip's end are meaningless.

    Clip number i has the same noise whatever the batch.
    """
    device, parts = next(judge.parameters()).device, []
    for piece in tqdm(list(chunks(len(clips.frames), batch)), desc="real video", unit="batch"):
        frames = torch.from_numpy(clips.frames[piece])
        actions = torch.from_numpy(clips.actions[piece]).to(device)
        noise = [clip_noise(seed, number) for number in range(len(clips.frames))[piece]]
        scored = judge.score(frames.to(device), actions, noise)
        image = image_statistics(clips.frames[piece])
        parts.append((image, features_of(judge, frames), scored.novelty.cpu().numpy()))
    return Frames(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def random_actions(spec: ActionSpec, rows: int, steps: int, sticky: float, seed: int) -> np.ndarray:
    """Uniformly random actions, repeated with probability `sticky`: (R, T, ...)."""
    policy, found = RandomPolicy(spec, sticky), []
    unseen = np.zeros((0, 0, 3), np.uint8)  # chance does not look
    for row in range(rows):
        policy.begin(np.random.default_rng([seed, row]))
        found.append([policy.act(unseen) for _ in range(steps)])
    return np.array(found, dtype=spec.dtype).reshape(rows, steps, *spec.shape)


def recorded_actions(
    dataset: EpisodeDataset, episodes: np.ndarray, rows: int, steps: int, seed: int
) -> np.ndarray:
    """Actions of recorded episodes in a random order, one after the other: (R, T, ...)."""
    found = []
    for row in range(rows):
        rng, parts, count = np.random.default_rng([seed, row]), [], 0
        while count < steps:
            for episode in rng.permutation(episodes).tolist():
                parts.append(dataset.steps_of(episode).actions[1:])
                count += len(parts[-1])
                if count >= steps:
                    break
        found.append(np.concatenate(parts)[:steps])
    return np.stack(found)


def recorded_figures(
    dreamer: Dreamer, clips: RealClips, context: int, at: list[int], batch: int, seed: int
) -> dict[str, Any]:
    """PSNR against real clips at some steps, and agreement of actions, under recorded actions.

    Args:
        dreamer: what dreams; its noise is the same under both kinds of actions.
        clips: whose first `context` frames are given.
        context: K.
        at: numbers of steps, from 1.
        batch: rows dreamed at once.
        seed: of the noise.

    Returns:
        JSON-able: `psnr` at each of the steps, dB of the mean squared error over clips with its
        interval over clips; `agreement`, None for a single clip or without other actions.
    """
    dreamed = _under(dreamer, clips, context, batch, seed)
    found: dict[str, Any] = {"psnr": psnr_at(dreamed, clips, context, at), "agreement": None}
    other = other_actions(clips, context)
    if other is not None and other[1].any():
        others, valid = other
        both = (_dreams(dreamed), _dreams(_under(dreamer, others, context, batch, seed)))
        found["agreement"] = agreement_figures(clips, *both, valid, context)["agreement"]
    return found


def psnr_at(
    shown: np.ndarray, clips: RealClips, context: int, at: list[int]
) -> dict[str, dict[str, float] | None]:
    """PSNR of images (B, T', H, W, 3) uint8 after the given frames; None where no clip is left."""
    found: dict[str, dict[str, float] | None] = {}
    for step in at:
        rows = clips.valid[:, context + step - 1]
        if not rows.any():
            found[str(step)] = None
            continue
        real = clips.frames[rows, context + step - 1]
        error = bootstrap(squared_error(shown[rows, step - 1], real))
        mean, low, high = decibels(np.array([error.mean, error.high, error.low])).tolist()
        found[str(step)] = {"mean": mean, "low": low, "high": high, "count": error.count}
    return found


def step_milliseconds(
    dreamer: Dreamer, given: Tensor, actions: Tensor, rows: int, steps: int, seed: int
) -> float:
    """The median step of `rows` dreams, to the frames on the host, after a warm-up."""
    some = torch.arange(rows) % len(given)
    given, actions = given[some], actions[some]
    dreamer.begin(given, actions[:, : given.shape[1]], seed)
    costs = []
    for step in range(WARMUP + steps):
        t = given.shape[1] + step % (actions.shape[1] - given.shape[1])
        costs.append(_seconds(partial(dreamer.step, actions[:, t])))
    return 1e3 * float(np.median(costs[WARMUP:]))


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _under(dreamer: Dreamer, clips: RealClips, context: int, batch: int, seed: int) -> np.ndarray:
    """Dreams under the clips' actions: (B, T', H, W, 3) uint8."""
    parts = []
    for piece in chunks(len(clips.frames), batch):
        frames = torch.from_numpy(clips.frames[piece])
        actions = torch.from_numpy(clips.actions[piece])
        dreamer.begin(frames[:, :context], actions[:, :context], seed + piece.start)
        steps = [dreamer.step(actions[:, t]) for t in range(context, frames.shape[1])]
        parts.append(torch.stack(steps, dim=1).numpy())
    return np.concatenate(parts)


def _dreams(frames: np.ndarray) -> Dreams:
    """As one sample of each clip; agreement looks at the frames alone."""
    nothing = np.zeros((1, *frames.shape[:2], 0))
    return Dreams(frames[None], nothing, nothing, nothing, nothing)
