"""Joint training: the gradients of the bound reach everything, latents keep their scale."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_runs import SIZE, tiny_pretraining, write_dataset

import worldflow
from worldflow.actions import ActionSpec
from worldflow.cli import main as command
from worldflow.codec import LatentScale, reconstruction_loss, saliency
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.frames import to_float
from worldflow.data.metadata import DatasetMetadata
from worldflow.data.splitting import split
from worldflow.errors import ConfigError
from worldflow.testing import randomize, tiny_config
from worldflow.training import pretrain
from worldflow.training.checkpoint import Progress
from worldflow.training.joint_stage import JointStage, JointTraining
from worldflow.training.loop import run_stage
from worldflow.training.pretrain import PretrainConfig, TrainingConfig, main
from worldflow.world_model import WorldModel
from worldflow.world_spec import HeldOut, WorldSpec

DISCRETE = ActionSpec("discrete", n=3)


def joint_stage(folder: Path, **settings: Any) -> JointStage:
    dataset = EpisodeDataset(folder)
    torch.manual_seed(0)
    held = HeldOut(0.34, 0, len(dataset))
    spec = WorldSpec(dataset.action_spec, dataset.frame_shape, 8.0, {}, (0.0, 1.0), held)
    world = WorldModel(tiny_config(context=1), spec)
    randomize(world, 0)
    config = JointTraining(**{"steps": 40, "batch": 4, "clip": 6, "warmup": 5, **settings})
    return JointStage(world, config, dataset, *split(dataset.recordings, 0.34, 0), seed=0)


@pytest.fixture
def stage(tmp_path: Path) -> JointStage:
    write_dataset(tmp_path / "data", DISCRETE)
    return joint_stage(tmp_path / "data")


def plain_objective(stage: JointStage, world: WorldModel, step: int) -> tuple[Tensor, Tensor]:
    """The bound with the weighted error, in nats a dimension of the pixels, and the flow's NLL."""
    work, codec = stage._prepare(step), world.codec.train()
    valid = work.steps.valid
    frames, pixels = work.frames, to_float(work.frames)
    latents = torch.stack([codec.encode(pixels.flatten(0, 1))])[0].reshape(work.noise.shape)
    noise = world.config.sigma * work.noise
    condition = world.conditioning(work.steps.actions, work.steps.known)
    flow = (world.flow(latents + noise, condition).log_prob * valid).sum()
    given = (codec.log_prob(frames, latents + noise) * valid).sum()
    level = work.level[:, None, None, None]
    decoded = codec.decode((latents + level * noise).flatten(0, 1))
    previous = torch.cat([pixels[:, 1:2], pixels[:, :-1]], dim=1)
    weight = 1.0 + 30.0 * saliency(pixels.flatten(0, 1), previous.flatten(0, 1), stage._background)
    weight = weight * valid.reshape(-1, 1, 1, 1)
    error = reconstruction_loss(decoded, pixels.flatten(0, 1), weight)
    count = int(valid.sum())
    pixel = -(given + flow) / (count * 3 * SIZE * SIZE) + 10.0 * error
    return pixel, -flow / (count * world.dimensions)


def test_the_gradients_are_those_of_the_objective(stage: JointStage) -> None:
    """Though the flow's part of them is computed once, for its weights, encoder and denoiser."""
    worlds = [copy.deepcopy(stage.world) for _ in range(2)]
    # the first update with a clip that reaches beyond its episode
    step = next(k for k in range(20) if not stage._prepare(k).steps.valid.all())
    stage.update(step)
    whole, _ = plain_objective(stage, worlds[0], step)
    whole.backward()
    _, nll = plain_objective(stage, worlds[1], step)
    nll.backward()
    found = dict(stage.world.named_parameters())
    for world, start in ((worlds[0], "codec."), (worlds[1], "flow.")):
        trained = [(n, p) for n, p in world.named_parameters() if p.requires_grad]
        compared = [(name, p.grad) for name, p in trained if name.startswith(start)]
        assert len(compared) > 10
        for name, gradient in compared:
            assert gradient is not None and found[name].grad is not None
            scale = float(gradient.abs().max())
            torch.testing.assert_close(
                found[name].grad, gradient, rtol=1e-3, atol=1e-4 * scale + 1e-6, msg=name
            )


