"""Pretraining: parameters move, targets are right, and a killed run continues to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from report_pages import sections
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from training_runs import tiny_pretraining, write_dataset

import worldflow
from worldflow.actions import ActionSpec
from worldflow.conditioning import wrong_actions
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.splitting import split
from worldflow.errors import ConfigError, DataError
from worldflow.testing import tiny_config
from worldflow.training.batches import Batch
from worldflow.training.checkpoint import Progress, read_progress
from worldflow.training.codec_stage import CodecStage, CodecTraining
from worldflow.training.flow_stage import FlowStage, FlowTraining
from worldflow.training.logger import RunLogger
from worldflow.training.loop import (
    STREAMS,
    Stage,
    StageConfig,
    learning_rate,
    run_stage,
    step_generators,
)
from worldflow.training.losses import SCORE_LIMIT, DenoiserLoss
from worldflow.training.pretrain import main
from worldflow.world_model import WorldModel
from worldflow.world_spec import HeldOut, WorldSpec


def test_held_out_episodes_too_short_to_calibrate_on_are_refused_at_once(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    config = tiny_pretraining(tmp_path / "data", tmp_path / "run")
    config.data.held_out, config.world.context, config.training.flow.clip = 0.1, 7, 8
    with pytest.raises(DataError, match=r"have 1 after world\.context=7.*raise data\.held_out"):
        main(config)  # one episode of eight frames
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    "spec",
    [ActionSpec("discrete", n=3), ActionSpec("box", low=(-1.0,), high=(1.0,)), ActionSpec("none")],
    ids=lambda s: s.kind,
)
def test_pretraining_makes_a_world_that_loads_and_steps(tmp_path: Path, spec: ActionSpec) -> None:
    write_dataset(tmp_path / "data", spec)
    folder = main(tiny_pretraining(tmp_path / "data", tmp_path / "run"))
    world = worldflow.load_world(folder)
    assert world.spec.reward_range == pytest.approx((1 / 7, 1.0))  # the reset frame has none
    assert world.spec.held_out == HeldOut(0.34, 0, 6, 6, 48) and world.action_spec == spec
    assert world.calibration.std > 0
    frames, actions = (torch.from_numpy(x) for x in (world.context.frames, world.context.actions))
    state = world.initial_state(frames, actions, torch.Generator().manual_seed(0))
    _, prediction = world.step(state, actions[:, -1], torch.Generator().manual_seed(1))
    assert prediction.novelty.isfinite().all()
    tags = {json.loads(line)["tag"] for line in (tmp_path / "run/metrics.jsonl").open()}
    assert {"codec/held_out_psnr", "flow/held_out_nll", "flow/nll"} <= tags
    assert ("flow/held_out_action_gap" in tags) == (spec.kind != "none")
    assert {f"flow/nll_position/0{t}" for t in range(4)} <= tags
    assert "flow/gradient_norm/denoiser" in tags and "flow/frames_per_second" not in tags
    [events] = (tmp_path / "run/tensorboard/flow").iterdir()
    shown = EventAccumulator(str(events)).Reload().Tags()
    assert {"flow/frames_per_second", "flow/memory_mib", "flow/nll"} <= set(shown["scalars"])
    with av.open(str(tmp_path / "run/videos/flow_real_codec_dream_0000007.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 2 * 4  # two clips
    assert "held-out figure" in (folder / "card.md").read_text()


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from training_runs import tiny_pretraining
from worldflow.training.losses import DenoiserLoss
from worldflow.training.pretrain import main
main(tiny_pretraining(Path(sys.argv[1]), Path(sys.argv[2])))
"""


MOMENTS = [None, ("codec", 2), ("codec", 5), ("flow", 1), ("flow", 4)]


def test_kill_9_at_any_moment_continues_to_the_same_bits(tmp_path: Path) -> None:
    """Killed before the first checkpoint, inside and between the stages: nothing differs."""
    data = tmp_path / "data"
    write_dataset(data, ActionSpec("discrete", n=3))
    code = RUN.format(tests=str(Path(__file__).parent))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    checkpoint = tmp_path / "killed/checkpoint.safetensors"

    def start(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code, str(data), str(tmp_path / out)]
        return subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)

    def reached(moment: tuple[str, int] | None) -> bool:
        if moment is None:
            return (tmp_path / "killed/run.json").exists()
        if not checkpoint.exists():
            return False
        try:
            progress = read_progress(checkpoint)
        except RuntimeError:  # the run replaced the file between the two looks of safe_open
            return False
        return (STREAMS[progress.stage], progress.step) >= (STREAMS[moment[0]], moment[1])

    assert start("whole").wait(timeout=120) == 0
    for moment in MOMENTS:
        process = start("killed")
        while process.poll() is None and not reached(moment):
            time.sleep(0.001)
        assert process.poll() is None, f"the run ended before it could be killed at {moment}"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed/world").exists()
    assert start("killed").wait(timeout=120) == 0
    for name in ("world/world.safetensors", "checkpoint.safetensors"):
        one, two = load_file(tmp_path / "whole" / name), load_file(tmp_path / "killed" / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "killed")]
    assert lines[0] == lines[1]
    calibrations = [
        (tmp_path / r / "world/calibration.json").read_text() for r in ("whole", "killed")
    ]
    assert calibrations[0] == calibrations[1]
    pages = [sections((tmp_path / run / "report.html").read_text()) for run in ("whole", "killed")]
    assert pages[0].keys() == pages[1].keys()
    for heading in pages[0].keys() - {"How it was computed", "What comes next"}:  # time and paths
        assert pages[0][heading] == pages[1][heading]


