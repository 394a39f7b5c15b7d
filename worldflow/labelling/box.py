"""The posterior of continuous actions, by a search of the box: an approximation, and how good."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from worldflow.errors import ConfigError, DataError
from worldflow.flow.flow import FlowState
from worldflow.labelling.latents import check_finite, noisy_draws
from worldflow.randomness import Generators, fixed
from worldflow.world_model import WorldModel

SPREADS = 3.0  # standard deviations of the posterior, to each side, that the next round searches


@dataclass(frozen=True)
class BoxPosterior:
    """Weighted candidates for the action that led to each frame, under a uniform prior; float64.

    At a first frame, which no action led to, and after a row's end the posterior is the prior.

    Attributes:
        candidates: actions (B, T, M, D).
        log_weights: of the candidates, of sum 1, (B, T, M).
        mean: of the posterior, (B, T, D).
        best: the most likely candidate, (B, T, D).
        entropy: of the posterior relative to the uniform density, (B, T) nats: 0 where the frame
            says nothing, -log 10 where it leaves a tenth of the box.
    """

    candidates: Tensor
    log_weights: Tensor
    mean: Tensor
    best: Tensor
    entropy: Tensor


def search_actions(
    world: WorldModel,
    frames: Tensor,
    generator: Generators | None = None,
    candidates: int = 64,
    rounds: int = 3,
) -> BoxPosterior:
    """An approximation of p(a_t | x_<=t) at every frame of unlabelled video, for actions in a box.

    At each frame, `candidates` Sobol points of the box are scored; each further round scores as
    many of the smaller box that holds `SPREADS` standard deviations of the posterior so far, or the
    distance between two points where that is more (the cross-entropy method with uniform
    proposals). All points count in the end, each with its likelihood divided by the density of all
    proposals at it (multiple importance sampling), so the weights are right for any smaller boxes.

    What is approximate: a peak narrower than the first round's spacing may be missed; the past is
    taken to be the most likely candidates, so that doubt about it is not carried on; and frames
    after t do not count. Likelihoods are exact, but of one draw of the noise.

    Args:
        world: of actions in a box.
        frames: (B, T, H, W, 3) uint8.
        generator: of the noise on the latents; None: a fixed seed for each row.
        candidates: points a round.
        rounds: 1 or more; M = candidates * rounds.

    Raises:
        DataError: frames of another size, or actions that are no box.
        ConfigError: `candidates` or `rounds` out of range.
    """
    check_box(world, candidates, rounds)
    (noisy,) = noisy_draws(world, frames, 1, generator or fixed(len(frames)))
    lengths = torch.full((len(frames),), frames.shape[1])
    return search(world, noisy, lengths, candidates, rounds)


def check_box(world: WorldModel, candidates: int, rounds: int) -> None:
    """Raises DataError unless actions are a box, and ConfigError for too small a search."""
    if world.action_spec.kind != "box":
        raise DataError(
            f"the world's actions are of kind {world.action_spec.kind!r}, no box to search; "
            "discrete actions are enumerated by action_posterior"
        )
    if candidates < 2 or rounds < 1:
        raise ConfigError(f"candidates={candidates} must be at least 2, rounds={rounds} at least 1")


@torch.inference_mode()
def search(
    world: WorldModel, noisy: Tensor, lengths: Tensor, candidates: int, rounds: int
) -> BoxPosterior:
    """As `search_actions`, given noisy latents.

    Args:
        world: of actions in a box.
        noisy: (B, T, N, C).
        lengths: (B,), frames of each row; those after it are not looked at.
        candidates: points a round.
        rounds: number of rounds.

    Raises:
        DataError: a log-likelihood that is not finite.
    """
    flow, spec = world.flow, world.action_spec
    lengths, order = lengths.sort(descending=True, stable=True)  # so that rows end from below
    noisy = noisy[order]
    rows, frames = noisy.shape[:2]
    low = torch.tensor(spec.low, dtype=torch.float64, device=noisy.device)
    side = torch.tensor(spec.high, dtype=torch.float64, device=noisy.device) - low
    points = SobolEngine(len(low), scramble=True, seed=0).draw(rounds * candidates).to(low)
    tried = (low + points * side).repeat(rows, frames, 1, 1)
    log_weights = torch.zeros_like(tried[..., 0]).log_softmax(-1)
    mean = (low + 0.5 * side).repeat(rows, frames, 1)
    best, entropy = mean.clone(), torch.zeros_like(mean[..., 0])
    state, _ = flow.observe(flow.empty_state(rows), noisy[:, 0], world.conditioning.initial(rows))
    for t in range(1, int(lengths[0])):
        alive = int((lengths > t).sum())
        here, frame = torch.arange(alive, device=noisy.device), noisy[:alive, t]
        state = state.rows(here)
        unit, log_density, log_weight = _search_frame(
            world, state, frame, points.view(rounds, candidates, -1), low, side
        )
        check_finite(log_density, t)
        weight = log_weight.exp()
        tried[:alive, t], log_weights[:alive, t] = low + unit * side, log_weight
        mean[:alive, t] = (weight[..., None] * tried[:alive, t]).sum(1)
        best[:alive, t] = tried[here, t, log_density.argmax(1)]
        entropy[:alive, t] = -(weight * log_density).sum(1)
        state, _ = flow.observe(state, frame, world.conditioning.embed(best[:alive, t].to(noisy)))
    back = order.argsort()
    return BoxPosterior(*(x[back] for x in (tried, log_weights, mean, best, entropy)))


def _search_frame(
    world: WorldModel, state: FlowState, frame: Tensor, points: Tensor, low: Tensor, side: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Search one frame.

    Args:
        world: of actions in a box.
        state: the past of B rows.
        frame: noisy latents (B, N, C).
        points: of each round in units of its box, (rounds, candidates, D).
        low: the box's lower corner (D,).
        side: its sides (D,).

    Returns:
        all points in units of the whole box (B, M, D), the log density of the posterior at them in
        the same units (B, M), and their log weights (B, M).
    """
    rows, candidates = len(frame), points.shape[1]
    fork = state.rows(torch.arange(rows, device=frame.device).repeat_interleave(candidates))
    repeated = frame.repeat_interleave(candidates, dim=0)
    boxes = [_Box.unit(rows, low)]
    units, scores = [], []
    for relative in points:
        unit = boxes[-1].low[:, None] + relative * boxes[-1].side[:, None]
        actions = (low + unit * side).flatten(0, 1).to(frame)
        _, out = world.flow.observe(fork, repeated, world.conditioning.embed(actions))
        units.append(unit)
        scores.append(out.log_prob.double().view(rows, candidates))
        at, log_likelihood = torch.cat(units, dim=1), torch.cat(scores, dim=1)
        ratio = log_likelihood - _log_density(boxes, at)
        total = ratio.logsumexp(1, keepdim=True)
        boxes.append(boxes[-1].around(at, (ratio - total).exp(), candidates))
    log_evidence = total - math.log(at.shape[1])
    return at, log_likelihood - log_evidence, ratio - total


