"""The second stage: flow, denoiser and heads on the frozen codec's latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from worldflow.conditioning import wrong_actions
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler, load_clips
from worldflow.denoiser import tweedie
from worldflow.training.logger import RunLogger
from worldflow.training.loop import StageConfig, step_generators
from worldflow.training.prefetch import Prefetch
from worldflow.world_model import WorldModel

VALIDATION_CLIPS = 64
PICTURE_CLIPS = 2
# What the score estimates is a standard normal number (the noise on a latent over sigma). Values
# beyond this are errors of a half-trained flow, rare but large enough to drown all others.
SCORE_LIMIT = 4.0


@dataclass
class FlowTraining(StageConfig):
    """Training of flow, denoiser and heads.

    Attributes:
        clip: frames of a training clip.
        head_weight: of the heads' losses beside the denoiser's.
    """

    steps: int = 4000
    batch: int = 8
    learning_rate: float = 1e-3
    clip: int = 8
    head_weight: float = 0.3


@dataclass
class Batch:
    """Clips: latents (B, T, N, C), actions (B, T, ...), rewards, terminated, valid (B, T)."""

    latents: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    valid: Tensor


class LatentEpisodes:
    """All episodes as latents in memory (a frame is N * C numbers), encoded once by the codec."""

    def __init__(self, world: WorldModel, dataset: EpisodeDataset) -> None:
        self.latents: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[np.ndarray] = []
        self.terminated: list[np.ndarray] = []
        with torch.no_grad():
            for index in tqdm(range(len(dataset)), desc="encode frames", unit="episode"):
                episode = dataset.read(index)
                chunks = torch.from_numpy(episode.frames).split(64)
                encoded = torch.cat([world.codec.encode_frames(chunk) for chunk in chunks])
                self.latents.append(encoded.numpy())
                self.actions.append(episode.actions)
                self.rewards.append(episode.rewards)
                self.terminated.append(episode.terminated)

    def batch(self, picks: list[tuple[int, int]], clip: int) -> Batch:
        """The clips at (episode, first frame)."""
        arrays = (self.latents, self.actions, self.rewards, self.terminated)
        clips = [load_clips(array, picks, clip) for array in arrays]
        latents, actions, rewards, terminated = (torch.from_numpy(values) for values, _ in clips)
        valid = torch.from_numpy(clips[0][1])
        return Batch(latents, actions, rewards, terminated, valid)


class FlowStage:
    """Trains everything but the codec.

    Args:
        world: its codec is frozen.
        config: how.
        episodes: encoded by the codec.
        dataset: where they come from.
        train: indices of the episodes to learn from.
        held_out: indices of the episodes to measure on.
        seed: of all random choices.
    """

    name = "flow"

    def __init__(
        self,
        world: WorldModel,
        config: FlowTraining,
        episodes: LatentEpisodes,
        dataset: EpisodeDataset,
        train: np.ndarray,
        held_out: np.ndarray,
        seed: int,
    ) -> None:
        self.world, self.config, self.episodes, self.seed = world, config, episodes, seed
        self.dataset = dataset
        self.train = ClipSampler(dataset.lengths, train, config.clip, over_end=True)
        self.held_out = ClipSampler(dataset.lengths, held_out, config.clip, over_end=True)
        self._batches = Prefetch(self._training_batch)

    def modules(self) -> list[nn.Module]:
        """What the stage trains."""
        world = self.world
        heads = [h for h in (world.reward_head, world.termination_head) if h is not None]
        return [world.conditioning, world.flow, world.denoiser, *heads]

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradients of the flow's NLL, of the denoiser's error and of the heads' losses.

        One backward pass of the NLL gives both the flow's gradients and, at its input, the score
        that the denoiser learns: the target costs nothing extra.
        """
        batch = self._batches.batch(step)
        _, generator = step_generators(self.seed, self.name, step)
        noisy = self._noisy(batch, generator).requires_grad_()
        nll, count = self._nll(noisy, batch.actions, batch.valid)
        nll.backward()
        assert noisy.grad is not None
        score = self.world.config.sigma * count * noisy.grad
        score = score.clamp(-SCORE_LIMIT, SCORE_LIMIT)
        losses = self._denoiser_and_heads(noisy.detach(), score, batch)
        total = losses["denoiser"]
        for name in ("reward", "termination"):
            if name in losses:
                total = total + self.config.head_weight * losses[name]
        total.backward()
        return {"nll": nll.detach(), **{name: loss.detach() for name, loss in losses.items()}}

    @torch.no_grad()
    def validate(self, step: int, logger: RunLogger) -> None:
        """Held-out NLL under true and wrong actions, denoiser and heads, all per dimension."""
        world = self.world
        rng, generator = step_generators(self.seed, self.name, 0)
        picks = self.held_out.sample(VALIDATION_CLIPS, rng)
        batch = self.episodes.batch(picks, self.config.clip)
        noisy = self._noisy(batch, generator)
        figures = {"held_out_nll": self._nll(noisy, batch.actions, batch.valid)[0].item()}
        if world.action_spec.has_alternatives:
            wrong = wrong_actions(batch.actions, world.action_spec, rng)
            nll = self._nll(noisy, wrong, batch.valid)[0].item()
            figures["held_out_nll_wrong_action"] = nll
            figures["held_out_action_gap"] = nll - figures["held_out_nll"]
        losses = self._denoiser_and_heads(noisy, None, batch)
        figures.update({f"held_out_{name}": loss.item() for name, loss in losses.items()})
        logger.scalars(step, figures)
        whole = batch.valid.all(dim=1).nonzero().flatten()[:PICTURE_CLIPS].tolist()
        if whole and not world.config.denoiser.lookahead:  # one that looks ahead cannot step
            strip = self._strip([picks[row] for row in whole], batch.actions[whole])
            logger.picture(step, "real_codec_dream", strip)

    def _training_batch(self, step: int) -> Batch:
        rng, _ = step_generators(self.seed, self.name, step)
        return self.episodes.batch(self.train.sample(self.config.batch, rng), self.config.clip)

    def _noisy(self, batch: Batch, generator: torch.Generator) -> Tensor:
        noise = torch.randn(batch.latents.shape, generator=generator)
        return batch.latents + self.world.config.sigma * noise

    def _nll(self, noisy: Tensor, actions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean negative log-likelihood per latent (nats), and the number of latents it is over."""
        out = self.world.flow(noisy, self.world.conditioning(actions))
        count = valid.sum() * self.world.dimensions
        return -(out.log_prob * valid).sum() / count, count

    def _denoiser_and_heads(
        self, noisy: Tensor, score: Tensor | None, batch: Batch
    ) -> dict[str, Tensor]:
        """Losses; without a score, the denoiser's is the error of the denoised latents instead."""
        world = self.world
        prediction, features = world.denoiser(noisy, world.conditioning(batch.actions))
        if score is not None:
            error = (prediction - score).square()
        else:
            error = (tweedie(noisy, prediction, world.config.sigma) - batch.latents).square()
        losses = {"denoiser": _mean(error.mean(dim=(2, 3)), batch.valid)}
        # the first frame of a clip has no past to read a reward or an end from
        later = batch.valid.clone()
        later[:, 0] = False
        if world.reward_head is not None:
            logits = world.reward_head(features)
            losses["reward"] = _mean(world.reward_head.loss(logits, batch.rewards), later)
        if world.termination_head is not None:
            logits = world.termination_head(features)
            losses["termination"] = _mean(
                world.termination_head.loss(logits, batch.terminated), later
            )
        return losses

    def _strip(self, picks: list[tuple[int, int]], actions: Tensor) -> np.ndarray:
        """Three rows a clip: real frames, the codec's, and the dream under the same actions."""
        world, context, clip = self.world, self.world.config.context, self.config.clip
        frames = [self.dataset.read(i, start, start + clip).frames for i, start in picks]
        real = torch.from_numpy(np.stack(frames))
        generator = torch.Generator().manual_seed(self.seed)
        state = world.initial_state(real[:, :context], actions[:, :context], generator)
        dreamed = [*real[:, : context - 1].unbind(1), world.decode(state.latents)]
        for t in range(context, clip):
            state, _ = world.step(state, actions[:, t], generator)
            dreamed.append(world.decode(state.latents))
        rows = torch.stack((real, world.reconstruct(real), torch.stack(dreamed, dim=1)), dim=1)
        return rearrange(rows, "b row t h w c -> (b row h) (t w) c").numpy()


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