def test_every_parameter_moves_and_latents_keep_their_scale(
    tmp_path: Path, stage: JointStage
) -> None:
    named = [(name, value) for name, value in stage.world.named_parameters() if value.requires_grad]
    before = {name: value.clone() for name, value in named}
    assert len(before) == len(list(stage.world.parameters())) - 2  # two biases have no effect
    run_stage(stage, stage.world, tmp_path, Progress("joint", 0, 0.0, ""), checkpoint_every=999)
    assert not [name for name, value in named if torch.equal(value, before[name])]
    stage.freeze()
    assert not any(p.requires_grad for p in stage.world.parameters())
    dataset, (train, _) = stage.dataset, split(stage.dataset.recordings, 0.34, 0)
    frames = np.concatenate([dataset.read(int(i)).frames for i in train])
    latents = stage.world.codec.encode_frames(torch.from_numpy(frames)).flatten(0, 1)
    torch.testing.assert_close(latents.mean(0), torch.zeros(2), atol=0.3, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.ones(2), atol=0.3, rtol=0)
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    tags = {entry["tag"] for entry in entries}
    assert {"joint/pixel_nll", "joint/reconstruction", "joint/nll", "joint/denoiser"} <= tags
    assert {"joint/held_out_psnr", "joint/held_out_nll", "joint/held_out_pixel_bits"} <= tags
    assert "joint/gradient_norm/codec.encoder" in tags


def test_the_steady_scale_is_that_of_the_running_statistics() -> None:
    scale = LatentScale(2, affine=False, momentum=0.1)
    scale.steady = True
    draw = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    gain = torch.tensor([0.9, 1.2], requires_grad=True)
    latents = gain[:, None, None] * draw + torch.tensor([0.2, -0.3])[:, None, None]
    found = scale(latents)
    torch.testing.assert_close(found, copy.deepcopy(scale).eval()(latents))
    # a larger batch changes nothing for the encoder: there is no gain from growing
    (frozen,) = torch.autograd.grad(
        (copy.deepcopy(scale).eval()(latents) ** 3).sum(), gain, retain_graph=True
    )
    (gradient,) = torch.autograd.grad((found**3).sum(), gain)
    assert (gradient.abs() < 1e-4 * frozen.abs()).all() and (frozen.abs() > 1.0).all()

    far = scale(100.0 * draw)  # the running statistics know nothing of these yet
    assert 1.5 < float(far.detach().std()) < 2.5


def last_figures(path: Path) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    for entry in map(json.loads, path.open()):
        figures.setdefault(entry["tag"], []).append(entry["value"])
    return figures


def test_the_bound_improves(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", DISCRETE)
    stage = joint_stage(tmp_path / "data", steps=120, validate_every=40, learning_rate=5e-3)
    run_stage(stage, stage.world, tmp_path, Progress("joint", 0, 0.0, ""), checkpoint_every=999)
    figures = last_figures(tmp_path / "metrics.jsonl")
    bits = figures["joint/held_out_pixel_bits"]
    assert bits[0] > bits[1] > bits[2] and bits[2] < 0.85 * bits[0]
    # the logged parts add up: nats a dimension of the pixels, nats a latent
    floor = 0.5 * math.log(2 * math.pi * math.e * 0.09)
    parts = figures["joint/pixel_nll"][-1] + 8 * (figures["joint/nll"][-1] - floor) / (3 * SIZE**2)
    assert parts / math.log(2.0) == pytest.approx(bits[-1], abs=0.5)


def test_noise_needs_its_eight_bits(tmp_path: Path) -> None:
    """No bound on the bits of independent uniform bytes can be below their entropy."""
    rng = np.random.default_rng(0)
    writer = EpisodeWriter(
        tmp_path / "data", DatasetMetadata({}, DISCRETE, (SIZE, SIZE, 3), 8.0, 0, {})
    )
    for index in range(6):
        frames = rng.integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)
        steps = rng.integers(0, 3, 12), np.zeros(12, np.float32), np.zeros(12, np.bool_)
        writer.add(index, Episode(frames, *steps, np.ones(12, np.bool_), index, truncated=True))
    stage = joint_stage(tmp_path / "data", steps=60, learning_rate=5e-3, validate_every=30)
    run_stage(stage, stage.world, tmp_path, Progress("joint", 0, 0.0, ""), checkpoint_every=999)
    for bits in last_figures(tmp_path / "metrics.jsonl")["joint/held_out_pixel_bits"]:
        assert 7.995 < bits < 9.0


def joint_pretraining(data: Path, out: Path) -> PretrainConfig:
    config = tiny_pretraining(data, out)
    joint = JointTraining(steps=6, batch=4, clip=4, validate_every=3, warmup=2)
    return replace(config, training=replace(config.training, codec_mode="joint", joint=joint))


class StoppedError(Exception):
    """Ends a run as a kill would."""