@dataclass(frozen=True)
class _Box:
    """A box within the unit box, one a row: its lower corner and its sides, (B, D)."""

    low: Tensor
    side: Tensor

    @classmethod
    def unit(cls, rows: int, like: Tensor) -> _Box:
        """The unit box of as many dimensions as `like` (D,)."""
        return cls(like.new_zeros(rows, len(like)), like.new_ones(rows, len(like)))

    def around(self, points: Tensor, weights: Tensor, candidates: int) -> _Box:
        """The next round's, around points (B, M, D) of weights (B, M); see `search_actions`."""
        mean = (weights[..., None] * points).sum(1)
        std = (weights[..., None] * (points - mean[:, None]).square()).sum(1).sqrt()
        spacing = self.side * candidates ** (-1.0 / points.shape[-1])
        reach = torch.maximum(SPREADS * std, spacing)
        low, high = (mean - reach).clamp(min=0.0), (mean + reach).clamp(max=1.0)
        return _Box(low, high - low)


def _log_density(boxes: list[_Box], points: Tensor) -> Tensor:
    """Log of the mean of the uniform densities over `boxes`, at points (B, M, D): (B, M)."""
    density = torch.zeros_like(points[..., 0])
    for box in boxes:
        low, high = box.low[:, None], (box.low + box.side)[:, None]
        inside = ((points >= low) & (points <= high)).all(-1)
        density += inside / box.side.prod(-1, keepdim=True)
    return (density / len(boxes)).log()
