"""The card of a world: what a stranger must know of it, in Markdown."""

from __future__ import annotations

import json
from pathlib import Path

from worldflow.data.episodes import EpisodeDataset
from worldflow.data.metadata import games_of
from worldflow.data.splitting import divides_a_recording
from worldflow.held_out import split_of
from worldflow.novelty import noise_floor
from worldflow.training.curves import read_metrics
from worldflow.training.logger import METRICS
from worldflow.world_model import WorldModel


def world_card(world: WorldModel, dataset: EpisodeDataset, run: Path, training: str) -> str:
    """The card.

    Args:
        world: trained.
        dataset: what it learned from.
        run: folder with the run's figures.
        training: a sentence on how it was trained.
    """
    curves = sorted(read_metrics(run / METRICS).items())
    held_out = {tag: values[-1] for tag, (_, values) in curves if "held_out" in tag}
    held = world.spec.held_out
    unit = "episodes" if held.frames is None or held.recordings == held.episodes else "frames"
    divided = (
        "; they are the end of a recording whose beginning was learned from, as no whole one was "
        "small enough, so figures are a little better than on a new recording"
        if divides_a_recording(dataset.recordings, *split_of(dataset, held))
        else ""
    )
    sigma = world.config.sigma
    lossy = dataset.metadata.lossy
    compression = (
        f"\n- The frames were {lossy} before: likelihoods describe that compression too."
        if lossy
        else ""
    )
    rows = "\n".join(f"| {tag} | {value:.4g} |" for tag, value in held_out.items())
    games = ", ".join(games_of(dataset.metadata.source)) or "video"
    return f"""# World of `{games}`

- Source: `{json.dumps(dataset.metadata.source)}`, {len(dataset)} episodes, {dataset.steps} steps, \
{held.fraction:.0%} of the {unit} held out{divided}.{compression}
- {training}
- Noise: sigma {sigma} at unit latent scale; its entropy, {noise_floor(sigma):.3f} nats a latent, \
is the least NLL there can be.

| held-out figure | value |
| --- | --- |
{rows}

NLL is in nats a latent. Likelihoods are of the noisy latents, not of the pixels; \
`pixel_bits` alone are of these, an upper bound on the bits for each of their bytes.
"""
