"""Envs that begin from a user's own frames or from a prompt."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import worldflow
from worldflow.envs.star_flow_world import StarFlowWorldEnv
from worldflow.errors import ConfigError, DataError
from worldflow.flow.guidance import Guidance
from worldflow.pictures.video import write_video
from worldflow.storage import save_world
from worldflow.testing import tiny_world
from worldflow.text.encoder import embed, encoder_of
from worldflow.world_model import WorldModel

assert worldflow.__version__  # registers the envs
CAPTIONS = ("the ball falls left", "the ball falls right")


def lasting(captions: tuple[str, ...] = ()) -> WorldModel:
    """A world whose episodes do not terminate."""
    world = tiny_world(captions=captions)
    assert world.termination_head is not None
    world.termination_head.probability = lambda logits: torch.zeros(len(logits))  # type: ignore
    return world


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def rollout(env: gym.Env, steps: int = 4) -> list[np.ndarray]:
    shown = [env.reset(seed=3)[0]]
    return shown + [env.step(1)[0] for _ in range(steps)]


def test_an_image_is_the_first_state(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), frames(1)[0][:, :, ::-1])
    world = lasting()
    env = gym.make("StarFlowWorld-v0", world=world, initial_frames=str(tmp_path / "a.png"))
    seen, info = env.reset(seed=3)
    generator = env.unwrapped.imagination._generators[0]  # type: ignore[attr-defined]
    assert np.isnan(info["log_likelihood"]) and generator is not None
    # the same as the array, and as the world's own state after it
    again = gym.make("StarFlowWorld-v0", world=world, initial_frames=frames(1))
    assert np.array_equal(seen, again.reset(seed=3)[0])
    one, two = rollout(env), rollout(again)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    plain = rollout(gym.make("StarFlowWorld-v0", world=world))
    assert not np.array_equal(one[0], plain[0])


def test_a_clip_is_the_first_state_and_another_size_is_cropped(tmp_path: Path) -> None:
    world = lasting()
    write_video(tmp_path / "clip.mp4", frames(5), 8.0, 1)
    env = StarFlowWorldEnv(world, initial_frames=tmp_path / "clip.mp4")
    assert env.imagination._beginnings._contexts.frames.shape == (1, world.config.reach, 64, 64, 3)
    wide = np.zeros((80, 120, 3), np.uint8)
    wide[:, 20:100] = 200  # what a square crop keeps
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    cropped = StarFlowWorldEnv(world, initial_frames=tmp_path / "wide.png")
    assert (cropped.imagination._beginnings._contexts.frames == 200).all()


def test_what_led_to_the_given_frames_is_not_known() -> None:
    world = tiny_world()
    env = StarFlowWorldEnv(world, initial_frames=frames(3))
    env.reset(seed=3)
    state = env.imagination._state
    assert state is not None
    actions, unknown = torch.zeros(1, 3).long(), torch.zeros(1, 3, dtype=torch.bool)
    given = torch.from_numpy(frames(3))[None]

    def after(known: torch.Tensor | None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        torch.randint(1, (), generator=generator)  # which context
        return world.initial_state(given, actions, [generator], known).latents

    seed = int(np.random.SeedSequence(3).generate_state(1, np.uint64)[0] >> np.uint64(1))
    assert torch.equal(state.latents, after(unknown))
    assert not torch.equal(state.latents, after(None))


def text_env(world: WorldModel, prompt: str, **settings: object) -> StarFlowWorldEnv:
    return StarFlowWorldEnv(world, prompt=prompt, **settings)  # type: ignore[arg-type]


def test_a_prompt_dreams_the_first_frame_and_stays() -> None:
    world = lasting(CAPTIONS)
    left, right = (rollout(text_env(world, caption)) for caption in CAPTIONS)
    again = rollout(text_env(world, CAPTIONS[0]))
    assert all(np.array_equal(a, b) for a, b in zip(left, again, strict=True))
    assert not np.array_equal(left[0], right[0])
    env = text_env(world, CAPTIONS[0])
    env.reset(seed=0)
    state = env.imagination._state
    assert state is not None
    assert torch.equal(state.text, embed(encoder_of(world.spec.text), CAPTIONS[:1]))
    with pytest.raises(ValueError, match="there are no contexts"):
        env.reset(options={"context": 0})


def test_a_prompt_unlike_all_captions_is_warned_of() -> None:
    world = lasting(CAPTIONS)
    with pytest.warns(UserWarning, match="no caption that this world learned from is like this"):
        text_env(world, "мяч падает влево")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text_env(world, CAPTIONS[0])


def test_prompt_frames_and_guidance_together() -> None:
    world = lasting(CAPTIONS)
    plain = rollout(text_env(world, CAPTIONS[0], initial_frames=frames(2)))
    guided = rollout(text_env(world, CAPTIONS[0], initial_frames=frames(2), guidance=3.0))
    unguided = rollout(text_env(world, CAPTIONS[0], initial_frames=frames(2), guidance=0.0))
    assert np.array_equal(plain[0], guided[0])  # given, not guided
    assert not np.array_equal(plain[-1], guided[-1])
    assert all(np.array_equal(a, b) for a, b in zip(plain, unguided, strict=True))


def test_rows_of_a_vector_env_reset_alone() -> None:
    world = lasting(CAPTIONS)
    venv = gym.make_vec(
        "StarFlowWorld-v0",
        num_envs=3,
        world=world,
        prompt=CAPTIONS[1],
        guidance=1.0,
        guidance_over="both",
        autoreset_mode="Disabled",
    )
    first, _ = venv.reset(seed=[1, 2, 1])
    assert np.array_equal(first[0], first[2]) and not np.array_equal(first[0], first[1])
    before, *_ = venv.step(np.array([0, 1, 2]))
    mask = np.array([False, True, False])
    after, _ = venv.reset(seed=[None, 2, None], options={"reset_mask": mask})
    assert np.array_equal(after[0], before[0]) and np.array_equal(after[2], before[2])
    assert np.array_equal(after[1], first[1])
    venv.step(np.array([0, 1, 2]))


def test_it_is_a_gymnasium_env_and_its_spec_is_json(tmp_path: Path) -> None:
    save_world(tiny_world(captions=CAPTIONS), tmp_path / "w", "card")
    env = gym.make("StarFlowWorld-v0", world=str(tmp_path / "w"), prompt=CAPTIONS[0], guidance=1.0)
    check_env(env.unwrapped, skip_render_check=True)
    assert CAPTIONS[0] in env.spec.to_json()  # type: ignore[union-attr]


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    world, knows = tiny_world(), tiny_world(captions=CAPTIONS)
    with pytest.raises(DataError, match="learned without captions"):
        StarFlowWorldEnv(world, prompt="ball")
    with pytest.raises(ConfigError, match="this world knows no text"):
        StarFlowWorldEnv(world, guidance=1.0)
    StarFlowWorldEnv(world, guidance=1.0, guidance_over="actions").reset()
    with pytest.raises(ConfigError, match="guidance=1 over text leads towards a prompt"):
        StarFlowWorldEnv(knows, guidance=1.0)
    StarFlowWorldEnv(knows, guidance=1.0, guidance_over="both")  # an env always has actions
    with pytest.raises(DataError, match="no words"):
        StarFlowWorldEnv(knows, prompt="")
    with pytest.raises(DataError, match="there is no such image"):
        StarFlowWorldEnv(world, initial_frames=tmp_path / "a.png")
    for bad in (frames(2)[:0], frames(2)[:, :32], frames(2).astype(np.float32), frames(1)[0]):
        with pytest.raises(DataError, match=r"this world needs \(K, 64, 64, 3\) uint8"):
            StarFlowWorldEnv(world, initial_frames=bad)
    with pytest.raises(ConfigError, match="not negative"):
        StarFlowWorldEnv(knows, guidance=-1.0)
    assert Guidance(0.0).active is False
