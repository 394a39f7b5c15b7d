"""The single env: Gymnasium's rules, seeds, endings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from worldflow.actions import ActionSpec
from worldflow.envs.spaces import OBSERVATIONS
from worldflow.envs.star_flow_world import StarFlowWorldEnv
from worldflow.envs.transition import SCORES
from worldflow.storage import save_world
from worldflow.testing import tiny_world
from worldflow.world_model import WorldModel

ENV_ID = "StarFlowWorld-v0"
MakeWorld = Callable[..., WorldModel]

pytestmark = pytest.mark.filterwarnings("error")


def rollout(env: gym.Env, seed: int, actions: list[int]) -> list[object]:
    """Everything that the env returns."""
    return [env.reset(seed=seed), *(env.step(action) for action in actions)]


# What the checkers say of every space without limits, and of every one with two axes.
ADVICE = {
    "frames": [],
    "latents": ["minimum value is -infinity", "maximum value is infinity", "unconventional shape"],
}


def check(env: gym.Env, advice: list[str]) -> None:
    """Both checkers; each warns of what is in `advice`, once, and of nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
        sb3_check_env(env.unwrapped, warn=True, skip_render_check=False)
    # torch's complaints about its own internals are not the env's
    said = [str(w.message) for w in caught if "torch" not in w.filename]
    assert len(said) == len(advice), said
    assert all(expected in message for expected, message in zip(advice, said, strict=True)), said


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("lifetime", [3, 1_000_000])
@pytest.mark.parametrize(
    "spec",
    [ActionSpec("discrete", n=3), ActionSpec("box", low=(-1, -1), high=(1, 1)), ActionSpec("none")],
    ids=lambda spec: spec.kind,
)
def test_checkers_find_nothing(
    scripted_world: MakeWorld, spec: ActionSpec, lifetime: int, observation: str
) -> None:
    world = scripted_world(lifetime, action_spec=spec)
    env = gym.make(ENV_ID, world=world, render_mode="rgb_array", observation=observation)
    check(env, ADVICE[observation])


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_a_world_by_its_folder_passes_and_can_be_written_as_json(
    tmp_path: Path, observation: str
) -> None:
    folder = tmp_path / "tiny"
    save_world(tiny_world(), folder, "a tiny world\n")
    env = gym.make(
        ENV_ID, world=str(folder), horizon=7, render_mode="rgb_array", observation=observation
    )
    check(env, ADVICE[observation])
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert np.array_equal(again.reset(seed=3)[0], env.reset(seed=3)[0])
    assert again.unwrapped.imagination.horizon == 7  # type: ignore[attr-defined]


def test_a_random_world_passes_too() -> None:
    env = gym.make(ENV_ID, world=tiny_world(seed=3), disable_env_checker=False)
    sb3_check_env(env.unwrapped)
    frame, _ = env.reset(seed=1)
    assert frame.shape == (64, 64, 3)
    assert frame.dtype == np.uint8


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_same_seed_same_bits_and_other_seed_other_bits(
    scripted_world: MakeWorld, observation: str
) -> None:
    world = scripted_world()
    actions = [0, 2, 1, 1, 0]
    first, again, other = (
        rollout(StarFlowWorldEnv(world, observation=observation), seed, actions)
        for seed in (7, 7, 8)
    )
    assert repr(first[0][1]) == repr(again[0][1])  # holds NaN
    assert data_equivalence(first[0][0], again[0][0], exact=True)
    assert data_equivalence(first[1:], again[1:], exact=True)
    assert not np.array_equal(first[-1][0], other[-1][0])


def test_reset_without_seed_goes_on_with_the_stream(scripted_world: MakeWorld) -> None:
    env = StarFlowWorldEnv(scripted_world())
    rollout(env, 7, [1])
    second_of_first_run = [env.reset()[0], env.step(1)[0]]
    rollout(env, 7, [1])
    assert np.array_equal(env.reset()[0], second_of_first_run[0])
    assert np.array_equal(env.step(1)[0], second_of_first_run[1])
    env.reset(seed=7)
    assert not np.array_equal(env.step(1)[0], second_of_first_run[1])


def test_unseeded_envs_differ(scripted_world: MakeWorld) -> None:
    world = scripted_world()
    frames = []
    for env in (StarFlowWorldEnv(world), StarFlowWorldEnv(world)):
        env.reset()
        frames.append(env.step(0)[0])
    assert not np.array_equal(*frames)


