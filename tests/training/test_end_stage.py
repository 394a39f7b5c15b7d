"""Training of the head that remembers the episode, by itself and with the world."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.episode_memory import EpisodeTerminationHead
from worldflow.errors import ConfigError
from worldflow.storage import load_world
from worldflow.training.latents import LatentEpisodes
from worldflow.training.losses import DenoiserLoss, FlowLoss
from worldflow.training.pretrain import PretrainConfig, main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, ActionSpec("discrete", n=3))
    return folder


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return main(tiny_pretraining(data, tmp_path_factory.mktemp("base")))


def remembering(config: PretrainConfig, reads: str = "episode", **flow: object) -> PretrainConfig:
    """The same with a head of the end that reads the episode."""
    # whether there are heads is left to the data, as in the presets of `configs/world`
    heads = replace(config.world.heads, termination_reads=reads, reward=None, termination=None)
    training = replace(config.training, flow=replace(config.training.flow, **flow))
    return replace(config, world=replace(config.world, heads=heads), training=training)


def alone(data: Path, base: Path, out: Path, **flow: object) -> PretrainConfig:
    config = remembering(tiny_pretraining(data, out), part="end", **flow)
    return replace(config, initial_world=str(base))


def test_the_head_alone_is_trained_and_learns(data: Path, base: Path, tmp_path: Path) -> None:
    settings = {"steps": 150, "learning_rate": 1e-2, "batch": 4, "clip": 12, "warmup": 5}
    after = load_world(main(alone(data, base, tmp_path, **settings)))
    old, new = load_world(base).state_dict(), after.state_dict()
    changed = {n for n in old | new if n not in old or n not in new}
    changed |= {n for n in old.keys() & new.keys() if not torch.equal(old[n], new[n])}
    assert changed and all(name.startswith("termination_head.") for name in changed)
    assert isinstance(after.termination_head, EpisodeTerminationHead)
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    losses = [entry["value"] for entry in entries if entry["tag"] == "flow/termination"]
    # five episodes, which it can learn by heart
    assert sum(losses[-4:]) / 4 < 0.7 * losses[0]
    measured = {entry["tag"]: entry["value"] for entry in entries}
    assert {"flow/held_out_end_loss", "flow/held_out_nll"} <= measured.keys()
    assert measured["flow/held_out_ends"] > 0.0 and measured["flow/held_out_expected_ends"] > 0.0
    # the end can be trained on from there, by itself again
    again = load_world(main(alone(data, tmp_path / "world", tmp_path / "more", steps=1)))
    assert again.config.heads.termination_reads == "episode"


def test_it_is_learned_with_the_whole_world_and_does_not_teach_the_flow(
    data: Path, tmp_path: Path
) -> None:
    world = load_world(main(remembering(tiny_pretraining(data, tmp_path))))
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
        ("episode", {"clip": 1}, "clip"),
        ("episode", {"accumulate": 2}, "accumulate"),
    ],
)
def test_what_it_cannot_do_is_refused(
    data: Path, base: Path, tmp_path: Path, reads: str, settings: dict, named: str
) -> None:
    config = remembering(alone(data, base, tmp_path, **settings), reads)
    with pytest.raises(ConfigError, match=named):
        main(config)
