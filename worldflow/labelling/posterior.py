"""The posterior of discrete actions, by enumeration: p(a_t | x) from exact likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldflow.errors import ConfigError, DataError
from worldflow.labelling.latents import check_finite, noisy_draws
from worldflow.randomness import Generators, fixed
from worldflow.world_model import WorldModel


@dataclass(frozen=True)
class ActionPosterior:
    """What the frames say of the actions that led to them; all float64.

    At a first frame, which no action led to, and after a row's end there is the prior alone.

    Attributes:
        log_posterior: log p(a_t | x_<=t+delay), (B, T, n).
        log_likelihood: log p(x_t | x_<t, a_t), the earlier actions summed out, (B, T, n), nats. The
            mean over the draws of noise; 0 where there is the prior alone.
        kept: share of the histories' weight that the beam held on to at t, (B, T), the mean over
            the draws. Where it is far from 1, a wider beam says more.
    """

    log_posterior: Tensor
    log_likelihood: Tensor
    kept: Tensor


def action_posterior(
    world: WorldModel,
    frames: Tensor,
    generator: Generators | None = None,
    prior: Sequence[float] | None = None,
    beam: int = 4,
    delay: int = 0,
    noise_samples: int = 1,
) -> ActionPosterior:
    """p(a_t | x_<=t+delay) at every frame of unlabelled video.

    By Bayes, p(a_<=t | x_<=t) is proportional to the product of p(x_s | x_<s, a_<=s) p(a_s). Every
    action is tried at every frame, after each of the `beam` most likely histories of actions; see
    `filter_actions`. With a beam of n^(T-1) histories the result is exact.

    The likelihoods are of noisy latents y~ = y + sigma * noise. One draw gives the exact posterior
    given that y~. Of several draws the posteriors are averaged, each with a beam of its own: every
    one of them is calibrated if the world is, and so is their mean or it errs towards doubt, and
    its log score is no worse than theirs on average (Jensen). The other candidate, the log of the
    mean likelihood, is of no use: log-likelihoods of some hundred latents differ by tens of nats
    from draw to draw for reasons that have nothing to do with the action, so that the mean is that
    of the luckiest draw alone.

    Args:
        world: of discrete actions.
        frames: (B, T, H, W, 3) uint8.
        generator: of the noise on the latents; None: a fixed seed for each row.
        prior: p(a), n positive numbers of sum 1, the same at every frame; None: uniform.
        beam: histories kept of each row; 1: greedy.
        delay: frames after t that are taken into account, for actions that show late.
        noise_samples: draws of the noise.

    Raises:
        DataError: frames of another size, a prior of another length, or actions that are not
            discrete.
        ConfigError: `beam`, `delay` or `noise_samples` out of range.
    """
    log_prior = log_prior_of(world, prior)
    check_search(beam, delay, noise_samples)
    draws = noisy_draws(world, frames, noise_samples, generator or fixed(len(frames)))
    lengths = torch.full((len(frames),), frames.shape[1])
    return average([filter_actions(world, y, lengths, log_prior, beam, delay) for y in draws])


def average(draws: Sequence[ActionPosterior]) -> ActionPosterior:
    """The mean posterior over draws of the noise on the same frames; see `action_posterior`."""
    log_posterior = torch.stack([draw.log_posterior for draw in draws]).logsumexp(0)
    return ActionPosterior(
        log_posterior - math.log(len(draws)),
        torch.stack([draw.log_likelihood for draw in draws]).mean(0),
        torch.stack([draw.kept for draw in draws]).mean(0),
    )


def log_prior_of(world: WorldModel, prior: Sequence[float] | None) -> Tensor:
    """log p(a), (n,) float64; uniform if `prior` is None.

    Raises:
        DataError: the world's actions are not discrete, or have no alternative; or the prior is not
            n positive numbers of sum 1.
    """
    spec = world.action_spec
    if spec.kind == "box":
        raise DataError("the world's actions are a box, which has no list; use search_actions")
    if not spec.has_alternatives:
        raise DataError(
            f"the world's actions are of kind {spec.kind!r} with n={spec.n}: there is nothing to "
            "choose between; pretrain a world on data with actions"
        )
    values = torch.tensor([1.0 / spec.n] * spec.n if prior is None else list(prior)).double()
    if len(values) != spec.n or not (values > 0).all() or abs(values.sum().item() - 1) > 1e-3:
        raise DataError(
            f"prior is {values.tolist()}; it must be {spec.n} positive numbers of sum 1 (a small "
            "number, not 0, for an action that is never taken)"
        )
    return (values / values.sum()).log()


def check_search(beam: int, delay: int, noise_samples: int) -> None:
    """Raises ConfigError if a number is out of range, or the delay can have no effect."""
    if beam < 1 or delay < 0 or noise_samples < 1:
        raise ConfigError(
            f"beam={beam} and noise_samples={noise_samples} must be at least 1, delay={delay} not "
            "negative"
        )
    if delay and beam == 1:
        raise ConfigError(
            f"delay={delay} has no effect with beam=1, as later frames can only choose between "
            "histories that are kept; use a beam of n^delay or more, or delay=0"
        )


@torch.inference_mode()
def filter_actions(
    world: WorldModel, noisy: Tensor, lengths: Tensor, log_prior: Tensor, beam: int, delay: int
) -> ActionPosterior:
    """The posterior given noisy latents, frame by frame.

    A step observes the frame n times after each of a row's histories, keeps `beam` of the n * beam
    longer ones, and forgets the rest: it keeps the likeliest for each choice of the last `delay`
    actions, so that later frames can choose between them, and then the likeliest of all others.
    The histories' weights are their exact joint likelihoods.

    Memory does not grow with T but for the latents and the result: it is that of 2 * B * beam * n
    caches of the flow.

    Args:
        world: of discrete actions.
        noisy: (B, T, N, C).
        lengths: (B,), frames of each row; those after it are not looked at.
        log_prior: (n,) float64.
        beam: histories kept of each row.
        delay: frames after t that p(a_t | ...) depends on, fewer before a row's end.

    Raises:
        DataError: a log-likelihood that is not finite.
    """
    flow, choices = world.flow, len(log_prior)
    lengths, order = lengths.sort(descending=True, stable=True)  # so that rows end from below
    noisy, log_prior = noisy[order], log_prior.to(noisy.device)
    rows, frames = noisy.shape[:2]
    posterior = log_prior.repeat(rows, frames, 1)
    likelihood, kept = torch.zeros_like(posterior), torch.ones_like(posterior[..., 0])
    condition = world.conditioning.embed(torch.arange(choices, device=noisy.device))
    state, _ = flow.observe(flow.empty_state(rows), noisy[:, 0], world.conditioning.initial(rows))
    weights = posterior.new_zeros(rows, 1)
    past = torch.zeros(rows, 1, 0, dtype=torch.int64, device=noisy.device)
    for t in range(1, int(lengths[0])):
        alive, width = int((lengths > t).sum()), weights.shape[1]
        index = torch.arange(alive * width, device=noisy.device).repeat_interleave(choices)
        state, out = flow.observe(
            state.rows(index),
            noisy[:alive, t].repeat_interleave(width * choices, dim=0),
            condition.repeat(alive * width, 1),
        )
        check_finite(out.log_prob, t)
        log_prob = out.log_prob.double().view(alive, width, choices)
        weights, past = weights[:alive], past[:alive]
        likelihood[:alive, t] = (weights[..., None] + log_prob).logsumexp(1)
        posterior[:alive, t] = (likelihood[:alive, t] + log_prior).log_softmax(1)
        log_prob = log_prob + log_prior
        for lag in range(1, past.shape[2] + 1):
            before, actions = posterior[:alive, t - lag], past[..., -lag]
            posterior[:alive, t - lag] = _revise(before, weights, log_prob.logsumexp(2), actions)
        joint = (weights[..., None] + log_prob).flatten(1).log_softmax(1)
        past = _longer(past, choices)
        past = past[..., max(past.shape[2] - delay, 0) :]
        best = _best(joint, past, beam)
        weights = joint.gather(1, best)
        total = weights.logsumexp(1, keepdim=True)
        kept[:alive, t], weights = total.squeeze(1).exp().clamp(max=1.0), weights - total
        first = torch.arange(alive, device=noisy.device)[:, None] * joint.shape[1]
        state = state.rows((first + best).flatten())
        past = past.gather(1, best[..., None].expand(-1, -1, past.shape[2]))
    back = order.argsort()
    return ActionPosterior(posterior[back], likelihood[back], kept[back])


def _longer(past: Tensor, choices: int) -> Tensor:
    """Histories (B, K, L), each with every action after it: (B, K * n, L + 1)."""
    last = torch.arange(choices, device=past.device).repeat(*past.shape[:2], 1)
    before = past[:, :, None].expand(-1, -1, choices, -1)
    return torch.cat((before, last[..., None]), dim=3).flatten(1, 2)


def _best(joint: Tensor, past: Tensor, beam: int) -> Tensor:
    """Which histories to keep, (B, at most `beam`); see `filter_actions`.

    Args:
        joint: log weights (B, C), of sum 1.
        past: the last actions of each, (B, C, L).
        beam: how many to keep.
    """
    rivals = (past[:, :, None] == past[:, None]).all(-1) & (joint[:, None] > joint[:, :, None])
    # two keys in one: no difference of log weights comes near the first
    ranked = joint - 1e9 * rivals.any(2)
    return ranked.topk(min(beam, joint.shape[1]), dim=1).indices


def _revise(posterior: Tensor, weights: Tensor, log_prob: Tensor, actions: Tensor) -> Tensor:
    """The log posterior (B, n) of an earlier action, once more frame is known.

    p(a | x_<=t) is proportional to p(a | x_<t) p(x_t | x_<t, a), and the latter is a mean over the
    histories with that action. As it is a mean, what the beam dropped does not count as evidence.
    An action of which no history is left keeps its probability: the frame is silent about it.

    Args:
        posterior: before the frame, (B, n).
        weights: log weights of the histories before the frame, (B, K).
        log_prob: log p(x_t | history), the frame's own action summed out, (B, K).
        actions: what each history did, (B, K).
    """
    others = ~F.one_hot(actions, posterior.shape[1]).bool()
    before = weights[..., None].masked_fill(others, -math.inf).logsumexp(1)
    after = (weights + log_prob)[..., None].masked_fill(others, -math.inf).logsumexp(1)
    left = before.isfinite()
    mass = posterior.masked_fill(~left, -math.inf).logsumexp(1, keepdim=True)
    evidence = (after - before).masked_fill(~left, 0.0)
    revised = (posterior + evidence).masked_fill(~left, -math.inf).log_softmax(1) + mass
    return torch.where(left, revised, posterior)
