"""The drift report: statistics and dreamers by known answers, and the command at a tiny size."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import horizon
import numpy as np
import pytest
import torch
from diffusion.unet import UNetConfig
from diffusion.world import DiffusionConfig, DiffusionSpec, DiffusionWorld, save_diffusion
from drift.dreamers import CleanFlowDreamer, DiffusionDreamer, FlowDreamer
from drift.measure import (
    long_dream,
    random_actions,
    real_video,
    recorded_actions,
    recorded_figures,
)
from drift.statistics import (
    FRECHET,
    IMAGE,
    RIDGE,
    STRANGE,
    Frames,
    Gaussian,
    band,
    beyond,
    frechet,
    group_figures,
    image_statistics,
    over_time,
    real_groups,
)
from drift.store import measured

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation.clips import RealClips
from worldflow.heads.config import HeadsConfig
from worldflow.metrics import PSNR_LIMIT
from worldflow.storage import save_world
from worldflow.testing import tiny_config, tiny_world
from worldflow.world_model import WorldModel


def test_image_statistics_of_known_pictures() -> None:
    flat = np.full((4, 6, 3), 50, np.uint8)
    board = np.where(np.indices((6, 8)).sum(axis=0)[..., None] % 2, 30, 10).astype(np.uint8)
    ramp = np.broadcast_to(np.arange(7, dtype=np.uint8)[None, :, None], (5, 7, 3))
    found = [image_statistics(x if x.shape[-1] == 3 else x.repeat(3, -1)) for x in (flat, board)]
    assert found[0].tolist() == pytest.approx([50.0, 0.0, 0.0], abs=1e-4)
    assert found[1].tolist() == pytest.approx([20.0, 10.0, 80.0], rel=1e-5)
    # a straight ramp has contrast and no Laplacian
    assert image_statistics(ramp)[1:].tolist() == pytest.approx([2.0, 0.0], abs=1e-5)
    red = np.zeros((1, 2, 4, 4, 3), np.uint8) + np.array([100, 0, 0], np.uint8)
    assert image_statistics(red).shape == (1, 2, 3)
    assert image_statistics(red)[0, 0, 0] == pytest.approx(29.9)


def test_frechet_of_known_gaussians() -> None:
    a = Gaussian(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    b = Gaussian(np.array([4.0, -2.0]), np.diag([1.0, 25.0]))
    assert frechet(a, b) == pytest.approx(9 + 16 + (2 - 1) ** 2 + (3 - 5) ** 2)
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-9)
    # that do not commute: of two dimensions, tr sqrt(P) = sqrt(tr P + 2 sqrt(det P))
    c = Gaussian(np.zeros(2), np.array([[2.0, 0.9], [0.9, 1.0]]))
    d = Gaussian(np.zeros(2), np.array([[1.0, -0.5], [-0.5, 3.0]]))
    product = c.covariance @ d.covariance
    root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    assert frechet(c, d) == pytest.approx(7.0 - 2 * root)
    assert frechet(c, d) == pytest.approx(frechet(d, c))


def test_gaussian_of_samples_is_regularised() -> None:
    found = Gaussian.of(np.array([[0.0, 1.0], [2.0, 1.0]]))
    assert found.mean.tolist() == [1.0, 1.0]
    assert np.allclose(found.covariance, [[2.0 + RIDGE, 0.0], [0.0, RIDGE]])


def made_frames(rows: int, steps: int, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    shapes = ((rows, steps, 3), (rows, steps, 4), (rows, steps))
    return Frames(*(rng.normal(size=shape) for shape in shapes))


def test_over_time_takes_whole_seconds() -> None:
    dream = made_frames(2, 11)
    dream.image[:, 4:8, 0] = 7.0
    dream.novelty[:] = 0.0
    dream.novelty[0, 4] = 4.0  # one of the eight frames of the second second
    reference = Gaussian.of(dream.features.reshape(-1, 4))
    found = over_time(dream, 4, reference)
    assert {len(values) for values in found.values()} == {2}
    assert found["mean"][1] == pytest.approx(7.0)
    assert found[STRANGE] == [0.0, 1 / 8]
    features = dream.features[:, :4].reshape(-1, 4)
    assert found[FRECHET][0] == pytest.approx(frechet(Gaussian.of(features), reference))


def test_groups_of_real_frames_lie_within_their_clips() -> None:
    lengths = np.array([9, 3, 5, 4, 9, 2])
    index = real_groups(lengths, rows=3, second=4, groups=50, seed=0)
    assert index["frames"].shape == (50, 3, 4)
    assert (index["frames"] < lengths[index["clips"]]).all()
    assert set(np.unique(index["clips"])) == {0, 2, 3, 4}
    assert (np.diff(index["frames"], axis=2) == 1).all()
    assert all(len(set(clips[:, 0])) == 3 for clips in index["clips"])
    with pytest.raises(DataError, match="none of 6 held-out clips has a second of 10 frames"):
        real_groups(lengths, 3, 10, 5, 0)


def test_the_band_holds_its_share_of_real_groups() -> None:
    real = made_frames(40, 30, seed=1)
    reference = Gaussian.of(made_frames(40, 30, seed=2).features.reshape(-1, 4))
    lengths = np.full(40, 30)
    edges = band(group_figures(real, real_groups(lengths, 4, 5, 400, seed=3), reference))
    again = group_figures(real, real_groups(lengths, 4, 5, 400, seed=4), reference)
    for name in ("mean", "contrast", FRECHET):
        low, high = (-np.inf if name == FRECHET else edges[name][0]), edges[name][1]
        assert np.mean([low <= x <= high for x in again[name]]) == pytest.approx(0.95, abs=0.04)


def test_beyond_is_a_share_of_the_nearer_edge() -> None:
    values = [5.0, 10.0, 20.0, 25.0]
    assert beyond(values, (10.0, 20.0), False).tolist() == [0.5, 0.0, 0.0, 0.25]
    assert beyond(values, (10.0, 20.0), True).tolist() == [0.0, 0.0, 0.0, 0.25]
    assert beyond([0.0, 0.1], (0.0, 0.0), True).tolist() == [0.0, np.inf]


def beginning(world: WorldModel, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(world.context.frames[:rows]), torch.from_numpy(
        world.context.actions[:rows]
    )


def test_the_flow_dreams_as_the_world_steps() -> None:
    world = tiny_world()
    frames, actions = beginning(world, 2)
    dreamer = FlowDreamer(world, temperature=0.7)
    dreamer.begin(frames, actions, seed=3)
    generator = torch.Generator().manual_seed(3)
    state = world.initial_state(frames, actions, generator)
    for action in (torch.tensor([0, 1]), torch.tensor([2, 1])):
        state, made = world.step(state, action, generator, 0.7)
        assert torch.equal(dreamer.step(action), made.frame)


@pytest.mark.parametrize(("sigma", "same"), [(1e-9, True), (0.3, False)])
def test_clean_feedback_is_the_flow_where_there_is_no_noise(sigma: float, same: bool) -> None:
    config = replace(
        tiny_config(), sigma=sigma, heads=HeadsConfig(8, reward=False, termination=False)
    )
    world = tiny_world(config=config)
    frames, actions = beginning(world, 2)
    shown = []
    for dreamer in (FlowDreamer(world), CleanFlowDreamer(world)):
        dreamer.begin(frames, actions, seed=3)
        shown.append(torch.stack([dreamer.step(torch.tensor([0, 1])) for _ in range(5)]))
    difference = (shown[0].int() - shown[1].int()).abs().max()
    assert difference <= 1 if same else difference > 1


def test_clean_feedback_continues_from_denoised_latents() -> None:
    """The flow's state after a step is that of having observed what was shown."""
    world = tiny_world()
    frames, actions = beginning(world, 2)
    dreamer = CleanFlowDreamer(world)
    dreamer.begin(frames, actions, seed=0)
    before = dreamer._flow
    decoded: list[torch.Tensor] = []
    decode = world.decode
    world.decode = lambda latents: decoded.append(latents) or decode(latents)  # type: ignore[method-assign,func-returns-value]
    taken = torch.tensor([1, 2])
    dreamer.step(taken)
    with torch.inference_mode():
        expected, _ = world.flow.observe(before, decoded[0], world.conditioning.embed(taken))
    assert torch.equal(dreamer._flow.hidden, expected.hidden)
    assert torch.equal(dreamer._flow.cache.keys, expected.cache.keys)


