"""The diffusion baseline: preconditioning, sampler, alignment of past and actions, resuming."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import train_diffusion
from diffusion.edm import EdmConfig, Preconditioning, euler, levels
from diffusion.targets import TargetFrames, window
from diffusion.unet import UNet, UNetConfig
from diffusion.world import (
    DiffusionConfig,
    DiffusionSpec,
    DiffusionWorld,
    load_diffusion,
    save_diffusion,
)
from safetensors import safe_open
from torch import Tensor

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.errors import ConfigError, DataError
from worldflow.storage import save_world
from worldflow.testing import randomize, tiny_world
from worldflow.world_spec import HeldOut

MEAN, STD = 0.3, 0.7  # of Gaussian data
TINY = DiffusionConfig(past=3, action_width=4, unet=UNetConfig([8, 8], 1, 16))


def optimal(x: Tensor, sigma: float) -> Tensor:
    """E[y | y + sigma * noise = x] of data from N(MEAN, STD^2)."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def make_world(spec: ActionSpec | None = None, size: int = 16) -> DiffusionWorld:
    torch.manual_seed(0)
    spec = spec or ActionSpec("discrete", n=3)
    world = DiffusionWorld(TINY, DiffusionSpec(spec, (size, size, 3), HeldOut(0.1, 0, 10)))
    randomize(world, seed=0, scale=0.1)
    return world.eval()


def write_dataset(folder: Path, size: int = 16) -> EpisodeDataset:
    """Ten episodes of seven frames; frame t of episode e is of the grey level 10 e + t."""
    metadata = DatasetMetadata({}, ActionSpec("discrete", n=3), (size, size, 3), 8.0, 0, {})
    writer = EpisodeWriter(folder, metadata)
    for index in range(10):
        grey = (10 * index + np.arange(7)).astype(np.uint8)
        writer.add(
            index,
            Episode(
                frames=np.broadcast_to(grey[:, None, None, None], (7, size, size, 3)).copy(),
                actions=np.array([0, 1, 2, 0, 1, 2, 0]),
                rewards=np.zeros(7, np.float32),
                terminated=np.zeros(7, np.bool_),
                known=np.arange(7) > 0,
                seed=index,
                truncated=True,
            ),
        )
    return EpisodeDataset(folder)


@pytest.mark.parametrize("sigma", [0.002, 0.1, 0.5, 3.0, 80.0])
def test_preconditioning_has_unit_variance_in_and_out(sigma: float) -> None:
    """Variances of independent sums, in closed form."""
    data = 0.5
    c = Preconditioning.of(torch.tensor(sigma, dtype=torch.float64), data)
    assert float(c.inner**2 * (data**2 + sigma**2)) == pytest.approx(1.0)
    # the target (y - c_skip (y + sigma n)) / c_out
    target = ((1 - c.skip) ** 2 * data**2 + c.skip**2 * sigma**2) / c.out**2
    assert float(target) == pytest.approx(1.0)
    # of all c_skip, this one makes c_out the smallest
    for other in (c.skip - 0.01, c.skip + 0.01):
        assert (1 - other) ** 2 * data**2 + other**2 * sigma**2 > c.out**2
    assert float(c.noise) == pytest.approx(math.log(sigma) / 4)