@pytest.mark.parametrize("stop", [2, 6])
def test_a_stopped_run_continues_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    write_dataset(tmp_path / "data", DISCRETE)
    main(joint_pretraining(tmp_path / "data", tmp_path / "whole"))
    with monkeypatch.context() as patched:
        if stop == 6:  # all updates are done, the world is not there
            patched.setattr(pretrain, "calibrate", lambda *_: stopping(JointStage, stop))
        update = JointStage.update

        def stopping(stage: Any, step: int) -> dict[str, Tensor]:
            if step == stop:
                raise StoppedError
            return update(stage, step)

        patched.setattr(JointStage, "update", stopping)
        with pytest.raises(StoppedError):
            main(joint_pretraining(tmp_path / "data", tmp_path / "stopped"))
    assert not (tmp_path / "stopped/world").exists()
    main(joint_pretraining(tmp_path / "data", tmp_path / "stopped"))
    for name in ("world/world.safetensors", "checkpoint.safetensors"):
        one, two = load_file(tmp_path / "whole" / name), load_file(tmp_path / "stopped" / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    runs = [tmp_path / run for run in ("whole", "stopped")]
    for name in ("metrics.jsonl", "world/calibration.json"):
        assert (runs[0] / name).read_text() == (runs[1] / name).read_text()


TINY = [
    *("world=catch", "training=catch", "data.held_out=0.34", "world.condition=8"),
    *("world.codec.channels=2", "world.codec.widths=[8, 8, 8, 8]"),
    "world.flow.global_block={past: {width: 8, depth: 1, heads: 2},"
    " within: {width: 8, depth: 1, heads: 2}}",
    "world.flow.local={width: 8, depth: 1, heads: 2}",
    "world.denoiser.transformer={width: 8, depth: 1, heads: 2}",
    "training.joint={steps: 4, batch: 4, clip: 4, warmup: 2}",
]


def test_the_command_line_trains_a_world_that_dreams_and_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", DISCRETE)
    data, out = f"data={tmp_path / 'data'}", tmp_path / "run"
    assert command(["pretrain", data, f"out={out}", "codec=joint", *TINY]) == 0
    world = worldflow.load_world(out / "world")
    assert world.codec.likelihood.fitted and world.calibration.std > 0
    frames, actions = (torch.from_numpy(x) for x in (world.context.frames, world.context.actions))
    state = world.initial_state(frames, actions, torch.Generator().manual_seed(0))
    _, prediction = world.step(state, actions[:, -1], torch.Generator().manual_seed(1))
    assert prediction.frame.shape == frames[:, 0].shape
    assert world.log_prob(frames, actions).isfinite().all()
    card = (out / "world/card.md").read_text()
    assert "4 updates of codec, flow, denoiser and heads together" in card
    assert "joint/held_out_pixel_bits" in card
    settings = [f"world={out / 'world'}", data, f"out={tmp_path / 'found'}", "progress=false"]
    assert command(["evaluate", *settings, "clips=2", "samples=1", "strips=1"]) == 2
    assert "real=false" in capsys.readouterr().err  # the data name an environment that is not there
    assert command(["evaluate", *settings, "clips=2", "samples=1", "strips=1", "real=false"]) == 0
    assert "bits per dimension of the pixels, at most" in capsys.readouterr().out
    found = json.loads((tmp_path / "found/evaluation.json").read_text())["pixel_bits"]
    assert 0.0 < found["total"]["low"] <= found["total"]["mean"] <= found["total"]["high"]
    assert "bits per dimension of the pixels" in (tmp_path / "found/report.html").read_text()
    # the run is known to be of the other kind
    assert command(["pretrain", data, f"out={out}", "codec=two-stage", *TINY]) == 2
    assert "training.codec_mode was joint and is two-stage" in capsys.readouterr().err


def test_a_two_stage_world_has_its_fitted_scale_too(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", DISCRETE)
    folder = main(tiny_pretraining(tmp_path / "data", tmp_path / "run"))
    figures = last_figures(tmp_path / "run/metrics.jsonl")
    assert len(figures["flow/held_out_pixel_bits"]) == 2
    likelihood = worldflow.load_world(folder).codec.likelihood
    assert likelihood.fitted and not torch.allclose(likelihood.scale, torch.full((3,), 16.0))


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", DISCRETE)
    config = joint_pretraining(tmp_path / "data", tmp_path / "run")
    with pytest.raises(ConfigError, match=r"from=catch keeps the codec"):
        main(replace(config, initial_world="catch"))
    flow = replace(config.training.flow, accumulate=2)
    with pytest.raises(ConfigError, match=r"training\.flow\.accumulate=2 does not go with"):
        main(replace(config, training=replace(config.training, flow=flow)))
    with pytest.raises(ConfigError, match=r"clip of training\.joint\.clip=4"):
        main(replace(config, world=replace(config.world, context=4)))
    with pytest.raises(ConfigError, match=r"codec_mode is 'both'; use one of two-stage, joint"):
        TrainingConfig(codec_mode="both")


@pytest.mark.parametrize(
    "bad",
    [{"clip": 1}, {"action_dropout": 1.5}, {"prior_weight": -1.0}, {"reconstruction_weight": -1.0}],
)
def test_bad_settings_are_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"training.joint.{next(iter(bad))}"):
        JointTraining(**bad)