class Recorder(torch.nn.Module):
    """In the place of a diffusion world: keeps what it is asked, answers with the step's number."""

    def __init__(self, past: int) -> None:
        super().__init__()
        self.config = DiffusionConfig(past=past)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.asked: list[tuple[list[int], list[int], list[bool]]] = []

    def sample(self, past, actions, known, generators):  # type: ignore[no-untyped-def]
        self.asked.append((past[0, :, 0, 0, 0].tolist(), actions[0].tolist(), known[0].tolist()))
        return torch.full_like(past[:, 0], 100 + len(self.asked))


def test_diffusion_sees_its_own_frames_and_the_actions_that_led_to_them() -> None:
    world = Recorder(past=3)
    dreamer = DiffusionDreamer(world)  # type: ignore[arg-type]
    frames = torch.arange(10, 12, dtype=torch.uint8)[None, :, None, None, None]
    dreamer.begin(frames.expand(2, 2, 4, 4, 3), torch.tensor([[8, 5]] * 2), seed=0)
    for action in (6, 7, 9):
        dreamer.step(torch.tensor([action] * 2))
    assert world.asked == [
        ([10, 10, 11], [5, 5, 6], [False, True, True]),
        ([10, 11, 101], [5, 6, 7], [True] * 3),
        ([11, 101, 102], [6, 7, 9], [True] * 3),
    ]


