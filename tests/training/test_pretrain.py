"""Pretraining: parameters move, targets are right, and a killed run continues to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import worldflow
from worldflow.actions import ActionSpec, wrong_actions
from worldflow.data.episodes import Episode, EpisodeDataset, EpisodeWriter, split
from worldflow.data.metadata import DatasetMetadata
from worldflow.errors import ConfigError, DataError
from worldflow.testing import randomize, tiny_config
from worldflow.training.codec_stage import CodecTraining
from worldflow.training.flow_stage import SCORE_LIMIT, FlowStage, FlowTraining, LatentEpisodes
from worldflow.training.logger import RunLogger
from worldflow.training.loop import StageConfig, learning_rate, step_generators
from worldflow.training.pretrain import DataConfig, PretrainConfig, TrainingConfig, main
from worldflow.world_model import WorldModel
from worldflow.world_spec import WorldSpec

SIZE = 32


def write_dataset(folder: Path, spec: ActionSpec, episodes: int = 6) -> None:
    """A square that the action moves left and right; reward is where it is; ends at frame 7."""
    metadata = DatasetMetadata({"env_id": "none"}, spec, (SIZE, SIZE, 3), 8.0, 0, {})
    writer = EpisodeWriter(folder, metadata)
    rng = np.random.default_rng(0)
    for index in range(episodes):
        length = 8
        frames = np.zeros((length, SIZE, SIZE, 3), np.uint8)
        moves = rng.integers(0, 3, length)
        position = 8
        for t in range(length):
            position = int(np.clip(position + 4 * (moves[t] - 1) * (t > 0), 0, 24))
            frames[t, 8:16, position : position + 8] = 255
        actions = moves.astype(np.int64)
        if spec.kind == "box":
            actions = (moves - 1.0).astype(np.float32)[:, None]
        elif spec.kind == "none":
            actions = np.zeros(length, np.int64)
        actions[0] = 0
        rewards = np.linspace(0, 1, length, dtype=np.float32)
        terminated = np.arange(length) == length - 1
        writer.add(index, Episode(frames, actions, rewards, terminated, index, False))


def tiny_pretraining(data: Path, out: Path) -> PretrainConfig:
    return PretrainConfig(
        data=DataConfig(str(data), held_out=0.34),
        world=replace(tiny_config(context=1)),
        training=TrainingConfig(
            checkpoint_every=2,
            codec=CodecTraining(steps=5, batch=4, validate_every=5, warmup=2),
            flow=FlowTraining(steps=7, batch=4, clip=4, validate_every=4, warmup=2),
        ),
        out=str(out),
    )


@pytest.mark.parametrize(
    "spec",
    [ActionSpec("discrete", n=3), ActionSpec("box", low=(-1.0,), high=(1.0,)), ActionSpec("none")],
    ids=lambda s: s.kind,
)
def test_pretraining_makes_a_world_that_loads_and_steps(tmp_path: Path, spec: ActionSpec) -> None:
    write_dataset(tmp_path / "data", spec)
    folder = main(tiny_pretraining(tmp_path / "data", tmp_path / "run"))
    world = worldflow.load_world(folder)
    assert world.spec.reward_range == (0.0, 1.0) and world.action_spec == spec
    assert world.calibration.std > 0
    frames, actions = (torch.from_numpy(x) for x in (world.context.frames, world.context.actions))
    state = world.initial_state(frames, actions, torch.Generator().manual_seed(0))
    _, prediction = world.step(state, actions[:, -1], torch.Generator().manual_seed(1))
    assert prediction.novelty.isfinite().all()
    tags = {json.loads(line)["tag"] for line in (tmp_path / "run/metrics.jsonl").open()}
    assert {"codec/held_out_psnr", "flow/held_out_nll", "flow/nll"} <= tags
    assert ("flow/held_out_action_gap" in tags) == (spec.kind != "none")
    assert list((tmp_path / "run/tensorboard/flow").iterdir())
    assert "held-out figure" in (folder / "card.md").read_text()


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_pretrain import main, tiny_pretraining
from dataclasses import replace
config = tiny_pretraining(Path(sys.argv[1]), Path(sys.argv[2]))
main(config)
"""


