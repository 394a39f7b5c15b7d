"""Training against truth: a linear-Gaussian video, whose likelihood and denoiser are known.

y_t = A y_(t-1) + B a_t + noise of covariance Q, seen as y~_t = y_t + sigma * noise. The Kalman
filter gives log p(y~_t | y~_<t, a_<=t) and E[y_t | y~_<=t], the fixed-lag smoother
E[y_t | y~_<=t+1]; by Tweedie's formula (y~_t - E[y_t | ...]) / sigma is sigma * d(-log p)/d(y~_t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from worldflow.actions import ActionSpec
from worldflow.codec import CodecConfig
from worldflow.denoiser import DenoiserConfig, tweedie
from worldflow.flow.block import GlobalConfig
from worldflow.flow.flow import FlowConfig
from worldflow.flow.transformer import TransformerConfig
from worldflow.heads.config import HeadsConfig
from worldflow.training.batches import Episodes
from worldflow.training.checkpoint import Progress
from worldflow.training.flow_stage import FlowStage, FlowTraining
from worldflow.training.logger import RunLogger
from worldflow.training.loop import run_stage
from worldflow.world_model import WorldModel
from worldflow.world_spec import HeldOut, WorldConfig, WorldSpec

SIGMA = 0.4
TOKENS, CHANNELS, ACTIONS = 3, 2, 2
SIZE = TOKENS * CHANNELS
CLIP, EPISODES, EPISODE = 6, 3000, 32
TRAINING = FlowTraining(steps=600, batch=64, learning_rate=1e-2, warmup=50, clip=CLIP)
LOOKAHEAD_STEPS = 300


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Process:
    """y_t = A y_(t-1) + B a_t + N(0, Q), with standard normal actions; y_0 ~ N(0, start)."""

    a: Tensor
    b: Tensor
    q: Tensor
    start: Tensor

    @classmethod
    def make(cls) -> Process:
        """Stationary, of unit variance; A and Q both tie tokens and channels together."""
        eye = torch.eye(TOKENS, dtype=torch.float64)
        turn = torch.tensor([[0.94, -0.34], [0.34, 0.94]], dtype=torch.float64)
        a = 0.92 * torch.kron(0.75 * eye + 0.25 * eye.roll(1, 0), turn)
        below = torch.tensor([[1.0, 0.0], [0.5, 0.8]], dtype=torch.float64)
        mix = torch.kron(eye + 0.6 * eye.roll(1, 0).tril(), below)
        b = 0.8 * normal(SIZE, ACTIONS, generator=torch.Generator().manual_seed(3))
        start = torch.zeros_like(a)
        for _ in range(400):  # earlier noise and actions, which are not known at the first frame
            start = a @ start @ a.T + mix @ mix.T + b @ b.T
        unit = SIZE / float(start.trace())
        return cls(a, b * math.sqrt(unit), mix @ mix.T * unit, start * unit)

    def draw(self, count: int, frames: int, seed: int) -> tuple[Tensor, Tensor]:
        """Latents (B, T, SIZE) and actions (B, T, ACTIONS), the first of them unused."""
        generator = torch.Generator().manual_seed(seed)
        actions = normal(count, frames, ACTIONS, generator=generator)
        y: list[Tensor] = []
        for t in range(frames):
            root = torch.linalg.cholesky(self.q if t else self.start)
            noise = normal(count, SIZE, generator=generator) @ root.T
            y.append(y[-1] @ self.a.T + actions[:, t] @ self.b.T + noise if t else noise)
        return torch.stack(y, dim=1), actions

    def covariance(self, frames: int, last: Tensor) -> Tensor:
        """Of y_<T given the actions, (T * SIZE, T * SIZE); `last` is Q of the last frame."""
        rows: list[Tensor] = []  # how each frame is made of independent noises
        for t in range(frames):
            own = torch.zeros(SIZE, frames * SIZE, dtype=torch.float64)
            noise = self.start if t == 0 else last if t == frames - 1 else self.q
            own[:, t * SIZE : (t + 1) * SIZE] = torch.linalg.cholesky(noise)
            rows.append(self.a @ rows[-1] + own if t else own)
        return torch.cat(rows) @ torch.cat(rows).T


@dataclass(frozen=True)
class Truth:
    """What is optimal: log_prob (B, T); filtered and smoothed means (B, T, SIZE).

    The smoother knows y~_<=t+1 and a_<=t, as a denoiser that looks ahead: it is not told the action
    that led to the next frame. At the last frame, which has no next one, it is the filter.
    """

    log_prob: Tensor
    filtered: Tensor
    smoothed: Tensor


def kalman(process: Process, noisy: Tensor, actions: Tensor) -> Truth:
    """The Kalman filter over noisy (B, T, SIZE) under actions (B, T, ACTIONS)."""
    a, b, q = process.a, process.b, process.q
    noise = SIGMA**2 * torch.eye(SIZE, dtype=torch.float64)
    mean, cov = torch.zeros_like(noisy[:, 0]), process.start  # of y_t given y~_<t
    log_prob, filtered, smoothed = [], [], []
    for t in range(noisy.shape[1]):
        if t:
            gain = cov @ a.T @ torch.linalg.inv(a @ cov @ a.T + q + b @ b.T + noise)
            smoothed.append(mean + (noisy[:, t] - mean @ a.T) @ gain.T)
            mean, cov = mean @ a.T + actions[:, t] @ b.T, a @ cov @ a.T + q
        log_prob.append(MultivariateNormal(mean, cov + noise).log_prob(noisy[:, t]))
        gain = cov @ torch.linalg.inv(cov + noise)
        mean, cov = mean + (noisy[:, t] - mean) @ gain.T, cov - gain @ cov
        filtered.append(mean)
    smoothed.append(mean)
    return Truth(*(torch.stack(parts, dim=1) for parts in (log_prob, filtered, smoothed)))


class KnownEpisodes(Episodes):
    """Episodes of the process in place of a codec's latents."""

    def __init__(self, process: Process) -> None:
        latents, actions = process.draw(EPISODES, EPISODE, seed=0)
        self.latents = list(latents.float().unflatten(-1, (TOKENS, CHANNELS)).numpy())
        self.actions = list(actions.float().numpy())
        self.known = list(np.ones((EPISODES, EPISODE), np.bool_))
        self.rewards = list(np.zeros((EPISODES, EPISODE), np.float32))
        self.terminated = list(np.zeros((EPISODES, EPISODE), np.bool_))
        self.text = np.zeros((EPISODES, 0), np.float32)


