"""Dreams beside reality: open-loop rollouts under the actions of real clips, and their errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from worldflow.conditioning import wrong_actions
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.ssim import ssim
from worldflow.metrics import masked_mean, squared_error
from worldflow.randomness import generator_of
from worldflow.world_model import WorldModel
from worldflow.world_state import Scores


@dataclass(frozen=True)
class Dreams:
    """S dreams of each of B clips, under the clips' actions; T' = T - context steps.

    Attributes:
        frames: (S, B, T', H, W, 3) uint8.
        log_likelihood: of the dreamed frames, nats, (S, B, T').
        novelty: (S, B, T').
        iterations: Jacobi passes of each block, the global one first, (S, B, T', blocks).
        uncertainty: nats, (S, B, T').
        rewards: (S, B, T'); None from a world without a reward head.
        terminated: (S, B, T') bool, drawn at every step, as a dream here goes on after an end; None
            from a world without a termination head.
    """

    frames: np.ndarray
    log_likelihood: np.ndarray
    novelty: np.ndarray
    iterations: np.ndarray
    uncertainty: np.ndarray
    rewards: np.ndarray | None = None
    terminated: np.ndarray | None = None


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `count` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def dream(
    world: WorldModel,
    clips: RealClips,
    samples: int,
    batch: int,
    temperature: float,
    seed: int,
    progress: bool = True,
) -> Dreams:
    """Dream on from the first K = `world.config.context` frames of each clip.

    Args:
        world: in eval mode.
        clips: their first K frames are given, the rest is dreamed.
        samples: S, dreams of each clip, with different noise.
        batch: rows dreamed at once.
        temperature: factor on the noise of the dreamed frames.
        seed: of the noise.
        progress: show a progress bar.
    """
    context, count, length = world.config.context, *clips.valid.shape
    generator = torch.Generator().manual_seed(seed)
    rows = np.tile(np.arange(count), samples)
    signals = {"rewards": "reward", "terminated": "termination"}
    absent = {name for name, h in signals.items() if getattr(world, f"{h}_head") is None}
    parts: dict[str, list[np.ndarray]] = {
        n: [] for n in Dreams.__dataclass_fields__ if n not in absent
    }
    total = len(list(chunks(len(rows), batch))) * (length - context)
    with tqdm(total=total, desc="dream", unit="step", disable=not progress) as bar:
        for piece in chunks(len(rows), batch):
            frames = torch.from_numpy(clips.frames[rows[piece]])
            actions = torch.from_numpy(clips.actions[rows[piece]])
            state = world.initial_state(
                frames[:, :context],
                actions[:, :context],
                generator,
                text=clips.told(rows[piece]),
            )
            steps: dict[str, list[torch.Tensor]] = {name: [] for name in parts}
            for t in range(context, length):
                state, made = world.step(state, actions[:, t], generator, temperature)
                steps["frames"].append(made.frame)
                steps["log_likelihood"].append(made.log_likelihood)
                steps["novelty"].append(made.novelty)
                steps["iterations"].append(made.jacobi_iterations)
                steps["uncertainty"].append(made.uncertainty)
                if made.reward is not None:
                    steps["rewards"].append(made.reward)
                if made.terminated is not None:
                    steps["terminated"].append(made.terminated)
                bar.update()
            for name, values in steps.items():
                parts[name].append(torch.stack(values, dim=1).cpu().numpy())
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Dreams(**{n: a.reshape(samples, count, *a.shape[1:]) for n, a in joined.items()})


def reconstructions(world: WorldModel, clips: RealClips, batch: int) -> np.ndarray:
    """The clips' frames through the codec and back, (B, T, H, W, 3) uint8."""
    pieces = [
        world.reconstruct(torch.from_numpy(clips.frames[piece])).cpu().numpy()
        for piece in chunks(len(clips.frames), batch)
    ]
    return np.concatenate(pieces)


def scores(
    world: WorldModel, clips: RealClips, actions: np.ndarray, batch: int, seed: int
) -> Scores:
    """What the world says of the real frames under some actions (B, T, ...): fields (B, T).

    The noise on a clip depends on its number and the seed alone: means over clips average over it,
    and the same clip under other actions has the same noise.
    """
    pieces = []
    for piece in chunks(len(clips.frames), batch):
        frames, taken = torch.from_numpy(clips.frames[piece]), torch.from_numpy(actions[piece])
        numbers = range(len(clips.frames))[piece]
        noise = [clip_noise(seed, clip) for clip in numbers]
        pieces.append(world.score(frames, taken, noise, text=clips.told(piece)))
    return Scores(
        **{
            name: torch.cat([getattr(piece, name) for piece in pieces]).cpu()
            for name in Scores.__dataclass_fields__
        }
    )


def clip_noise(seed: int, clip: int) -> torch.Generator:
    """The generator of the noise on the latents of clip number `clip`."""
    return generator_of(np.random.SeedSequence([seed, clip]))


def errors(
    clips: RealClips, dreams: Dreams, reconstructed: np.ndarray, context: int
) -> dict[str, np.ndarray]:
    """Mean squared errors (B, T') over the dreamed steps, in squared grey levels.

    Of the dream (mean over its samples), of the last given frame repeated, and of the real frames
    through the codec and back, which no dream can be better than.
    """
    real = clips.frames[:, context:]
    return {
        "dream": squared_error(dreams.frames, real[None]).mean(axis=0),
        "copy last frame": squared_error(clips.frames[:, context - 1 : context], real),
        "codec": squared_error(reconstructed[:, context:], real),
    }


def similarities(
    clips: RealClips, dreams: Dreams, reconstructed: np.ndarray, context: int
) -> dict[str, np.ndarray]:
    """SSIM (B, T') over the dreamed steps, of the same three as `errors`."""
    real = clips.frames[:, context:]
    return {
        "dream": ssim(dreams.frames, real[None]).mean(axis=0),
        "copy last frame": ssim(clips.frames[:, context - 1 : context], real),
        "codec": ssim(reconstructed[:, context:], real),
    }


def novelty_curves(
    world: WorldModel, clips: RealClips, dreams: Dreams, batch: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Novelty over the dreamed steps, and the mean NLL per latent in nats.

    Returns:
        novelty (T',) of real frames, of real frames under wrong actions, and of dreams; and the NLL
        of the real frames under the true actions, under wrong ones (absent without actions), and
        without the captions that the world is told (absent where it is told none).
    """
    context = world.config.context
    valid = clips.valid[:, context:]
    curves, nll = {}, {}

    def nll_of(scored: Scores) -> float:
        return float(-scored.log_likelihood.numpy()[:, context:][valid].mean() / world.dimensions)

    taken = {"real": clips.actions}
    if world.action_spec.has_alternatives:
        wrong = wrong_actions(
            torch.from_numpy(clips.actions), world.action_spec, np.random.default_rng(seed)
        )
        taken["wrong actions"] = wrong.numpy()
    for name, actions in taken.items():
        scored = scores(world, clips, actions, batch, seed)
        curves[name] = masked_mean(scored.novelty.numpy()[:, context:], valid)
        nll[name] = nll_of(scored)
    if clips.text is not None:
        untold = replace(clips, text=None)
        nll["no captions"] = nll_of(scores(world, untold, clips.actions, batch, seed))
    curves["dream"] = masked_mean(dreams.novelty.mean(axis=0), valid)
    return curves, nll