@pytest.mark.parametrize("name", ["codec", "flow"])
def test_every_parameter_moves(tmp_path: Path, stage: FlowStage, name: str) -> None:
    world, dataset = stage.world, stage.dataset
    before = {key: value.clone() for key, value in world.named_parameters()}
    if name == "codec":
        world.codec.requires_grad_(True)
        train, held_out = split(dataset.recordings, 0.34, 0)
        config = CodecTraining(steps=2, batch=4, warmup=0)
        run: Stage = CodecStage(world, config, dataset, train, held_out, 0)
    else:
        stage.config.steps, stage.config.warmup = 2, 0
        run = stage
    run_stage(run, world, tmp_path, Progress(name, 0, 0.0, ""), checkpoint_every=9)
    still = [
        key
        for key, value in world.named_parameters()
        if key.startswith("codec") == (name == "codec")
        and torch.equal(value, before[key])
        and not key.startswith("codec.likelihood.")  # it is fitted, not trained
    ]
    assert still == []


def test_frozen_latents_have_unit_scale(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    dataset = EpisodeDataset(tmp_path / "data")
    spec = WorldSpec(dataset.action_spec, dataset.frame_shape, 8.0, {}, (0, 1), HeldOut(0.3, 0, 6))
    torch.manual_seed(0)
    world = WorldModel(tiny_config(context=1), spec)
    train, held_out = split(dataset.recordings, 0.34, 0)
    stage = CodecStage(world, CodecTraining(steps=1, batch=4), dataset, train, held_out, 0)
    for step in range(3):
        stage.update(step)
    stage.freeze()
    frames = np.concatenate([dataset.read(int(i)).frames for i in train])
    latents = world.codec.encode_frames(torch.from_numpy(frames)).flatten(0, 1)
    # measured on a sample of the frames, hence not exactly
    torch.testing.assert_close(latents.mean(0), torch.zeros(2), atol=0.2, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.ones(2), atol=0.2, rtol=0)


def test_the_world_learns_what_the_action_does(tmp_path: Path, stage: FlowStage) -> None:
    """On latents that are the position, moved by the action: true actions become likelier."""
    latents = []
    for index, actions in enumerate(stage.episodes.actions):
        position = np.cumsum(np.where(np.arange(len(actions)) > 0, actions - 1, 0))
        shape = stage.episodes.latents[index].shape
        latents.append(np.broadcast_to(0.7 * position[:, None, None], shape).astype(np.float32))
    stage.episodes.latents = latents
    config = FlowTraining(steps=150, batch=8, clip=8, warmup=5, learning_rate=5e-3)
    dataset = stage.dataset
    train, held_out = split(dataset.recordings, 0.34, 0)
    stage = FlowStage(stage.world, config, stage.episodes, dataset, train, held_out, 0)
    run_stage(stage, stage.world, tmp_path, Progress("flow", 0, 0.0, ""), checkpoint_every=999)
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    last = {entry["tag"]: entry["value"] for entry in entries}
    assert last["flow/held_out_action_gap"] > 0.2


def test_other_settings_or_data_cannot_continue_a_run(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    config = tiny_pretraining(tmp_path / "data", tmp_path / "run")
    main(config)
    config.training.flow.learning_rate = 5.0
    with pytest.raises(ConfigError, match=r"training.flow.learning_rate was 0.001 and is 5.0"):
        main(config)
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3), episodes=7)
    with pytest.raises(ConfigError, match=r"data\.contents was"):
        main(tiny_pretraining(tmp_path / "data", tmp_path / "run"))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match=r"checkpoint\.safetensors"):
        main(tiny_pretraining(tmp_path / "data", tmp_path / "run"))


def test_a_context_as_long_as_the_clip_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    config = tiny_pretraining(tmp_path / "data", tmp_path / "run")
    config.world.context = 4
    with pytest.raises(ConfigError, match=r"world\.context=4"):
        main(config)


