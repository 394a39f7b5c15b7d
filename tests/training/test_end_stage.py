"""Training of the head that remembers the episode, by itself and with the world."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import tiny_pretraining

from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError
from worldflow.heads.episode_memory import EpisodeTerminationHead
from worldflow.storage import load_world
from worldflow.training.end_stage import EndStage
from worldflow.training.engine import Engine
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.latents import LatentEpisodes
from worldflow.training.losses import DenoiserLoss, FlowLoss
from worldflow.training.pretrain import PretrainConfig, main


def remembering(config: PretrainConfig, reads: str = "episode", **flow: object) -> PretrainConfig:
    """The same with a head of the end that reads the episode."""
    # whether there are heads is left to the data, as in the presets of `configs/world`
    heads = replace(config.world.heads, termination_reads=reads, reward=None, termination=None)
    training = replace(config.training, flow=replace(config.training.flow, **flow))
    return replace(config, world=replace(config.world, heads=heads), training=training)


def alone(data: Path, base: Path, out: Path, **flow: object) -> PretrainConfig:
    config = remembering(tiny_pretraining(data, out), **{"part": "end", **flow})
    return replace(config, initial_world=str(base))


def test_the_head_alone_is_trained_and_learns(data: Path, base: Path, tmp_path: Path) -> None:
    settings = {"steps": 300, "learning_rate": 1e-2, "batch": 4, "clip": 12, "warmup": 5}
    after = load_world(main(alone(data, base, tmp_path, **settings)))
    old, new = load_world(base).state_dict(), after.state_dict()
    changed = {n for n in old | new if n not in old or n not in new}
    changed |= {n for n in old.keys() & new.keys() if not torch.equal(old[n], new[n])}
    assert changed and all(name.startswith("termination_head.") for name in changed)
    assert isinstance(after.termination_head, EpisodeTerminationHead)
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    losses = [entry["value"] for entry in entries if entry["tag"] == "flow/termination"]
    # four episodes, which it can learn by heart
    assert sum(losses[-4:]) / 4 < 0.3 * losses[0]
    measured = {entry["tag"]: entry["value"] for entry in entries}
    assert {"flow/held_out_termination", "flow/held_out_nll"} <= measured.keys()
    assert measured["flow/held_out_ends"] > 0.0 and measured["flow/held_out_ends_foreseen"] > 0.0
    # the end can be trained on from there, by itself again
    again = load_world(main(alone(data, tmp_path / "world", tmp_path / "more", steps=1)))
    assert again.config.heads.termination_reads == "episode"


def test_an_update_is_the_loss_of_its_clips_step_by_step(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but without noise. Every other clip begins with its episode."""
    world = load_world(main(alone(data, base, tmp_path, steps=1)))
    world.config = replace(world.config, sigma=1e-6)
    dataset, clip = EpisodeDataset(data), 5
    episodes = LatentEpisodes(world.codec, dataset, tmp_path)
    config = FlowTraining(part="end", clip=clip, batch=3, action_dropout=0.0)
    split = np.arange(4), np.arange(4, 6)
    stage = EndStage(world, config, episodes, dataset, *split, 0, Engine())
    drawn = [(2, 3), (0, int(dataset.lengths[0]) - 3), (3, 1)]
    monkeypatch.setattr(stage.clips, "sample", lambda count, rng: list(drawn))
    found = stage.update(0)["termination"].item()
    head, total, steps = stage.head, 0.0, 0
    for episode, start in [(2, 0), drawn[1], (3, 0)]:
        stop = min(start + clip, int(dataset.lengths[episode]))
        read = dataset.read(episode)
        latents = world.codec.encode_frames(torch.from_numpy(read.frames[None, start:stop]))
        condition = world.conditioning(torch.from_numpy(read.actions[None, start:stop]))
        memory = head.begin(latents[:, 0])
        for t in range(stop - start):
            frame = latents[:, t]
            logits, memory = head.step(memory, frame, frame, frame, condition[:, t])
            if t:
                ended = torch.tensor([bool(read.terminated[start + t])])
                total, steps = total + head.loss(logits, ended).item(), steps + 1
    assert steps == 4 + 2 + 4
    assert found == pytest.approx(total / steps, rel=2e-3)  # latents are kept in half precision
    assert all(p.grad is not None for p in head.parameters())


def test_a_killed_run_goes_on_to_the_same_bits(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = alone(data, base, tmp_path / "whole", steps=6, clip=12)
    config = replace(config, training=replace(config.training, ema=0.9, checkpoint_every=2))
    whole = (main(config) / "world.safetensors").read_bytes()
    update, killed = EndStage.update, replace(config, out=str(tmp_path / "killed"))

    def until_fourth(stage: EndStage, step: int) -> dict[str, torch.Tensor]:
        if step == 4:
            raise KeyboardInterrupt
        return update(stage, step)

    with monkeypatch.context() as patch:
        patch.setattr(EndStage, "update", until_fourth)
        with pytest.raises(KeyboardInterrupt):
            main(killed)
    assert (main(killed) / "world.safetensors").read_bytes() == whole


def test_it_is_learned_with_the_whole_world_and_does_not_teach_the_flow(
    data: Path, tmp_path: Path
) -> None:
    longest = int(EpisodeDataset(data).lengths.max())
    config = remembering(tiny_pretraining(data, tmp_path), clip=longest)
    with pytest.raises(ConfigError, match=r"needs training\.flow\.clip=2 to be as long"):
        main(remembering(tiny_pretraining(data, tmp_path / "short"), clip=2, part="all"))
    world = load_world(main(config))
    batch = LatentEpisodes(world.codec, EpisodeDataset(data), tmp_path).batch([(0, 0)], 6)
    world.requires_grad_(True)
    _, past = FlowLoss(world)(batch.latents, batch)
    sums = DenoiserLoss(world)(batch.latents, past, torch.zeros_like(batch.latents), batch)
    sums["termination"].backward()
    assert world.termination_head is not None
    assert all(p.grad is None for p in world.flow.parameters())
    assert all(p.grad is not None for p in world.termination_head.parameters())


@pytest.mark.parametrize(
    ("reads", "settings", "named"),
    [
        ("past", {}, "termination_reads=episode"),
        ("episode", {"rare": 0.1}, "rare"),
        ("episode", {"part": "heads", "clip": 6}, "would teach the head"),
        ("episode", {"part": "denoiser", "clip": 6}, "would teach the head"),
        ("episode", {"accumulate": 2}, "accumulate"),
    ],
)
def test_what_it_cannot_do_is_refused(
    data: Path, base: Path, tmp_path: Path, reads: str, settings: dict, named: str
) -> None:
    config = remembering(alone(data, base, tmp_path, **settings), reads)
    with pytest.raises(ConfigError, match=named):
        main(config)
