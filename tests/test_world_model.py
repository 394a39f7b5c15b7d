"""The composed world: state, step, scores and what each row owes to itself alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import worldflow
from worldflow.actions import ActionSpec
from worldflow.errors import ConfigError, DataError, MissingHeadError
from worldflow.heads.config import HeadsConfig
from worldflow.scoring import FULL_FORWARD_FRAMES
from worldflow.storage import save_world
from worldflow.testing import tiny_config, tiny_world
from worldflow.world_model import WorldModel
from worldflow.world_spec import WorldConfig
from worldflow.world_state import WorldState

SPECS = [
    ActionSpec("discrete", n=3),
    ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 2.0)),
    ActionSpec("none"),
]


def actions_of(spec: ActionSpec, *shape: int) -> torch.Tensor:
    if spec.kind == "box":
        low, high = torch.tensor(spec.low), torch.tensor(spec.high)
        return low + (high - low) * torch.rand(*shape, len(spec.low))
    return torch.randint(max(spec.n, 1), shape)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def start(world: WorldModel, rows: int, *seeds: int) -> WorldState:
    frames = torch.from_numpy(world.context.frames[:rows])
    actions = torch.from_numpy(world.context.actions[:rows])
    return world.initial_state(frames, actions, generators(*seeds))


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
def test_a_step_predicts_everything_and_repeats_with_its_seed(spec: ActionSpec) -> None:
    world = tiny_world(spec)
    state = start(world, 2, 1, 2)
    action = actions_of(spec, 2)
    following, first = world.step(state, action, generators(3, 4))
    again, second = world.step(state, action, generators(3, 4))
    _, other = world.step(state, action, generators(5, 6))
    assert first.frame.shape == (2, 64, 64, 3) and first.frame.dtype == torch.uint8
    assert first.jacobi_iterations.shape == (2, 3)
    assert first.terminated is not None and first.terminated.dtype == torch.bool
    for name in ("log_likelihood", "bits_per_dim", "uncertainty", "novelty", "reward"):
        value = getattr(first, name)
        assert value.shape == (2,) and value.isfinite().all()
        assert torch.equal(value, getattr(second, name))
    assert torch.equal(following.latents, again.latents)
    assert not torch.equal(first.latents, other.latents)


@pytest.mark.parametrize("spec", SPECS[:2], ids=lambda s: s.kind)
def test_actions_matter(spec: ActionSpec) -> None:
    world = tiny_world(spec)
    state = start(world, 1, 1)
    one, two = (
        (torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))
        if spec.kind == "discrete"
        else (torch.zeros(1, 2), torch.ones(1, 2))
    )
    latents = [world.step(state, a, generators(3))[1].latents for a in (one, two)]
    assert not torch.equal(*latents)


def test_a_row_does_not_depend_on_the_other_rows() -> None:
    world = tiny_world()
    state = start(world, 3, 1, 2, 3)
    _, one = world.step(state, torch.tensor([0, 1, 2]), generators(4, 5, 6))
    _, two = world.step(state, torch.tensor([2, 1, 0]), generators(7, 5, 8))
    assert torch.equal(one.latents[1], two.latents[1])
    assert torch.equal(one.log_likelihood[1], two.log_likelihood[1])
    assert torch.equal(one.frame[1], two.frame[1])


def test_the_likelihood_of_a_dream_is_that_of_its_frames() -> None:
    """Stepping and scoring agree: what step reports is the full forward's value for the sample."""
    world = tiny_world().double()
    frames = torch.from_numpy(world.context.frames[:1])
    noisy = list(world.noisy_latents(frames, generators(1)).unbind(1))
    drawn = []
    step = world.flow.step
    world.flow.step = lambda *a, **k: drawn.append(step(*a, **k)) or drawn[-1]  # type: ignore
    state = start(world, 1, 1)  # the same context with the same noise
    reported, actions = [], torch.tensor([[0, 1, 2, 0, 1]])
    for t in range(actions.shape[1]):
        state, prediction = world.step(state, actions[:, t], generators(t))
        noisy.append(drawn[-1][2].noisy)
        reported.append(prediction.log_likelihood)
    all_actions = torch.cat((torch.from_numpy(world.context.actions[:1]), actions), 1)
    out = world.flow(torch.stack(noisy, 1), world.conditioning(all_actions))
    full = out.log_prob[:, world.config.context :]
    torch.testing.assert_close(torch.stack(reported, 1), full, atol=1e-6, rtol=0)


