"""Scores of real video under a world: whole clips, or frame by frame as an environment shows them.

Statistics of a token i of frame t, of which novelty is made (`worldflow.novelty`):

    energy       mean over channels of z_(t, i)^2
    correlation  mean over channels of z_(t, i) * z_(t - 1, i); 0 in a first frame
    detail       log (h(x)_i + 1) - log (h(decode(encode(x)))_i + 1)

where h(x)_i is the mean square, in squared grey levels, of what a 3 x 3 mean takes from the frame
x inside the token's cell. If the world is right then z is white noise: energy is 1 and correlation
0. Detail is for what the codec does not carry: to the flow, a blurred frame is the sharp one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from worldflow.flow.flow import FlowOutput
from worldflow.live_reader import LiveReader
from worldflow.novelty import bits_per_dim, prediction_entropy
from worldflow.randomness import Generators
from worldflow.world_state import Scores

if TYPE_CHECKING:
    from worldflow.world_model import WorldModel

# longer videos are scored frame by frame, as a full attention mask would outgrow the memory
FULL_FORWARD_FRAMES = 64
DECODED_AT_ONCE = 256  # frames


def flow_output(
    world: WorldModel,
    latents: Tensor,
    actions: Tensor,
    known: Tensor | None = None,
    text: Tensor | None = None,
) -> FlowOutput:
    """What the flow says of noisy latents (B, T, N, C) under actions (B, T, ...), text (B, E).

    Without its features, where the video is long.
    """
    condition = world.conditioning(actions, known, text)
    if latents.shape[1] <= FULL_FORWARD_FRAMES:
        return world.flow(latents, condition)
    state = world.flow.empty_state(len(latents))
    columns = []
    for t in range(latents.shape[1]):
        state, out = world.flow.observe(state, latents[:, t], condition[:, t])
        columns.append(out._replace(features=out.features[..., :0]))  # of a long video too much
    return FlowOutput(*(torch.stack(parts, dim=1) for parts in zip(*columns, strict=True)))


def score_video(
    world: WorldModel,
    frames: Tensor,
    actions: Tensor,
    generator: Generators,
    known: Tensor | None = None,
    text: Tensor | None = None,
) -> Scores:
    """Scores (B, T) of frames (B, T, H, W, 3) uint8 under actions (B, T, ...), see `Scores`.

    Args:
        world: the world.
        frames: real or invented.
        actions: `actions[:, t]` led to `frames[:, t]`.
        generator: of the noise on the latents.
        known: (B, T) bool, whether the action was recorded; None: all were.
        text: (B, E), see `worldflow.text.encoder.embed`; None: none.
    """
    latents = world.codec.encode_frames(frames)
    out = flow_output(world, world.add_noise(latents, generator), actions, known, text)
    previous = torch.cat((torch.zeros_like(out.noise[:, :1]), out.noise[:, :-1]), dim=1)
    return seen_scores(world, out, previous, token_detail(world, frames, latents))


def seen_scores(world: WorldModel, out: FlowOutput, previous: Tensor, detail: Tensor) -> Scores:
    """Scores of frames that were seen.

    Args:
        world: the world.
        out: what the flow says of them.
        previous: z of the frame before each, of the shape of z; zeros before the first.
        detail: (..., N).
    """
    energy = out.noise.square().mean(dim=-1)
    correlation = (out.noise * previous).mean(dim=-1)
    return _scores(world, "seen", out, torch.stack((energy, correlation, detail.to(energy)), -1))


def dreamed_scores(world: WorldModel, out: FlowOutput) -> Scores:
    """Scores of frames that the world made itself.

    Their z was drawn, so it is white noise whatever the world knows. What can be strange in a
    dream is how sure the prediction is.
    """
    return _scores(world, "dreamed", out, _token_uncertainty(world, out)[..., None])


@torch.no_grad()
def token_detail(world: WorldModel, frames: Tensor, latents: Tensor) -> Tensor:
    """The statistic `detail`, (..., N), of frames (..., H, W, 3) with latents (..., N, C)."""
    flat, flat_latents = frames.reshape(-1, *frames.shape[-3:]), latents.flatten(0, -3)
    pieces = []
    for start in range(0, len(flat), DECODED_AT_ONCE):
        piece = slice(start, start + DECODED_AT_ONCE)
        shown = world.codec.decode_frames(flat_latents[piece])
        real, decoded = (_token_details(x, world.codec.grid) for x in (flat[piece], shown))
        pieces.append((real + 1.0).log() - (decoded + 1.0).log())
    return torch.cat(pieces).reshape(latents.shape[:-1])


class LiveScorer:
    """Scores B real episodes frame by frame; equal to `score_video` up to rounding.

    Args:
        world: in eval mode.
        rows: B.
        text: of each episode, (B, E), see `worldflow.text.encoder.embed`; None: none.

    Raises:
        DataError: text for a world that knows none, or of another shape.
    """

    def __init__(self, world: WorldModel, rows: int, text: Tensor | None = None) -> None:
        self.world = world
        self._reader = LiveReader(world, rows, text)
        self._device = next(world.parameters()).device
        shape = (rows, world.tokens, world.channels)
        self._noise = torch.zeros(shape, dtype=world.codec.dtype, device=self._device)

    @torch.no_grad()
    def reset(self, rows: Tensor, frames: Tensor, generators: Generators) -> None:
        """The first frames of new episodes, see `LiveReader.reset`."""
        _, out = self._reader.reset(rows, frames, generators)
        self._noise = torch.where(rows.to(self._device)[:, None, None], out.noise, self._noise)

    @torch.no_grad()
    def step(self, frames: Tensor, actions: Tensor, generators: Generators) -> Scores:
        """Scores (B,) of the next frames (B, H, W, 3) uint8, to which `actions` (B, ...) led."""
        latents, out = self._reader.step(frames, actions, generators)
        detail = token_detail(self.world, frames.to(self._device), latents)
        scores = seen_scores(self.world, out, self._noise, detail)
        self._noise = out.noise
        return scores


@dataclass(frozen=True)
class EpisodeScores:
    """Scores of whole episodes, (B,).

    Attributes:
        log_likelihood: sum over the frames, nats: log p of the episode.
        bits_per_dim: mean over the frames.
        uncertainty: mean over the frames, nats.
        novelty: mean over the frames.
        peak_novelty: the largest of them.
    """

    log_likelihood: Tensor
    bits_per_dim: Tensor
    uncertainty: Tensor
    novelty: Tensor
    peak_novelty: Tensor


def episode_scores(scores: Scores, valid: Tensor | None = None) -> EpisodeScores:
    """What scores (B, T) of frames say of episodes; `valid` (B, T) bool leaves frames out.

    Raises:
        ValueError: an episode has no valid frame.
    """
    keep = torch.ones_like(scores.novelty, dtype=torch.bool) if valid is None else valid
    if not bool(keep.any(dim=1).all()):
        raise ValueError("an episode has no valid frame; leave it out")
    count = keep.sum(dim=1)

    def total(values: Tensor) -> Tensor:
        return torch.where(keep, values, 0.0).sum(dim=1)

    return EpisodeScores(
        log_likelihood=total(scores.log_likelihood),
        bits_per_dim=total(scores.bits_per_dim) / count,
        uncertainty=total(scores.uncertainty) / count,
        novelty=total(scores.novelty) / count,
        peak_novelty=scores.novelty.masked_fill(~keep, -torch.inf).amax(dim=1),
    )


def _scores(world: WorldModel, kind: str, out: FlowOutput, statistics: Tensor) -> Scores:
    dimensions = world.dimensions
    return Scores(
        log_likelihood=out.log_prob,
        bits_per_dim=bits_per_dim(out.log_prob, dimensions),
        uncertainty=prediction_entropy(out.log_scale, dimensions),
        novelty=world.calibration.novelty(kind, statistics.mean(dim=-2)),
        token_uncertainty=_token_uncertainty(world, out),
        token_statistics=statistics,
    )


def _token_uncertainty(world: WorldModel, out: FlowOutput) -> Tensor:
    return prediction_entropy(out.token_log_scale, world.channels)


def _token_details(frames: Tensor, grid: tuple[int, int]) -> Tensor:
    """h: frames (M, H, W, 3) uint8 to (M, N)."""
    pixels = frames.movedim(-1, 1).float()
    smooth = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    energy = (pixels - smooth).square().mean(dim=1, keepdim=True)
    return F.adaptive_avg_pool2d(energy, grid).flatten(1)