def test_one_backward_pass_gives_the_exact_score(
    stage: FlowStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The denoiser's target is sigma * d(-log p)/d(y~), here by autograd on log p alone."""
    captured: dict[str, Any] = {}
    loss = stage._gradients._denoiser_loss
    inner = loss.forward

    def spy(noisy: Tensor, past: Tensor, target: Tensor, batch: Batch) -> dict[str, Tensor]:
        captured.update(noisy=noisy, score=target, batch=batch)
        return inner(noisy, past, target, batch)

    monkeypatch.setattr(loss, "forward", spy)
    stage.update(0)
    noisy, batch = captured["noisy"].clone().requires_grad_(), captured["batch"]
    out = stage.world.flow(noisy, stage.world.conditioning(batch.actions, batch.known))
    (gradient,) = torch.autograd.grad((out.log_prob * batch.valid).sum(), noisy)
    expected = (-stage.world.config.sigma * gradient).clamp(-SCORE_LIMIT, SCORE_LIMIT)
    torch.testing.assert_close(captured["score"], expected, atol=1e-5, rtol=1e-4)
    assert not captured["score"][~batch.valid].any()  # clips are longer than the episodes


def test_every_trained_parameter_gets_a_gradient(stage: FlowStage) -> None:
    stage.update(0)
    without = {
        name
        for name, p in stage.world.named_parameters()
        if p.grad is None and not name.startswith("codec")
    }
    assert without == set()
    assert all(p.grad is None for p in stage.world.codec.parameters())


def test_padding_and_first_frames_do_not_train_the_heads(stage: FlowStage) -> None:
    batch = stage.episodes.batch(stage.train.sample(4, np.random.default_rng(0)), 10)
    assert batch.valid.sum(1).tolist() == [8] * 4
    noisy = batch.latents + 0.1
    past = noisy.new_zeros(*noisy.shape[:3], stage.world.flow.global_block.features)
    before = DenoiserLoss(stage.world)(noisy, past, torch.zeros_like(noisy), batch)
    batch.rewards[:, 0] = batch.rewards[:, 8:] = 0.77
    batch.terminated[:, 0] = batch.terminated[:, 8:] = True
    after = DenoiserLoss(stage.world)(noisy, past, torch.zeros_like(noisy), batch)
    assert before["reward"] == after["reward"] and before["termination"] == after["termination"]
    batch.rewards[:, 1] = 0.77
    assert DenoiserLoss(stage.world)(noisy, past, noisy, batch)["reward"] != before["reward"]


def test_wrong_actions_are_wrong() -> None:
    rng = np.random.default_rng(0)
    actions = torch.from_numpy(rng.integers(3, size=(5, 7)))
    assert (wrong_actions(actions, ActionSpec("discrete", n=3), rng) != actions).all()
    box = ActionSpec("box", low=(-1.0,), high=(3.0,))
    actions = torch.from_numpy(rng.uniform(-1, 3, (1, 50, 1))).float()
    wrong = wrong_actions(actions, box, rng)
    assert ((wrong - actions).abs() >= 0.99).all() and wrong.min() >= -1 and wrong.max() <= 3
    with pytest.raises(DataError, match="no wrong alternative"):
        wrong_actions(torch.zeros(1, 1), ActionSpec("none"), rng)


def test_learning_rate_warms_up_and_comes_down() -> None:
    config = StageConfig(steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0.05 < rates[-1] < 0.06


def test_random_streams_depend_on_seed_stage_and_step_only() -> None:
    def draw(*key: object) -> tuple[float, float]:
        numbers, noise = step_generators(*key)  # type: ignore[arg-type]
        return numbers.random(), torch.rand((), generator=noise).item()

    assert draw(0, "flow", 3) == draw(0, "flow", 3)
    assert (
        len({draw(0, "flow", 3), draw(1, "flow", 3), draw(0, "codec", 3), draw(0, "flow", 4)}) == 4
    )


def test_logger_forgets_what_a_killed_run_logged_too_far(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, "flow", 0)
    for step in (1, 2, 3):
        logger.scalars(step, {"nll": float(step)})
    logger.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "ta')
    logger = RunLogger(tmp_path, "flow", 2)
    logger.scalars(3, {"nll": 9.0})
    logger.close()
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    expected = [(1, 1.0), (2, 2.0), (3, 9.0)]
    assert [(e["step"], e["value"]) for e in entries] == expected
    events = EventAccumulator(str(tmp_path / "tensorboard/flow")).Reload().Scalars("flow/nll")
    assert [(e.step, e.value) for e in events] == expected


@pytest.mark.parametrize("field", ["steps", "batch", "validate_every"])
def test_bad_stage_settings_are_named(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        StageConfig(**{field: 0})
