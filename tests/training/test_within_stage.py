"""Training of the maps within a frame alone, on pasts that are read once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError
from worldflow.storage import load_world
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.latents import LatentEpisodes
from worldflow.training.past_features import PastFeatures, _cuts
from worldflow.training.pretrain import PretrainConfig, main
from worldflow.world_model import WorldModel


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, ActionSpec("discrete", n=3))
    return folder


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return main(tiny_pretraining(data, tmp_path_factory.mktemp("base")))


def within(data: Path, base: Path, out: Path, **flow: object) -> PretrainConfig:
    """Training of the maps within a frame, with three outcomes."""
    config = tiny_pretraining(data, out)
    block = replace(config.world.flow.global_block, outcomes=3)
    world = replace(config.world, flow=replace(config.world.flow, global_block=block))
    settings = replace(config.training.flow, part="within", **flow)
    training = replace(config.training, flow=settings)
    return replace(config, world=world, training=training, initial_world=str(base))


def pasts(world: WorldModel, data: Path, folder: Path, clip: int, dropout: float) -> PastFeatures:
    dataset = EpisodeDataset(data)
    episodes = LatentEpisodes(world.codec, dataset, folder)
    index = np.arange(len(dataset))
    return PastFeatures(
        world, episodes, episodes.key, index, dataset.lengths, clip, dropout, 0, folder
    )


def test_every_frame_is_cut_once_with_a_window_before_it() -> None:
    lengths = np.array([1, 5, 6, 23])
    seen = {int(i): [] for i in range(4)}
    for index, begin, first, stop in _cuts(np.arange(4), lengths, 6, 3):
        assert stop - begin <= 6 and stop <= lengths[index]
        assert begin == max(first - 3, 0)
        seen[index] += range(first, stop)
    assert all(frames == list(range(lengths[i])) for i, frames in seen.items())


def test_likelihoods_on_kept_pasts_are_those_of_whole_clips(
    data: Path, base: Path, tmp_path: Path
) -> None:
    """All but without noise, an episode's first clip has the likelihood that the flow gives it."""
    world = load_world(base)
    world.config = replace(world.config, sigma=1e-6)
    dataset, clip = EpisodeDataset(data), 6
    frames = pasts(world, data, tmp_path, clip, 0.0)
    assert len(frames) == dataset.lengths.sum()
    first = int(dataset.lengths[0])
    assert first > clip
    past, latents = frames.rows(np.arange(clip))
    episode = dataset.read(0)
    condition = world.conditioning(torch.from_numpy(episode.actions[None, :clip]))
    with torch.no_grad():
        hidden, affines = world.flow._local(latents)
        local = sum(affine.log_scale.sum((1, 2)) for affine in affines)
        found = world.flow.global_block.log_prob(hidden, past) - local
        whole = world.flow(latents[None], condition).log_prob[0]
    assert whole.std() > 0.1
    torch.testing.assert_close(found, whole, rtol=0, atol=0.02)  # kept in half precision


def test_kept_pasts_are_read_again_and_written_anew_for_others(
    data: Path, base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world = load_world(base)
    once = np.array(pasts(world, data, tmp_path, 6, 0.0).past)
    assert "read pasts" in capfd.readouterr().err
    assert np.array_equal(np.array(pasts(world, data, tmp_path, 6, 0.0).past), once)
    assert "read pasts" not in capfd.readouterr().err
    other = np.array(pasts(world, data, tmp_path, 6, 1.0).past)
    assert "read pasts" in capfd.readouterr().err
    assert not np.array_equal(other, once)


def test_only_the_maps_within_a_frame_are_trained(data: Path, base: Path, tmp_path: Path) -> None:
    config = within(data, base, tmp_path, rare=0.5)
    before, after = load_world(base).state_dict(), load_world(main(config)).state_dict()
    trained = ("within.", "project.", "head.", "outcomes.")
    inside = tuple(f"flow.global_block.{name}" for name in trained)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(inside) for name in moved)
    assert {name for name in after if name not in before} == {
        f"flow.global_block.outcomes.{layer}.{kind}"
        for layer in ("norm", "others", "weights")
        for kind in ("weight", "bias")
    }
    first = (tmp_path / "world/world.safetensors").read_bytes()
    main(replace(config, out=str(tmp_path / "again")))
    assert (tmp_path / "again/world/world.safetensors").read_bytes() == first


def test_what_does_not_go_with_it_is_refused(data: Path, base: Path, tmp_path: Path) -> None:
    config = within(data, base, tmp_path)
    with pytest.raises(ConfigError, match="give it with from="):
        main(replace(config, initial_world=None))
    with pytest.raises(ConfigError, match=r"part is 'inside'; use 'all' or 'within'"):
        FlowTraining(part="inside")
    with pytest.raises(ConfigError, match=r"0 unless training\.flow\.part=within"):
        FlowTraining(rare=0.1)
    other = tmp_path / "other"
    write_dataset(other, ActionSpec("discrete", n=4))
    with pytest.raises(ConfigError, match=r"would leave conditioning\.table\.weight untrained"):
        main(within(other, base, tmp_path / "b"))
