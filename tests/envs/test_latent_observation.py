"""Real environments seen through a world's encoder."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldflow.envs.latent_observation import LatentObservation
from worldflow.envs.sources import SourceConfig, make_source
from worldflow.envs.sources.catch import CatchEnv
from worldflow.errors import ConfigError, WorldFormatError
from worldflow.storage import save_world
from worldflow.testing import tiny_world

pytestmark = pytest.mark.filterwarnings("error")


def test_observations_are_the_encoders_own() -> None:
    world = tiny_world()
    plain, seen = CatchEnv(), LatentObservation(CatchEnv(), world)
    assert seen.observation_space == gym.spaces.Box(-np.inf, np.inf, (16, 2), np.float32)
    assert seen.action_space == plain.action_space
    frame, latents = plain.reset(seed=3)[0], seen.reset(seed=3)[0]
    ended, steps = False, 0
    while True:
        assert latents in seen.observation_space
        assert np.array_equal(latents, world.codec.encode_frames(torch.from_numpy(frame)).numpy())
        if ended:
            break
        frame, *expected = plain.step(np.int64(1))
        latents, *found = seen.step(np.int64(1))
        assert found == expected
        ended, steps = found[1], steps + 1
    assert steps == 7


def test_a_world_by_its_folder(tmp_path: Path) -> None:
    save_world(tiny_world(), tmp_path / "tiny", "a tiny world\n")
    a, b = (LatentObservation(CatchEnv(), w) for w in (str(tmp_path / "tiny"), tiny_world()))
    assert np.array_equal(a.reset(seed=0)[0], b.reset(seed=0)[0])
    with pytest.raises(WorldFormatError, match="nowhere"):
        LatentObservation(CatchEnv(), str(tmp_path / "nowhere"))


class ReadOnly(gym.ObservationWrapper):
    """Frames upside down that nobody may write to: a view with a negative stride."""

    def observation(self, observation: np.ndarray) -> np.ndarray:
        observation.flags.writeable = False
        return observation[::-1]


def test_frames_that_torch_does_not_take_as_they_are() -> None:
    world = tiny_world()
    frame, _ = CatchEnv().reset(seed=0)
    latents, _ = LatentObservation(ReadOnly(CatchEnv()), world).reset(seed=0)
    upside_down = torch.from_numpy(frame[::-1].copy())
    assert np.array_equal(latents, world.codec.encode_frames(upside_down).numpy())


def test_other_observations_are_refused() -> None:
    small = make_source(SourceConfig("worldflow/Catch-v0", frame_size=48))
    world = tiny_world()
    for env in (small, gym.make("CartPole-v1"), LatentObservation(CatchEnv(), world)):
        with pytest.raises(ConfigError, match=r"\(64, 64, 3\) uint8.*frame_size=64"):
            LatentObservation(env, world)


def test_denoised_latents_are_made_as_a_dreams_are() -> None:
    """The denoiser's own on the whole episode, under the noise of the reset's seed."""
    world = tiny_world()
    plain, seen = CatchEnv(), LatentObservation(CatchEnv(), world, denoised=True)
    frames, latents = [plain.reset(seed=3)[0]], [seen.reset(seed=3)[0]]
    for action in (0, 2, 1, 1):
        frames.append(plain.step(np.int64(action))[0])
        latents.append(seen.step(np.int64(action))[0])
    generator, sigma = torch.Generator().manual_seed(3), world.config.sigma
    with torch.no_grad():
        encoded = world.codec.encode_frames(torch.from_numpy(np.stack(frames)))
        noise = [torch.randn(encoded.shape[1:], generator=generator) for _ in frames]
        noisy = (encoded + sigma * torch.stack(noise))[None]
        score, _ = world.denoiser(noisy, world.conditioning(torch.tensor([[0, 0, 2, 1, 1]])))
        expected = (noisy - sigma * score)[0].numpy()
    np.testing.assert_allclose(np.stack(latents), expected, atol=1e-5)
    assert np.abs(expected - encoded.numpy()).max() > 0.01
    assert np.array_equal(seen.reset(seed=3)[0], latents[0])
    assert not np.array_equal(seen.reset(seed=4)[0], latents[0])
    with pytest.raises(ConfigError, match="action"):
        LatentObservation(
            gym.wrappers.TransformAction(CatchEnv(), lambda a: a, gym.spaces.Discrete(5)),
            world,
            denoised=True,
        )
