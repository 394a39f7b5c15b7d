"""Scores of real transitions: those of the clip, at the borders of episodes, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from worldflow.actions import ActionSpec
from worldflow.envs import (
    LikelihoodInfo,
    NoveltyReward,
    VectorLikelihoodInfo,
    VectorNoveltyReward,
    VectorNoveltyTruncation,
)
from worldflow.envs.sources import SourceConfig, make_source
from worldflow.envs.sources.catch import CatchEnv
from worldflow.envs.transition import SCORES
from worldflow.errors import ConfigError, DataError, WorldFormatError
from worldflow.randomness import generator_of
from worldflow.testing import tiny_world
from worldflow.text.encoder import embed, encoder_of
from worldflow.world_model import WorldModel

SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
ACTIONS = [0, 2, 1, 1, 0, 2, 2]  # an episode of Catch


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return tiny_world()


def play(env: gym.Env, seed: int | None) -> tuple[list[np.ndarray], list[dict]]:
    """One episode: its frames, and the infos from the first step on."""
    frame, info = env.reset(seed=seed)
    assert all(np.isnan(info[name]) for name in SCORES)
    frames, infos = [frame], []
    for action in ACTIONS:
        frame, _, terminated, _, info = env.step(action)
        frames.append(frame)
        infos.append(info)
    assert terminated
    return frames, infos


def scored(world: WorldModel, frames: list[np.ndarray], generator: torch.Generator) -> dict:
    scores = world.score(
        torch.from_numpy(np.stack(frames))[None], torch.tensor([[0, *ACTIONS]]), [generator]
    )
    return {name: getattr(scores, name)[0, 1:].numpy() for name in SCORES}


def noise(seed: int, row: int = 0) -> torch.Generator:
    return generator_of(np.random.SeedSequence([seed, row]))


def test_scores_are_those_of_the_episode(world: WorldModel) -> None:
    env, generator = LikelihoodInfo(CatchEnv(), world), noise(4)
    for seed in (4, None):  # the second episode knows nothing of the first, its noise goes on
        frames, infos = play(env, seed)
        for name, expected in scored(world, frames, generator).items():
            found = [info[name] for info in infos]
            assert all(isinstance(value, float) for value in found)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_same_seed_gives_the_same_bits(world: WorldModel) -> None:
    env = LikelihoodInfo(CatchEnv(), world)
    (_, first), (_, other), (_, again) = (play(env, seed) for seed in (4, 5, 4))
    assert first == again and first != other
    by_default = [play(LikelihoodInfo(CatchEnv(), world, seed=k), None)[1][0] for k in (0, 1)]
    assert by_default[0] != by_default[1]


def test_novelty_of_a_window(world: WorldModel) -> None:
    frames, infos = play(LikelihoodInfo(CatchEnv(), world, window=4), 4)
    scores = world.score(
        torch.from_numpy(np.stack(frames))[None], torch.tensor([[0, *ACTIONS]]), [noise(4)]
    )
    expected = world.calibration.require("seen").over(scores.statistics[:, 1:], 4)[0]
    found = [info["novelty"] for info in infos]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="window=3"):
        LikelihoodInfo(CatchEnv(), world, window=3)


def test_scores_under_a_prompt() -> None:
    world = tiny_world(captions=("left", "right"))
    _, plain = play(LikelihoodInfo(CatchEnv(), world), 4)
    frames, told = play(LikelihoodInfo(CatchEnv(), world, prompt="left"), 4)
    text = embed(encoder_of(world.spec.text), ["left"])
    expected = world.score(
        torch.from_numpy(np.stack(frames))[None],
        torch.tensor([[0, *ACTIONS]]),
        [noise(4)],
        text=text,
    ).log_likelihood[0, 1:]
    found = np.array([info["log_likelihood"] for info in told])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-3)
    assert (found != [info["log_likelihood"] for info in plain]).all()
    # all rows of a vector env
    envs = VectorLikelihoodInfo(catch_batch(DISABLED), world, prompt="left")
    first, _ = envs.reset(seed=[4, 9])
    second, _, _, _, infos = envs.step(np.array(ACTIONS[:1] * 2))
    expected = world.score(
        torch.from_numpy(np.stack([first, second], axis=1)),
        torch.tensor([[0, ACTIONS[0]]] * 2),
        [noise(4, 0), noise(9, 1)],
        text=text.expand(2, -1),
    ).log_likelihood[:, 1]
    np.testing.assert_allclose(infos["log_likelihood"], expected.numpy(), rtol=1e-4, atol=1e-3)
    with pytest.raises(DataError, match="learned without captions"):
        LikelihoodInfo(CatchEnv(), tiny_world(), prompt="left")


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*env.spec")
def test_check_env(world: WorldModel) -> None:
    check_env(NoveltyReward(LikelihoodInfo(CatchEnv(), world)), skip_render_check=True)


def catch_batch(mode: AutoresetMode, rows: int = 2) -> SyncVectorEnv:
    return SyncVectorEnv([CatchEnv for _ in range(rows)], autoreset_mode=mode)


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_a_vector_row_has_the_scores_of_the_single_env(
    world: WorldModel, mode: AutoresetMode
) -> None:
    envs = VectorLikelihoodInfo(catch_batch(mode), world, window=2)
    single = LikelihoodInfo(CatchEnv(), world, window=2)
    _, infos = envs.reset(seed=[4, 9])
    assert all(np.isnan(infos[name]).all() and infos[f"_{name}"].all() for name in SCORES)
    for episode in range(2):
        _, expected = play(single, 4 if episode == 0 else None)
        for step, action in enumerate(ACTIONS):
            *_, infos = envs.step(np.array([action, 1]))
            source, last = infos, step == len(ACTIONS) - 1
            if mode is SAME and last:
                assert all(np.isnan(infos[name]).all() for name in SCORES)
                source = infos["final_info"]
            for name in SCORES:
                assert source[f"_{name}"].all()
                assert source[name][0] == pytest.approx(expected[step][name], rel=1e-3, abs=1e-3)
        if mode is NEXT:  # the step that resets; its action is ignored, whatever it is
            *_, infos = envs.step(np.array([99, 99]))
            assert all(np.isnan(infos[name]).all() and infos[f"_{name}"].all() for name in SCORES)
        if mode is DISABLED:
            envs.reset(options={"reset_mask": np.array([True, True])})


@pytest.mark.parametrize("seed", [0, [0, None], [0, 7]])
def test_rows_are_reset_alone(world: WorldModel, seed: int | list[int | None]) -> None:
    twins = [VectorLikelihoodInfo(catch_batch(DISABLED), world, window=4) for _ in range(2)]
    for envs in twins:
        envs.reset(seed=0)
        for _ in range(3):
            envs.step(np.array([1, 1]))
    options = {"reset_mask": np.array([True, False])}
    _, infos = twins[0].reset(seed=seed, options=options)
    assert infos["_novelty"].tolist() == [True, False] and np.isnan(infos["novelty"][0])
    after, plain = (envs.step(np.array([1, 1]))[-1] for envs in twins)
    fresh = VectorLikelihoodInfo(catch_batch(DISABLED), world, window=4)
    fresh.reset(seed=0)
    first = fresh.step(np.array([1, 1]))[-1]
    for name in SCORES:
        assert after[name][1] == plain[name][1]
        assert after[name][0] == first[name][0] != plain[name][0]


def test_the_vector_wrappers_go_around_real_envs(world: WorldModel) -> None:
    for mode in (NEXT, SAME):
        envs = VectorNoveltyReward(VectorLikelihoodInfo(catch_batch(mode), world), limit=1e9)
        plain = catch_batch(mode)
        envs.reset(seed=0)
        plain.reset(seed=0)
        for step in range(16):
            _, rewards, *_, infos = envs.step(np.array([1, 1]))
            raw = plain.step(np.array([1, 1]))[1]
            source = infos.get("final_info", infos)
            bonus = 0.0 if mode is NEXT and step % 8 == 7 else 0.01 * source["novelty"]
            np.testing.assert_allclose(rewards, raw + bonus)
    cut = VectorNoveltyTruncation(
        VectorLikelihoodInfo(catch_batch(DISABLED), world), max_novelty=1e-6
    )
    cut.reset(seed=0)
    for _ in range(3):
        *_, terminated, truncated, infos = cut.step(np.array([1, 1]))
        assert truncated.all() and not terminated.any()
        assert np.isnan(infos["novelty"]).all() and (infos["final_info"]["novelty"] > 0).all()


@pytest.mark.parametrize("wrap", [LikelihoodInfo, VectorLikelihoodInfo])
def test_what_does_not_fit_is_refused(wrap: Callable, world: WorldModel) -> None:
    def env(make: Callable[[], gym.Env]) -> gym.Env | SyncVectorEnv:
        return make() if wrap is LikelihoodInfo else SyncVectorEnv([make])

    small = SourceConfig("worldflow/Catch-v0", frame_size=48)
    with pytest.raises(ConfigError, match="frame_size=64"):
        wrap(env(lambda: make_source(small)), world)
    with pytest.raises(ConfigError, match="actions"):
        wrap(env(CatchEnv), tiny_world(ActionSpec("discrete", n=5)))
    old = tiny_world()
    old.calibration = replace(old.calibration, seen=None)
    with pytest.raises(WorldFormatError, match=r"`seen` is missing.*worldflow calibrate"):
        wrap(env(CatchEnv), old)
    with pytest.raises(WorldFormatError, match="nowhere"):
        wrap(env(CatchEnv), "nowhere")


def test_a_prompt_unlike_all_captions_is_warned_of() -> None:
    world = tiny_world(captions=("the ball falls left",))
    with pytest.warns(UserWarning, match="no caption that this world learned from is like this"):
        LikelihoodInfo(CatchEnv(), world, prompt="мяч падает влево")
