"""A stage of a tiny world, tiny data and a world of it, and the way to helpers beside the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from training_runs import tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.splitting import split
from worldflow.testing import randomize, tiny_config
from worldflow.training.flow_stage import FlowStage, FlowTraining
from worldflow.training.latents import LatentEpisodes
from worldflow.training.pretrain import main
from worldflow.world_model import WorldModel
from worldflow.world_spec import HeldOut, WorldSpec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three actions."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, ActionSpec("discrete", n=3))
    return folder


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world that has learned from it."""
    return main(tiny_pretraining(data, tmp_path_factory.mktemp("base")))


@pytest.fixture
def stage(tmp_path: Path) -> FlowStage:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    dataset = EpisodeDataset(tmp_path / "data")
    torch.manual_seed(0)
    held = HeldOut(0.34, 0, len(dataset))
    spec = WorldSpec(dataset.action_spec, dataset.frame_shape, 8.0, {}, (0.0, 1.0), held)
    world = WorldModel(tiny_config(context=1), spec)
    randomize(world, 0)
    world.codec.eval().requires_grad_(False)
    train, held_out = split(dataset.recordings, 0.34, 0)
    config = FlowTraining(steps=5, batch=4, clip=10)
    episodes = LatentEpisodes(world.codec, dataset, tmp_path / "latents")
    return FlowStage(world, config, episodes, dataset, train, held_out, 0)