class Training(FlowStage):
    """The stage of pretraining, without pictures of frames that do not exist."""

    def validate(self, step: int, logger: RunLogger) -> None:
        pass


class DenoiserTraining(Training):
    """The same update, of which the denoiser alone keeps what it learned."""

    def modules(self) -> list[nn.Module]:
        return [self.world.denoiser]


def new_world(lookahead: int) -> WorldModel:
    config = WorldConfig(
        sigma=SIGMA,
        context=1,
        condition=16,
        codec=CodecConfig(channels=CHANNELS, widths=[8] * 4),
        flow=FlowConfig(
            window=CLIP,
            local_blocks=2,
            local=TransformerConfig(16, 1, 2),
            global_block=GlobalConfig(
                past=TransformerConfig(32, 2, 2), within=TransformerConfig(32, 1, 2)
            ),
        ),
        denoiser=DenoiserConfig(CLIP, lookahead, TransformerConfig(32, 2, 2)),
        heads=HeadsConfig(reward=False, termination=False),
    )
    box = ActionSpec("box", low=(-1.0,) * ACTIONS, high=(1.0,) * ACTIONS)
    spec = WorldSpec(box, (16, 16 * TOKENS, 3), 8.0, {}, (0.0, 1.0), HeldOut(0.1, 0, 10))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WorldModel(config, spec)


@dataclass(frozen=True)
class Learned:
    """Clips drawn anew, what is optimal on them, and what the trained worlds say of them.

    Attributes:
        latents: y, (B, T, SIZE), as all others of this shape.
        noisy: y~.
        log_prob: of the flow, (B, T).
        score: sigma * d(-log p(clip)) / d(y~), by autograd.
        denoised: by the denoisers of lookahead 0 and 1.
    """

    truth: Truth
    latents: Tensor
    noisy: Tensor
    log_prob: Tensor
    score: Tensor
    denoised: dict[int, Tensor]


@pytest.fixture(scope="module")
def process() -> Process:
    return Process.make()


