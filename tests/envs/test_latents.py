"""Latents as observations: what they are, and that no pixel is decoded unless someone looks."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from worldflow.envs.imagination import Imagination
from worldflow.envs.star_flow_world import StarFlowWorldEnv
from worldflow.envs.vector import StarFlowWorldVectorEnv
from worldflow.world_model import WorldModel

ENV_ID = "StarFlowWorld-v0"
MakeWorld = Callable[..., WorldModel]
SHAPE = (16, 2)  # N, C of the tiny world

pytestmark = pytest.mark.filterwarnings("error")


def forbid_decoding(world: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(latents: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the decoder ran")

    monkeypatch.setattr(world.codec, "decode", decode)


def test_made_by_gymnasium(scripted_world: MakeWorld) -> None:
    world = scripted_world()
    space = gym.spaces.Box(-np.inf, np.inf, SHAPE, np.float32)
    env = gym.make(ENV_ID, world=world, observation="latents")
    assert env.observation_space == space
    assert env.reset(seed=0)[0] in space
    assert env.step(1)[0] in space
    envs = gym.make_vec(ENV_ID, num_envs=3, world=world, observation="latents")
    assert isinstance(envs, StarFlowWorldVectorEnv)
    assert envs.single_observation_space == space
    assert envs.reset(seed=0)[0] in envs.observation_space
    assert envs.step(np.zeros(3, int))[0] in envs.observation_space


def test_they_are_the_denoised_latents_of_the_frames(scripted_world: MakeWorld) -> None:
    """Under the same seeds and actions, decoded latents are the frames, and all else is equal."""
    world = scripted_world([2, 9])
    frames, latents = (
        Imagination(world, 2, observation=observation) for observation in ("frames", "latents")
    )
    everyone, first = np.array([True, True]), np.array([True, False])

    def go(dream: Imagination) -> list[tuple[np.ndarray, ...]]:
        taken = [dream.reset(everyone, [3, 4])]
        taken += [dream.step(np.array([2, k])) for k in (0, 1)]
        taken.append(dream.step(np.array([0, 1]), skip=first))
        taken.append(dream.reset(first))
        return [
            (t.observations, t.rewards, t.terminated, t.truncated, *t.scores.values())
            for t in taken
        ]

    for shown, coded in zip(go(frames), go(latents), strict=True):
        assert coded[0].dtype == np.float32
        assert np.array_equal(world.decode(torch.from_numpy(coded[0])).numpy(), shown[0])
        for x, y in zip(shown[1:], coded[1:], strict=True):
            np.testing.assert_array_equal(x, y, strict=True)
    assert np.array_equal(latents.frames, frames.frames)


def test_they_are_those_of_the_prediction(scripted_world: MakeWorld) -> None:
    world = scripted_world()
    predicted: list[np.ndarray] = []
    dream = world.step

    def step(*args: object) -> object:
        state, prediction = dream(*args)  # type: ignore[arg-type]
        predicted.append(prediction.latents.numpy().copy())
        return state, prediction

    world.step = step  # type: ignore[method-assign, assignment]
    envs = StarFlowWorldVectorEnv(2, world, observation="latents")
    envs.reset(seed=0)
    for _ in range(3):
        seen = envs.step(np.array([0, 1]))[0]
        assert np.array_equal(seen, predicted[-1])


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_no_pixel_is_decoded_unless_someone_looks(
    scripted_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, mode: AutoresetMode
) -> None:
    world = scripted_world([1, 9])
    envs = StarFlowWorldVectorEnv(
        2, world, autoreset_mode=mode, render_mode="rgb_array", observation="latents"
    )
    with monkeypatch.context() as patch:
        forbid_decoding(world, patch)
        envs.reset(seed=0)
        envs.step(np.zeros(2, int))
        if mode is AutoresetMode.DISABLED:
            envs.reset(options={"reset_mask": np.array([True, False])})
        seen = envs.step(np.zeros(2, int))[0]
        with pytest.raises(AssertionError, match="the decoder ran"):
            envs.render()
    rendered = envs.render()
    assert rendered is not None
    assert np.array_equal(np.stack(rendered), world.decode(torch.from_numpy(seen)).numpy())


def test_the_single_env_decodes_when_it_renders(
    scripted_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = scripted_world(2)
    env = StarFlowWorldEnv(world, render_mode="rgb_array", observation="latents")
    with monkeypatch.context() as patch:
        forbid_decoding(world, patch)
        env.reset(seed=0)
        seen = [env.step(0)[0] for _ in range(2)]
        env.reset()
    assert not np.array_equal(*seen)
    env.reset(seed=0)
    env.step(0)
    shown = env.render()
    assert shown is not None
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, world.decode(torch.from_numpy(seen[0])).numpy())


def test_human_mode_decodes_for_the_window(
    scripted_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = pytest.importorskip("pygame")
    world = scripted_world()
    env = StarFlowWorldEnv(world, render_mode="human", observation="latents")
    latents, _ = env.reset(seed=0)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    assert np.array_equal(shown[::6, ::6], world.decode(torch.from_numpy(latents)).numpy())
    env.close()