def test_kill_9_at_any_moment_continues_to_the_same_bits(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_dataset(data, ActionSpec("discrete", n=3))
    code = RUN.format(tests=str(Path(__file__).parent))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code, str(data), str(tmp_path / out)]
        return subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)

    assert start("whole").wait(timeout=120) == 0
    kills = 0
    checkpoint = tmp_path / "killed/checkpoint.safetensors"
    seen = None
    while kills < 2:  # each time just after another checkpoint appeared
        process = start("killed")
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            now = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
            if now != seen:
                seen = now
                break
            time.sleep(0.001)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert not (tmp_path / "killed/world").exists()
    assert start("killed").wait(timeout=120) == 0
    for name in ("world/world.safetensors", "checkpoint.safetensors"):
        one, two = load_file(tmp_path / "whole" / name), load_file(tmp_path / "killed" / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "killed")]
    assert lines[0] == lines[1]


def test_other_settings_or_data_cannot_continue_a_run(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    config = tiny_pretraining(tmp_path / "data", tmp_path / "run")
    main(config)
    config.training.flow.learning_rate = 5.0
    with pytest.raises(ConfigError, match=r"training.flow.learning_rate was 0.001 and is 5.0"):
        main(config)
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3), episodes=7)
    with pytest.raises(ConfigError, match=r"data.episodes was 6 and is 7"):
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


@pytest.fixture
def stage(tmp_path: Path) -> FlowStage:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    dataset = EpisodeDataset(tmp_path / "data")
    torch.manual_seed(0)
    spec = WorldSpec(dataset.action_spec, dataset.frame_shape, 8.0, {}, (0.0, 1.0))
    world = WorldModel(tiny_config(context=1), spec)
    randomize(world, 0)
    world.codec.eval().requires_grad_(False)
    train, held_out = split(dataset, 0.34, 0)
    config = FlowTraining(steps=5, batch=4, clip=10)
    episodes = LatentEpisodes(world, dataset)
    return FlowStage(world, config, episodes, dataset.lengths, train, held_out, 0)


def test_one_backward_pass_gives_the_exact_score(stage: FlowStage) -> None:
    """The denoiser's target is sigma * d(-log p)/d(y~), here by autograd on log p alone."""
    captured = {}
    inner = stage._denoiser_and_heads

    def spy(noisy, score, batch):  # type: ignore[no-untyped-def]
        captured.update(noisy=noisy, score=score, batch=batch)
        return inner(noisy, score, batch)

    stage._denoiser_and_heads = spy  # type: ignore[method-assign]
    stage.update(0)
    noisy, batch = captured["noisy"].clone().requires_grad_(), captured["batch"]
    out = stage.world.flow(noisy, stage.world.conditioning(batch.actions))
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
    rng, generator = step_generators(0, "flow", 0)
    batch = stage.episodes.batch(stage.train.sample(4, rng), 10)
    assert batch.valid.sum(1).tolist() == [8] * 4
    noisy = stage._noisy(batch, generator)
    before = stage._denoiser_and_heads(noisy, torch.zeros_like(noisy), batch)
    batch.rewards[:, 0] = batch.rewards[:, 8:] = 0.77
    batch.terminated[:, 0] = batch.terminated[:, 8:] = True
    after = stage._denoiser_and_heads(noisy, torch.zeros_like(noisy), batch)
    assert before["reward"] == after["reward"] and before["termination"] == after["termination"]


def test_wrong_actions_are_wrong() -> None:
    actions = torch.randint(3, (5, 7))
    rng = np.random.default_rng(0)
    assert (wrong_actions(actions, ActionSpec("discrete", n=3), rng) != actions).all()


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
    assert [(e["step"], e["value"]) for e in entries] == [(1, 1.0), (2, 2.0), (3, 9.0)]


@pytest.mark.parametrize("field", ["steps", "batch", "validate_every"])
def test_bad_stage_settings_are_named(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        StageConfig(**{field: 0})