def test_torchs_global_generator_plays_no_part(scripted_world: MakeWorld) -> None:
    import torch

    env = StarFlowWorldEnv(scripted_world())
    before = torch.random.get_rng_state()
    rollout(env, 0, [1, 1])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("lifetime", "horizon", "steps", "terminated", "truncated"),
    [(3, 10, 3, True, False), (10, 4, 4, False, True), (4, 4, 4, True, False)],
)
def test_endings(
    scripted_world: MakeWorld,
    lifetime: int,
    horizon: int,
    steps: int,
    terminated: bool,
    truncated: bool,
) -> None:
    env = StarFlowWorldEnv(scripted_world(lifetime), horizon=horizon)
    for _ in range(2):  # the second episode counts from zero again
        env.reset(seed=0)
        for k in range(1, steps):
            assert env.step(0)[1:4] == (float(k), False, False)
        _, reward, was_terminated, was_truncated, _ = env.step(0)
        assert (reward, was_terminated, was_truncated) == (float(steps), terminated, truncated)
        with pytest.raises(gym.error.ResetNeeded):
            env.step(0)


def test_info_has_every_score(scripted_world: MakeWorld) -> None:
    env = StarFlowWorldEnv(scripted_world())
    _, at_reset = env.reset(seed=0)
    *_, at_step = env.step(0)
    for info in (at_reset, at_step):
        expected = {*SCORES, "termination_probability", "jacobi_iterations", "sequential_fallbacks"}
        assert set(info) == expected
        assert info["jacobi_iterations"].shape == (3,)  # one global and two local blocks
    assert all(np.isnan(at_reset[name]) for name in SCORES)
    assert all(type(at_step[name]) is float and np.isfinite(at_step[name]) for name in SCORES)
    assert at_reset["jacobi_iterations"].tolist() == [0, 0, 0]
    assert (at_step["jacobi_iterations"] >= 1).all()
    assert at_step["sequential_fallbacks"] == 0


def test_a_row_that_had_to_be_inverted_token_by_token_is_counted() -> None:
    env = gym.make(ENV_ID, world=tiny_world(), horizon=5)
    env.reset(seed=0)
    imagination = env.unwrapped.imagination
    flow = imagination._state.flow
    *local, last = flow.affines
    nowhere = last._replace(mu=torch.full_like(last.mu, torch.nan))  # where Jacobi starts
    flow = replace(flow, affines=(*local, nowhere))
    imagination._state = replace(imagination._state, flow=flow)
    info = env.step(0)[-1]
    assert info["sequential_fallbacks"] == 1 and np.isfinite(info["log_likelihood"])
    assert env.step(0)[-1]["sequential_fallbacks"] == 0


def test_starting_context_can_be_chosen(scripted_world: MakeWorld) -> None:
    world = scripted_world()
    env = StarFlowWorldEnv(world)
    starts = [env.reset(seed=0, options={"context": index})[0] for index in range(5)]
    assert len({frame.tobytes() for frame in starts}) == 5
    drawn = env.reset(seed=0)[0]
    assert any(np.array_equal(drawn, start) for start in starts)
    over_seeds = {env.reset(seed=seed)[0].tobytes() for seed in range(20)}
    assert len(over_seeds) > 5  # contexts and their noise vary


def test_action_matters_but_only_through_the_world(scripted_world: MakeWorld) -> None:
    env = StarFlowWorldEnv(scripted_world())
    frames = []
    for action in (0, 2):
        env.reset(seed=5)
        frames.append(env.step(action)[0])
    assert not np.array_equal(*frames)


def test_temperature_scales_the_noise(scripted_world: MakeWorld) -> None:
    world = scripted_world()
    frames = []
    for seed in (0, 1):
        env = StarFlowWorldEnv(world, temperature=0.0)
        imagination = env.imagination
        env.reset(seed=3, options={"context": 0})
        imagination._seed(0, seed)  # another stream after the same start
        frames.append(env.step(1)[0])
    assert np.array_equal(*frames)


def test_returned_frames_belong_to_the_caller(scripted_world: MakeWorld) -> None:
    env = StarFlowWorldEnv(scripted_world(), render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    kept = frame.copy()
    frame[:] = 0
    rendered = env.render()
    assert np.array_equal(rendered, kept)
    rendered[:] = 0
    assert np.array_equal(env.render(), kept)


def test_metadata_and_spaces_come_from_the_world(scripted_world: MakeWorld) -> None:
    env = StarFlowWorldEnv(scripted_world(size=48))
    assert env.metadata["render_fps"] == 8.0
    assert StarFlowWorldEnv.metadata["render_fps"] == 15
    assert env.observation_space == gym.spaces.Box(0, 255, (48, 48, 3), np.uint8)
    assert env.action_space == gym.spaces.Discrete(3)