def test_a_videos_score_does_not_depend_on_the_rest_of_the_batch() -> None:
    world = tiny_world()
    frames = torch.from_numpy(world.context.frames)
    actions = torch.from_numpy(world.context.actions)
    together = world.log_prob(frames, actions)
    alone = world.log_prob(frames[2:3], actions[2:3])
    torch.testing.assert_close(together[2:3], alone, atol=1e-4, rtol=1e-5)
    shorter = world.log_prob(frames[:, :1], actions[:, :1])
    torch.testing.assert_close(together[:, :1], shorter, atol=1e-4, rtol=1e-5)


def test_a_world_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    save_world(tiny_world(), tmp_path / "w", "card")
    world = worldflow.load_world(tmp_path / "w")
    state = start(world, 1, 1)
    world.step(state, torch.zeros(1, dtype=torch.int64), generators(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_public_calls_of_the_documentation() -> None:
    world = tiny_world()
    frames = torch.from_numpy(world.context.frames)
    actions = torch.from_numpy(world.context.actions)
    g = torch.Generator().manual_seed(0)
    assert world.log_prob(frames, actions).shape == actions.shape
    state = world.initial_state(frames, actions)
    state, prediction = world.step(state, actions[:, 0], generator=g)
    assert prediction.frame.shape == (len(frames), 64, 64, 3)


def test_denoised_video_is_what_a_dream_shows_of_its_context() -> None:
    world = tiny_world()
    frames = torch.from_numpy(world.context.frames)
    actions = torch.from_numpy(world.context.actions)
    shown = world.decode(world.initial_state(frames, actions).latents)
    difference = shown.int() - world.denoise(frames, actions)[:, -1].int()
    assert difference.abs().max() <= 1  # rounding to uint8 after another order of summation


def test_a_denoiser_that_looks_ahead_works_offline_only() -> None:
    config = tiny_config()
    config.denoiser.lookahead = 1
    world = tiny_world(config=config)
    frames = torch.from_numpy(world.context.frames)
    actions = torch.from_numpy(world.context.actions)
    assert world.denoise(frames, actions).shape == frames.shape
    with pytest.raises(ConfigError, match="cannot step"):
        world.initial_state(frames, actions)


def test_scores_have_their_closed_forms() -> None:
    world = tiny_world()
    frames = torch.from_numpy(world.context.frames[:2])
    actions = torch.from_numpy(world.context.actions[:2])
    scores = world.score(frames, actions)
    log_p = world.log_prob(frames, actions)
    assert torch.equal(scores.log_likelihood, log_p)  # no generator: the same noise each time
    torch.testing.assert_close(scores.bits_per_dim, -log_p / (world.dimensions * math.log(2)))
    table = world.calibration.require("seen").windows[1]
    torch.testing.assert_close(scores.novelty, table.novelty(scores.statistics))


def test_entropy_of_the_identity_flow_is_that_of_the_normal() -> None:
    world = WorldModel(tiny_config(), tiny_world().spec).eval()  # fresh weights: the identity
    frames = torch.zeros(1, 2, 64, 64, 3, dtype=torch.uint8)
    scores = world.score(frames, torch.zeros(1, 2, dtype=torch.int64))
    expected = 0.5 * world.dimensions * math.log(2 * math.pi * math.e)
    torch.testing.assert_close(scores.uncertainty, torch.full((1, 2), expected))
    assert scores.novelty.isnan().all()  # not calibrated


def test_long_videos_are_scored_as_short_ones() -> None:
    world = tiny_world().double()
    length = FULL_FORWARD_FRAMES + 3
    frames = torch.randint(0, 256, (1, length, 64, 64, 3), dtype=torch.uint8)
    actions = torch.randint(3, (1, length))
    incremental = world.log_prob(frames, actions)
    noisy = world.noisy_latents(frames, torch.Generator().manual_seed(0))
    full = world.flow(noisy, world.conditioning(actions)).log_prob
    torch.testing.assert_close(incremental, full, atol=1e-6, rtol=0)


def test_wrong_shapes_are_named() -> None:
    world = tiny_world()
    good = torch.zeros(1, 2, 64, 64, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match="frames have shape"):
        world.log_prob(good[..., :32, :], torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(DataError, match="actions have shape"):
        world.log_prob(good, torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(DataError, match=r"type torch\.float32"):
        world.log_prob(good.float(), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(DataError, match="no frames"):
        world.log_prob(good[:, :0], torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(DataError, match=r"action has shape \(1, 1\), this state needs \(1,\)"):
        world.step(start(world, 1, 1), torch.zeros(1, 1, dtype=torch.int64), generators(2))


def test_a_world_without_a_head_says_so() -> None:
    config = replace(tiny_config(), heads=HeadsConfig(hidden=8, reward=False))
    world = tiny_world(config=config)
    with pytest.raises(MissingHeadError, match="no reward head"):
        world.require_heads()
    _, prediction = world.step(start(world, 1, 1), torch.zeros(1, dtype=torch.int64), generators(2))
    assert prediction.reward is None and prediction.terminated is not None


@pytest.mark.parametrize("reads", ["frame", "past", "episode"])
def test_an_end_is_of_the_frame_or_of_the_past(reads: str) -> None:
    """A hazard does not depend on the noise of the frame it comes with, but on the action."""
    config = replace(tiny_config(), heads=HeadsConfig(8, termination_reads=reads))
    world = tiny_world(config=config)
    state = start(world, 1, 1)

    def ends(action: int, seed: int) -> torch.Tensor:
        _, prediction = world.step(state, torch.tensor([action]), generators(seed))
        assert prediction.termination_probability is not None
        return prediction.termination_probability

    assert torch.equal(ends(0, 2), ends(0, 3)) == (reads != "frame")
    assert not torch.equal(ends(0, 2), ends(1, 2))


@pytest.mark.parametrize("reads", ["past", "episode"])
def test_a_hazard_of_a_dream_is_that_of_its_frames(reads: str) -> None:
    """In steps, and in the whole clips that heads learn from."""
    config = replace(tiny_config(), heads=HeadsConfig(8, termination_reads=reads))
    world = tiny_world(config=config)
    frames = torch.randint(0, 256, (2, 5, 64, 64, 3), dtype=torch.uint8)
    actions = torch.randint(0, 3, (2, 5))
    with torch.no_grad():
        noisy = world.noisy_latents(frames, generators(1, 2))
        condition = world.conditioning(actions)
        past = world.flow(noisy, condition).features
        head = world.termination_head
        assert head is not None
        expected = head.probability(head.of_clips(past, past, noisy, condition))[:, 4]
    state = world.initial_state(frames[:, :4], actions[:, :4], generators(1, 2))
    _, prediction = world.step(state, actions[:, 4], generators(3, 4))
    torch.testing.assert_close(prediction.termination_probability, expected)


def test_no_context_is_an_error() -> None:
    with pytest.raises(DataError, match="no contexts"):
        WorldModel(tiny_config(), tiny_world().spec).context  # noqa: B018


@pytest.mark.parametrize("settings", [{"sigma": 0.0}, {"context": 0}])
def test_bad_settings_are_named(settings: dict) -> None:
    with pytest.raises(ConfigError, match="world"):
        WorldConfig(**settings)


def test_branches_of_a_fork_go_on_like_the_dream_they_came_from() -> None:
    """Repeated, dropped and reordered rows, under the same actions and noise as the original."""
    world = tiny_world()
    state = start(world, 3, 1, 2, 3)
    for t in range(4):  # past the window
        state, _ = world.step(state, torch.tensor([0, 1, 2]), generators(t, t + 10, t + 20))
    branches = world.fork(state, [2, 0, 2])
    _, expected = world.step(state, torch.tensor([0, 1, 2]), generators(7, 8, 9))
    _, got = world.step(branches, torch.tensor([2, 0, 2]), generators(9, 7, 9))
    for name in ("latents", "log_likelihood", "reward"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name)[[2, 0, 2]])
    assert torch.equal(got.frame[0], got.frame[2])


def test_an_old_state_can_be_restored_and_branched_by_a_planner() -> None:
    world = tiny_world()
    kept = start(world, 2, 1, 2)
    action = torch.tensor([0, 1])
    state, first = world.step(kept, action, generators(3, 4))
    for t in range(5):
        state, _ = world.step(state, action, generators(t, t))
    _, again = world.step(kept, action, generators(3, 4))
    assert torch.equal(first.latents, again.latents)
    _, forked = world.step(world.fork(kept), action, generators(3, 4))
    assert torch.equal(first.latents, forked.latents)
    _, other = world.step(world.fork(kept), torch.tensor([1, 0]), generators(3, 4))
    assert not torch.equal(first.latents, other.latents)


@pytest.mark.parametrize("rows", [[], [2], [-1]])
def test_a_fork_of_rows_that_are_not_there_is_refused(rows: list[int]) -> None:
    world = tiny_world()
    with pytest.raises(DataError, match=r"not in 0\.\.1"):
        world.fork(start(world, 2, 1, 2), rows)


def test_pixels_are_decoded_only_for_those_who_look() -> None:
    world = tiny_world()
    state = start(world, 1, 1)
    decoded = []
    decode = world.codec.decode
    world.codec.decode = lambda x: decoded.append(x) or decode(x)  # type: ignore
    _, prediction = world.step(state, torch.tensor([0]), generators(3))
    assert not decoded
    assert torch.equal(prediction.frame, world.decode(prediction.latents))
    assert prediction.frame is prediction.frame and len(decoded) == 2