def test_levels_fall_as_the_formula_says() -> None:
    sigmas = levels(EdmConfig(steps=3))
    middle = ((5.0 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert sigmas.tolist() == pytest.approx([5.0, middle, 0.002, 0.0])
    assert levels(EdmConfig(steps=1)).tolist() == pytest.approx([5.0, 0.0])


def test_sampler_steps_are_those_of_the_gaussian_by_hand() -> None:
    """Each Euler step multiplies x - MEAN by 1 + (next - sigma) sigma / (STD^2 + sigma^2)."""
    sigmas = levels(EdmConfig(steps=3))
    factor = 1.0
    for sigma, following in zip(sigmas.tolist()[:-1], sigmas.tolist()[1:], strict=True):
        factor *= 1 + (following - sigma) * sigma / (STD**2 + sigma**2)
    start = torch.tensor([-4.0, 0.0, 6.0], dtype=torch.float64)
    assert torch.allclose(euler(optimal, start, sigmas), MEAN + factor * (start - MEAN))


def test_sampler_gives_the_gaussian_in_the_limit_of_steps() -> None:
    """From N(0, sigma_max^2) to the data's mean and variance; the error halves with the step."""
    config = EdmConfig(sigma_max=100.0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100_000, generator=generator, dtype=torch.float64)
    start = config.sigma_max * (noise - noise.mean()) / noise.std(correction=0)
    errors = []
    for steps in (400, 800):
        sample = euler(optimal, start, levels(replace(config, steps=steps)))
        assert float(sample.mean()) == pytest.approx(MEAN, abs=0.01)
        errors.append(abs(float(sample.std(correction=0)) - STD))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)


def test_unet_is_zero_at_first_and_reads_its_condition() -> None:
    net = UNet(UNetConfig([8, 16, 16], 1, 4), 6, 3)
    x, condition = torch.randn(2, 6, 16, 24), torch.randn(2, 4)
    assert not net(x, condition).any()
    randomize(net, seed=0)
    out = net(x, condition)
    assert out.shape == (2, 3, 16, 24)
    assert not torch.allclose(out, net(x, condition.flip(0)))


def test_the_default_has_about_the_parameters_of_the_small_world() -> None:
    spec = DiffusionSpec(ActionSpec("discrete", n=2), (64, 64, 3), HeldOut(0.1, 0, 10))
    with torch.device("meta"):
        count = DiffusionWorld(DiffusionConfig(), spec).parameter_count
    assert count == pytest.approx(6.77e6, rel=0.05)


@pytest.mark.parametrize(
    "spec", [ActionSpec("discrete", n=3), ActionSpec("box", low=(-1.0,), high=(2.0,))]
)
def test_sample_has_the_shape_of_frames_and_repeats(spec: ActionSpec) -> None:
    world = make_world(spec)
    past = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    actions = torch.ones(2, 3, *spec.shape, dtype=torch.from_numpy(np.zeros(1, spec.dtype)).dtype)
    known = torch.ones(2, 3, dtype=torch.bool)
    frames = [
        world.sample(past, actions, known, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert frames[0].shape == (2, 16, 16, 3) and frames[0].dtype == torch.uint8
    assert torch.equal(frames[0], frames[1]) and not torch.equal(frames[0], frames[2])
    other = world.sample(past, 0 * actions, known, torch.Generator().manual_seed(0))
    assert not torch.equal(frames[0], other)


def test_an_untrained_loss_is_the_variance_of_the_target() -> None:
    """F = 0 and data of the assumed standard deviation: the mean square of a unit target."""
    spec = DiffusionSpec(ActionSpec("none"), (16, 16, 3), HeldOut(0.1, 0, 10))
    world = DiffusionWorld(TINY, spec)
    grey = (127.5 + 127.5 * 0.5 * torch.randn(64, 16, 16, 3)).clamp(0, 255).to(torch.uint8)
    loss = world.loss(
        grey,
        torch.zeros(64, 3, 16, 16, 3, dtype=torch.uint8),
        torch.zeros(64, 3, dtype=torch.int64),
        torch.zeros(64, 3, dtype=torch.bool),
        torch.randn(64),
        torch.randn(64, 3, 16, 16),
    )
    assert loss.item() == pytest.approx(1.0, abs=0.1)


def test_window_repeats_the_first_frame() -> None:
    rows, exist = window(2, 4)
    assert rows.tolist() == [0, 0, 0, 1] and exist.tolist() == [False, False, True, True]
    rows, exist = window(6, 4)
    assert rows.tolist() == [2, 3, 4, 5] and exist.all()


def test_targets_have_their_own_past_and_the_actions_up_to_them(tmp_path: Path) -> None:
    targets = TargetFrames(write_dataset(tmp_path), np.array([2, 4]), past=3)
    assert len(targets) == 12
    read = targets.read(np.array([0, 4, 11]))  # frames 1 and 5 of episode 2, 6 of episode 4
    assert read.frames[:, 0, 0, 0].tolist() == [21, 25, 46]
    assert read.past[:, :, 0, 0, 0].tolist() == [[20, 20, 20], [22, 23, 24], [43, 44, 45]]
    assert read.known.tolist() == [[False, False, True], [True] * 3, [True] * 3]
    assert read.actions[0, -1] == 1  # led to frame 1
    assert read.actions[1:].tolist() == [[0, 1, 2], [1, 2, 0]]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command, in this process, which is faster."""

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train_diffusion.py", *words])
        train_diffusion.main()

    return run


def test_a_resumed_run_has_the_same_bits(tmp_path: Path, train: Callable[..., None]) -> None:
    flow = tiny_world()
    save_world(flow, tmp_path / "world", "card")  # held out: 0.1 of 10 episodes
    write_dataset(tmp_path / "data", size=64)
    words = [
        f"world={tmp_path / 'world'}",
        f"data={tmp_path / 'data'}",
        *("seconds=600", "device=cpu", "model.past=3", "model.action_width=4"),
        "model.unet={channels: [8, 8], depth: 1, condition: 16}",
        "training={batch: 4, validation: 6, checkpoint_every: 2}",
    ]
    train(*words, "steps=4", f"out={tmp_path / 'once'}")
    for steps in (3, 4):
        train(*words, f"steps={steps}", f"out={tmp_path / 'twice'}")
    worlds = [load_diffusion(tmp_path / name) for name in ("once", "twice")]
    for (name, a), b in zip(
        worlds[0][0].state_dict().items(), worlds[1][0].state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert worlds[1][1]["updates"] == 4 and worlds[1][1]["seconds"] > 0
    logged = [json.loads(line) for line in (tmp_path / "twice/metrics.jsonl").open()]
    assert [entry["step"] for entry in logged if "held_out" in entry["tag"]] == [2, 4]
    with pytest.raises(ConfigError, match=r"training\.seed was 0 and is 1"):
        train(*words, "training.seed=1", f"out={tmp_path / 'twice'}")


def test_a_saved_world_is_the_same_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    world = make_world()
    save_diffusion(world, tmp_path, {"updates": 1.0, "seconds": 2.0})
    loaded, training = load_diffusion(tmp_path)
    assert training == {"updates": 1.0, "seconds": 2.0}
    assert loaded.config == world.config and loaded.spec == world.spec
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), world.parameters(), strict=True)
    )
    with safe_open(tmp_path / "diffusion.safetensors", framework="pt") as file:
        assert "frequencies" in file.keys()  # noqa: SIM118
    (tmp_path / "diffusion.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        load_diffusion(tmp_path)
    with pytest.raises(DataError, match="missing"):
        load_diffusion(tmp_path / "nowhere")


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="sigma_max"):
        EdmConfig(sigma_min=3.0, sigma_max=2.0)
    with pytest.raises(ConfigError, match="do not divide by 2"):
        make_world(size=15)
