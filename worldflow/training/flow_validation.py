"""What the flow stage measures on held-out clips, and the dreams that it shows."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from worldflow.conditioning import wrong_actions
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.windows import ClipSampler
from worldflow.flow.state import FlowOutput
from worldflow.pictures.strips import strip
from worldflow.pictures.video import beside
from worldflow.pixel_bits import pixel_bits
from worldflow.training.batches import Batch, Episodes, read_frames
from worldflow.training.logger import RunLogger
from worldflow.training.loop import step_generators
from worldflow.training.losses import DenoiserLoss, on_device
from worldflow.world_model import WorldModel

CLIPS = 64
PICTURE_CLIPS = 2
VIDEO_HEIGHT = 192  # pixels, at least, of each video


class FlowValidation:
    """Measures on the same held-out clips, under the same noise, each time.

    Args:
        episodes: encoded by the codec.
        dataset: where they come from.
        clips: held-out clips.
        seed: of the choice of clips and of the noise.
        termination: whether the head of the end is measured on these clips too.
    """

    def __init__(
        self,
        episodes: Episodes,
        dataset: EpisodeDataset,
        clips: ClipSampler,
        seed: int,
        termination: bool = True,
    ) -> None:
        self._episodes, self._dataset, self._clips, self._seed = episodes, dataset, clips, seed
        self._termination = termination

    @torch.no_grad()
    def measure(self, world: WorldModel, step: int, logger: RunLogger) -> None:
        """Log NLL (of each frame of a clip too), bits of the pixels, denoiser and heads.

        All are per dimension; the bits are an upper bound.

        Wrong actions are compared with the true ones where those are known, and captions of other
        clips with those of the clips that have another one. Pictures and a video
        show real frames, the same through the codec, and dreams.
        """
        device = next(world.parameters()).device
        rng, generator = step_generators(self._seed, "flow", 0)
        picks = self._clips.sample(CLIPS, rng)
        batch = self._episodes.batch(picks, self._clips.clip)
        noise = torch.randn(batch.latents.shape, generator=generator).to(device)
        wrong = batch.actions
        if world.action_spec.has_alternatives:
            wrong = wrong_actions(batch.actions, world.action_spec, rng)
        foreign = other_texts(batch.text).to(device)
        batch, wrong = on_device(batch, device), wrong.to(device)
        noisy = batch.latents + world.config.sigma * noise

        out = self._score(world, noisy, batch.actions, batch.known, batch.text)
        nll = -out.log_prob / world.dimensions
        figures = {"held_out_nll": _mean(nll, batch.valid)}
        frames = read_frames(self._dataset, picks, self._clips.clip).to(device)
        bits = pixel_bits(world, frames, noisy, -world.dimensions * nll)["total"]
        figures["held_out_pixel_bits"] = _mean(bits, batch.valid)
        for t in range(nll.shape[1]):
            if batch.valid[:, t].any():
                figures[f"nll_position/{t:02d}"] = _mean(nll[:, t], batch.valid[:, t])
        known = batch.valid & batch.known
        if world.action_spec.has_alternatives and known.any():
            of_wrong = _mean(self._nll(world, noisy, wrong, batch.known, batch.text), known)
            figures["held_out_nll_wrong_action"] = of_wrong
            figures["held_out_action_gap"] = of_wrong - _mean(nll, known)
        told = batch.valid & told_otherwise(batch.text, foreign)[:, None]
        if told.any():
            under_others = self._nll(world, noisy, batch.actions, batch.known, foreign)
            figures["held_out_text_gap"] = _mean(under_others, told) - _mean(nll, told)
        figures |= self._denoiser_and_heads(world, noisy, out.features, noise, batch)
        logger.scalars(step, figures)
        self._show(world, picks, batch, step, logger)

    def _nll(
        self, world: WorldModel, noisy: Tensor, actions: Tensor, known: Tensor, text: Tensor
    ) -> Tensor:
        """Nats a latent of each frame, (B, T)."""
        return -self._score(world, noisy, actions, known, text).log_prob / world.dimensions

    def _score(
        self, world: WorldModel, noisy: Tensor, actions: Tensor, known: Tensor, text: Tensor
    ) -> FlowOutput:
        return world.flow(noisy, world.conditioning(actions, known, text))

    def _denoiser_and_heads(
        self, world: WorldModel, noisy: Tensor, past: Tensor, noise: Tensor, batch: Batch
    ) -> dict[str, float]:
        sums = DenoiserLoss(world)(noisy, past, noise, batch)
        if not self._termination:
            sums.pop("termination", None)
        frames, later = batch.valid.sum(), batch.valid[:, 1:].sum().clamp(min=1)
        # what is left of the noise after denoising: sigma * (prediction - noise)
        figures = {"held_out_denoiser": world.config.sigma**2 * sums.pop("denoiser") / frames}
        figures |= {f"held_out_{name}": value / later for name, value in sums.items()}
        return {name: value.item() for name, value in figures.items()}

    def _show(
        self,
        world: WorldModel,
        picks: list[tuple[int, int]],
        batch: Batch,
        step: int,
        logger: RunLogger,
    ) -> None:
        # a dream needs the actions of a whole clip
        usable = batch.valid.all(dim=1)
        if world.action_spec.kind != "none":
            usable &= batch.known[:, 1:].all(dim=1)
        rows = usable.nonzero().flatten()[:PICTURE_CLIPS].tolist()
        if not rows or world.config.denoiser.lookahead:  # one that looks ahead cannot step
            return
        told = batch.text[rows] if world.spec.text is not None else None
        shown = self._dream(world, [picks[row] for row in rows], batch.actions[rows], told)
        steps = np.arange(self._clips.clip) - world.config.context + 1  # 0: the last given frame
        enlarged = max(1, 64 // world.frame_shape[1])
        strips = [
            strip({label: v[row].numpy() for label, v in shown.items()}, steps, enlarged)
            for row in range(len(rows))
        ]
        logger.picture(step, "real_codec_dream", np.concatenate(strips))
        videos = {label: rearrange(v, "b t ... -> (b t) ...").numpy() for label, v in shown.items()}
        scale = -(-VIDEO_HEIGHT // world.frame_shape[0])
        logger.video(step, "real_codec_dream", beside(videos, scale), world.spec.fps)

    def _dream(
        self,
        world: WorldModel,
        picks: list[tuple[int, int]],
        actions: Tensor,
        text: Tensor | None,
    ) -> dict[str, Tensor]:
        """Frames (B, T, H, W, 3): real, the codec's, and the dream under the same actions."""
        context, clip = world.config.context, self._clips.clip
        frames = [self._dataset.read(i, start, start + clip).frames for i, start in picks]
        real = torch.from_numpy(np.stack(frames)).to(actions.device)
        generator = torch.Generator().manual_seed(self._seed)
        given = real[:, :context], actions[:, :context]
        state = world.initial_state(*given, generator, text=text)
        dreamed = [*real[:, : context - 1].unbind(1), world.decode(state.latents)]
        for t in range(context, clip):
            state, _ = world.step(state, actions[:, t], generator)
            dreamed.append(world.decode(state.latents))
        shown = {"real": real, "codec": world.reconstruct(real), "dream": torch.stack(dreamed, 1)}
        return {label: values.cpu() for label, values in shown.items()}


def other_texts(text: Tensor) -> Tensor:
    """For each row of (B, W) the next row, cyclically, that is another text; itself if none is."""
    rows = []
    for k in range(len(text)):
        following = torch.cat((text[k + 1 :], text[: k + 1]))
        differs = (following != text[k]).any(dim=1) & following.any(dim=1)
        rows.append(following[int(differs.int().argmax())] if differs.any() else text[k])
    return torch.stack(rows)


def told_otherwise(text: Tensor, foreign: Tensor) -> Tensor:
    """Which rows of (B, W) have a text, and another one in `foreign`: (B,)."""
    return text.any(dim=1) & (foreign != text).any(dim=1)


def _mean(values: Tensor, mask: Tensor) -> float:
    return float((values * mask).sum() / mask.sum())