def test_diffusion_in_half_precision_dreams_nearly_the_same_frame() -> None:
    spec = DiffusionSpec(ActionSpec("discrete", n=2), (32, 32, 3), tiny_world().spec.held_out)
    config = DiffusionConfig(past=2, action_width=4, unet=UNetConfig([8, 8], 1, 16))
    torch.manual_seed(0)
    world = DiffusionWorld(config, spec).eval()
    for parameter in world.parameters():  # some are zero at first
        torch.nn.init.normal_(parameter, std=0.1)
    frames, actions = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8), torch.ones(2, 2)
    made = []
    for precision in ("fp32", "bf16"):
        dreamer = DiffusionDreamer(world, precision)
        dreamer.begin(frames, actions.long(), seed=0)
        made.append(dreamer.step(actions[:, 0].long()).float())
    differences = (made[0] - made[1]).abs()
    assert 0.0 < differences.mean() < 2.0  # grey levels


class Replay:
    """Dreams what was recorded, whatever the actions."""

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames = frames

    def begin(self, frames: torch.Tensor, actions: torch.Tensor, seed: int) -> None:
        self.time = frames.shape[1]

    def step(self, actions: torch.Tensor) -> torch.Tensor:
        self.time += 1
        return self.frames[:, self.time - 1]


def noise_clips(rows: int, steps: int, seed: int = 0) -> RealClips:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (rows, steps, 64, 64, 3), dtype=np.uint8)
    actions = rng.integers(0, 3, (rows, steps))
    return RealClips(frames, actions, np.ones((rows, steps), np.bool_))


def test_a_long_dream_of_reality_is_scored_as_reality() -> None:
    world, clips = tiny_world(), noise_clips(1, 7)
    frames, actions = torch.from_numpy(clips.frames), torch.from_numpy(clips.actions)
    found = long_dream(
        Replay(frames), world, frames[:, :2], actions, np.array([1, 5]), seed=4, title="replay"
    )
    scored = world.score(frames, actions, torch.Generator().manual_seed(5))
    assert np.allclose(found.frames.novelty, scored.novelty[:, 2:].numpy(), atol=1e-3)
    real = real_video(world, clips, batch=1, seed=0).cut(2, 7)
    assert np.allclose(found.frames.image, real.image)
    assert np.allclose(found.frames.features, real.features, atol=1e-5)
    latents = world.codec.encode_frames(frames)
    assert np.allclose(real.features, latents[:, 2:].mean(dim=2).numpy(), atol=1e-5)
    assert np.array_equal(found.pictures, clips.frames[0, [2, 6]])
    assert found.seconds > 0


def test_recorded_figures_of_reality_itself() -> None:
    clips = noise_clips(3, 6)
    clips.valid[0, 4:] = False
    found = recorded_figures(
        Replay(torch.from_numpy(clips.frames)), clips, context=2, at=[1, 4], batch=8, seed=0
    )
    assert found["psnr"]["1"]["mean"] == PSNR_LIMIT and found["psnr"]["1"]["count"] == 3
    assert found["psnr"]["4"]["count"] == 2
    assert found["agreement"]["mean"] == 0.0  # it ignores the actions