@pytest.fixture(scope="module")
def learned(process: Process, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Flow and denoiser trained together, then one that looks ahead on the flow as it is."""
    episodes, every = KnownEpisodes(process), np.arange(EPISODES)
    dataset: Any = SimpleNamespace(lengths=np.full(EPISODES, EPISODE))
    worlds = [new_world(lookahead) for lookahead in (0, 1)]

    def train(stage: type[FlowStage], world: WorldModel, config: FlowTraining) -> None:
        run = stage(world, config, episodes, dataset, every, every, seed=0)
        folder = tmp_path_factory.mktemp("run")
        run_stage(run, world, folder, Progress("flow", 0, 0.0, ""), checkpoint_every=10**9)
        world.eval().requires_grad_(False)

    train(Training, worlds[0], TRAINING)
    worlds[1].flow, worlds[1].conditioning = worlds[0].flow, worlds[0].conditioning
    train(DenoiserTraining, worlds[1], replace(TRAINING, steps=LOOKAHEAD_STEPS))

    latents, actions = process.draw(4000, CLIP, seed=1)
    noise = normal(*latents.shape, generator=torch.Generator().manual_seed(2))
    noisy = latents + SIGMA * noise
    tokens = noisy.float().unflatten(-1, (TOKENS, CHANNELS)).requires_grad_()
    condition = worlds[0].conditioning(actions.float())
    log_prob = worlds[0].flow(tokens, condition).log_prob
    (score,) = torch.autograd.grad(-SIGMA * log_prob.sum(), tokens)
    tokens = tokens.detach()
    denoised = [tweedie(tokens, w.denoiser(tokens, condition)[0], SIGMA).flatten(2) for w in worlds]
    truth = kalman(process, noisy, actions)
    return Learned(
        truth, latents, noisy, log_prob.detach(), score.flatten(2), dict(enumerate(denoised))
    )


def explained(estimate: Tensor, truth: Tensor) -> float:
    """R^2: 1 - E|estimate - truth|^2 / E|truth|^2."""
    return 1.0 - float((estimate - truth).square().sum() / truth.square().sum())


def error(estimate: Tensor, truth: Tensor) -> float:
    """Mean square."""
    return float((estimate - truth).square().mean())


def test_the_filter_is_the_conditional_of_the_joint_gaussian(process: Process) -> None:
    latents, actions = process.draw(2, 4, seed=5)
    noisy = latents + SIGMA * normal(*latents.shape, generator=torch.Generator().manual_seed(6))
    truth = kalman(process, noisy, actions)
    mean = torch.zeros_like(latents)
    for t in range(1, 4):
        mean[:, t] = mean[:, t - 1] @ process.a.T + actions[:, t] @ process.b.T
    noise = SIGMA**2 * torch.eye(4 * SIZE, dtype=torch.float64)

    cov = process.covariance(4, process.q)
    whole = MultivariateNormal(mean.flatten(1), cov + noise).log_prob(noisy.flatten(1))
    torch.testing.assert_close(truth.log_prob.sum(1), whole)
    known = (noisy - mean).flatten(1) @ torch.linalg.solve(cov + noise, cov)
    torch.testing.assert_close(truth.filtered[:, -1], mean[:, -1] + known[:, -SIZE:])

    # an action that is not known is one more noise
    cov = process.covariance(4, process.q + process.b @ process.b.T)
    mean[:, -1] -= actions[:, -1] @ process.b.T
    known = (noisy - mean).flatten(1) @ torch.linalg.solve(cov + noise, cov)
    expected = mean[:, -2] + known[:, -2 * SIZE : -SIZE]
    torch.testing.assert_close(truth.smoothed[:, -2], expected)


def test_the_flow_learns_the_likelihood(learned: Learned) -> None:
    """In nats a latent, in every frame; no model can be better than the truth."""
    gap = (learned.truth.log_prob - learned.log_prob).mean(dim=0) / SIZE
    assert gap.min() > -0.005 and gap.max() < 0.02


def test_the_exact_score_is_that_of_the_filter(learned: Learned) -> None:
    """At a clip's last frame: nothing comes after it, so that it is the score without lookahead."""
    truth = (learned.noisy - learned.truth.filtered)[:, -1] / SIGMA
    assert explained(learned.score[:, -1], truth) > 0.94


@pytest.mark.parametrize("lookahead", [0, 1])
def test_the_denoiser_learns_the_optimal_one(learned: Learned, lookahead: int) -> None:
    # one that looks ahead cannot know that the last frame has no next one
    frames = slice(0, CLIP - lookahead)
    optimal = (learned.truth.smoothed if lookahead else learned.truth.filtered)[:, frames]
    noisy, y = learned.noisy[:, frames], learned.latents[:, frames]
    denoised = learned.denoised[lookahead][:, frames]
    assert explained((noisy - denoised) / SIGMA, (noisy - optimal) / SIGMA) > 0.94
    assert error(denoised, optimal) < 0.08 * error(optimal, y)
    assert 0.99 * error(optimal, y) < error(denoised, y) < 1.08 * error(optimal, y)
    assert error(denoised, y) < 0.6 * error(noisy, y)


def test_lookahead_gains_what_it_can(learned: Learned) -> None:
    truth, frames = learned.truth, slice(0, CLIP - 1)
    y = learned.latents[:, frames]
    known = error(truth.filtered[:, frames], y) - error(truth.smoothed[:, frames], y)
    gain = error(learned.denoised[0][:, frames], y) - error(learned.denoised[1][:, frames], y)
    assert known > 0.1 * error(truth.filtered[:, frames], y)
    assert 0.7 * known < gain < 1.2 * known
