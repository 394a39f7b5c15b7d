"""Actions that were not recorded, and those that training hides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.conditioning import Conditioning
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.errors import ConfigError, DataError
from worldflow.training.flow_stage import FlowStage, FlowTraining
from worldflow.training.logger import RunLogger
from worldflow.training.pretrain import main

SPECS = [ActionSpec("discrete", n=3), ActionSpec("box", low=(-1.0,), high=(1.0,))]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
def test_an_unknown_action_is_the_learned_null(spec: ActionSpec) -> None:
    conditioning = Conditioning(spec, 8)
    actions = torch.ones((2, 4, *spec.shape), dtype=torch.int64 if spec.n else torch.float32)
    known = torch.tensor([[True, False, True, True], [True, True, False, False]])
    out, whole = conditioning(actions, known), conditioning(actions)
    assert torch.equal(out[known], whole[known])
    torch.testing.assert_close(out[~known], conditioning.initial(3))
    assert not torch.allclose(out[~known], whole[~known])
    assert torch.equal(conditioning(actions, torch.ones_like(known)), whole)
    out[~known].sum().backward()
    assert conditioning.null.grad is not None and conditioning.null.grad.any()
    learned = conditioning.table.weight if spec.n else conditioning.projection.weight
    assert learned.grad is None or not learned.grad.any()


def test_without_actions_known_says_nothing() -> None:
    conditioning = Conditioning(ActionSpec("none"), 8)
    actions = torch.zeros(2, 3, dtype=torch.int64)
    hidden = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(conditioning(actions, hidden), conditioning(actions))


def prepared(stage: FlowStage, rate: float, step: int) -> torch.Tensor:
    stage.config.action_dropout = rate
    return torch.cat([piece.batch.known for piece in stage._prepare(step).pieces])


def test_whole_clips_are_hidden_at_the_rate(stage: FlowStage) -> None:
    valid = stage._prepare(0).pieces[0].batch.valid
    assert torch.equal(prepared(stage, 0.0, 0), valid)  # all were recorded
    assert not prepared(stage, 1.0, 0).any()
    hidden = [~prepared(stage, 0.3, step).any(dim=1) for step in range(100)]
    assert 0.2 < torch.cat(hidden).float().mean() < 0.4  # of 400 clips
    assert torch.equal(prepared(stage, 0.3, 7), prepared(stage, 0.3, 7))
    rest = prepared(stage, 0.3, 7)[prepared(stage, 0.3, 7).any(dim=1)]
    assert rest.shape[0] == 0 or (rest.sum(dim=1) == 8).all()


def test_hiding_changes_no_noise(stage: FlowStage) -> None:
    noise = stage._prepare(3).pieces[0].noise
    stage.config.action_dropout = 1.0
    assert torch.equal(stage._prepare(3).pieces[0].noise, noise)


def held_out(stage: FlowStage, folder: Path) -> dict[str, float]:
    folder.mkdir()
    stage.validate(1, RunLogger(folder, "flow", 0))
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return {entry["tag"].removeprefix("flow/"): entry["value"] for entry in entries}


def test_wrong_actions_are_measured_where_the_true_ones_are_known(
    stage: FlowStage, tmp_path: Path
) -> None:
    whole = held_out(stage, tmp_path / "whole")
    positions = [whole.pop(f"nll_position/{t:02d}") for t in range(8)]
    assert "nll_position/08" not in whole  # clips of 10 frames, episodes of 8
    assert min(positions) <= whole["held_out_nll"] <= max(positions)
    gap = whole["held_out_nll_wrong_action"] - whole["held_out_nll"]
    assert whole["held_out_action_gap"] == pytest.approx(gap) and gap != 0.0

    for known in stage.episodes.known:
        known[:] = False
    none = held_out(stage, tmp_path / "none")
    assert not {name for name in none if "action" in name}
    assert none["held_out_nll"] != whole["held_out_nll"]

    for known in stage.episodes.known:
        known[0] = True  # of the reset frame, whose action is not used
    first = held_out(stage, tmp_path / "first")
    assert first["held_out_nll"] == none["held_out_nll"]
    assert first["held_out_action_gap"] == 0.0
    assert first["held_out_nll_wrong_action"] != none["held_out_nll"]


def hide(data: Path, to: Path, first: int) -> None:
    """A copy of a dataset in which no action is known from some frame on."""
    dataset = EpisodeDataset(data)
    writer = EpisodeWriter(to, DatasetMetadata(**vars(dataset.metadata)))
    for index in range(len(dataset)):
        episode = dataset.read(index)
        known = np.arange(len(episode)) < first
        actions = np.where(known, episode.actions, 0)
        writer.add(index, replace(episode, known=known, actions=actions))


def test_dreams_start_where_actions_are_known(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    hide(tmp_path / "data", tmp_path / "two", first=2)
    hide(tmp_path / "data", tmp_path / "none", first=1)
    config = tiny_pretraining(tmp_path / "none", tmp_path / "run")
    config.world.context = 2
    with pytest.raises(DataError, match="begins with known actions"):
        main(config)
    config.data.path = str(tmp_path / "two")
    assert (main(config) / "world.safetensors").exists()


@pytest.mark.parametrize(
    "bad", [{"action_dropout": 1.5}, {"action_dropout": -0.1}, {"accumulate": 0}, {"clip": 0}]
)
def test_bad_settings_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        FlowTraining(**bad)