def test_actions_of_both_policies(dataset: EpisodeDataset) -> None:
    spec = ActionSpec("discrete", n=3)
    held = random_actions(spec, 2, 50, sticky=1.0, seed=0)
    assert held.shape == (2, 50) and all(len(set(row)) == 1 for row in held.tolist())
    drawn = random_actions(spec, 2, 50, sticky=0.0, seed=0)
    assert set(drawn.ravel().tolist()) == {0, 1, 2} and (drawn[0] != drawn[1]).any()
    box = random_actions(ActionSpec("box", low=(0.0, 1.0), high=(1.0, 2.0)), 3, 4, 0.5, 0)
    assert box.shape == (3, 4, 2) and box.dtype == np.float32
    taken = recorded_actions(dataset, np.array([1, 3]), rows=2, steps=40, seed=0)
    episodes = {tuple(dataset.steps_of(e).actions[1:].tolist()) for e in (1, 3)}
    assert {tuple(taken[0, start : start + 15].tolist()) for start in (0, 15)} == episodes


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command, in this process."""

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["horizon.py", *words])
        horizon.main()

    return run


def test_the_report_is_made_and_a_dreamer_is_added(
    tmp_path: Path,
    dataset: EpisodeDataset,
    command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    flow, data, out = tiny_world(), dataset.folder, tmp_path / "out"
    save_world(flow, tmp_path / "world", "card")
    spec = DiffusionSpec(flow.action_spec, flow.frame_shape, flow.spec.held_out)
    config = DiffusionConfig(past=3, action_width=4, unet=UNetConfig([8, 8], 1, 16))
    (tmp_path / "diffusion").mkdir()
    trained = {"updates": 1.0, "seconds": 2.0}
    save_diffusion(DiffusionWorld(config, spec), tmp_path / "diffusion", trained)
    sizes = ("steps=17", "rows=2", "real_clips=6", "real_length=14", "groups=20", "clips=2")
    words = (
        *(f"world={tmp_path / 'world'}", f"data.path={data}", "data.unseen=true", f"out={out}"),
        *(*sizes, "psnr_steps=[1,4]", "speed_rows=[1]", "speed_steps=2", "device=cpu"),
    )
    command(*words, "dreamers=[flow]")
    first = (out / "flow.safetensors").stat().st_mtime_ns
    command(*words, f"diffusion={tmp_path / 'diffusion'}")
    assert (out / "flow.safetensors").stat().st_mtime_ns == first
    figures = json.loads((out / "horizon.json").read_text())
    assert list(figures["dreamers"]) == ["flow", "clean", "diffusion"]
    assert figures["second"] == 8 and figures["real"] == {"clips": 6, "frames": 84}
    for found in figures["dreamers"].values():
        assert {len(values) for values in found["over_time"].values()} == {2}
        assert set(found["over_time"]) == {*IMAGE, FRECHET, STRANGE}
        assert found["step_ms"]["1"] > 0 and found["dream_seconds"] > 0
        assert list(found["psnr"]) == ["1", "4"] and found["agreement"]["count"] == 2
    assert figures["dreamers"]["diffusion"]["updates"] == 1.0
    assert all(len(found["over_time"]["mean"]) == 2 for found in figures["as_long"].values())
    printed = capsys.readouterr().out
    assert printed.endswith((out / "horizon.md").read_text() + "\n")
    assert printed.count("| diffusion |") == 1 and "| diffusion, fp32 |" in printed
    assert "codec of the flow" in printed
    names = {path.name for path in out.iterdir()}
    charts = {"mean.svg", "contrast.svg", "sharpness.svg", "frechet.svg", "strange.svg"}
    assert charts | {"strip.png", "report.html", "real.safetensors"} <= names
    assert not [name for name in names if "partial" in name]
    with pytest.raises(ConfigError, match="was measured with seed=0, now it is 1"):
        command(*words, "dreamers=[flow]", "seed=1")


def test_measured_names_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        measured(tmp_path / "x", {}, lambda: ({}, {}))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["dreamers=[flow,gan]"], "gan"),
        ([], "needs diffusion=FOLDER"),
        (["dreamers=[flow]", "policy=best"], "policy is 'best'"),
        (["dreamers=[flow]", "precision=half"], "precision is 'half'"),
        (["dreamers=[flow]", "steps=0"], "steps=0"),
        (["dreamers=[flow]", "psnr_steps=[0]"], r"psnr_steps=\[0\]"),
        (["dreamers=[flow]"], "nowhere"),
    ],
)
def test_bad_settings_are_named(
    words: list[str], problem: str, tmp_path: Path, command: Callable[..., None]
) -> None:
    with pytest.raises((ConfigError, DataError), match=problem):
        command("world=catch", "data.path=nowhere", f"out={tmp_path}", "device=cpu", *words)
