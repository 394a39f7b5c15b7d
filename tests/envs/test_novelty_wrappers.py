"""Bonus, penalty and limit: known answers on scripted novelty, single and vector."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from scripted_novelty import ScriptedNovelty, scripted_batch

from worldflow.envs import (
    NoveltyReward,
    NoveltyTruncation,
    PessimisticReward,
    VectorNoveltyReward,
    VectorNoveltyTruncation,
    VectorPessimisticReward,
)
from worldflow.errors import ConfigError, WorldFormatError
from worldflow.testing import tiny_world
from worldflow.world_model import WorldModel

SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
NAN = float("nan")
Wrap = Callable[[gym.Env], gym.Env]


def rewards(env: gym.Env, steps: int) -> list[float]:
    env.reset(seed=0)
    return [env.step(0)[1] for _ in range(steps)]


def test_rewards_have_their_formulas() -> None:
    script = [0.0, 2.0, 30.0]
    bonus = NoveltyReward(ScriptedNovelty(script), scale=0.5, limit=10.0)
    assert rewards(bonus, 3) == [1.0, 2.0 + 0.5 * 2.0, 3.0 + 0.5 * 10.0]
    penalty = PessimisticReward(ScriptedNovelty(script), scale=0.5)
    assert rewards(penalty, 3) == [1.0, 2.0 - 0.5 * 2.0, 3.0 - 0.5 * 30.0]
    nats = PessimisticReward(ScriptedNovelty(script), 0.5, score="uncertainty", limit=100.0)
    assert rewards(nats, 3) == [1.0, 2.0 - 0.5 * 20.0, 3.0 - 0.5 * 100.0]


@pytest.mark.parametrize(
    ("limits", "lengths"),
    [
        ({"max_novelty": 2.0}, [2, 2]),
        ({"max_novelty": 3.0}, [4, 4]),  # at the limit is not beyond it
        ({"max_novelty": 2.0, "consecutive": 2}, [4, 4]),  # terminates there
        ({"p_value": 0.01}, [2, 2]),  # novelty 2.576
        ({"p_value": 0.001}, [4, 4]),  # novelty 3.29
        ({"max_novelty": 0.5, "consecutive": 3}, [3, 3]),
    ],
)
def test_truncation(limits: dict[str, float], lengths: list[int]) -> None:
    env = NoveltyTruncation(ScriptedNovelty([1.0, 3.0, 1.0, 3.0]), **limits)  # type: ignore[arg-type]
    found = []
    for _ in lengths:  # the count starts anew with each episode
        env.reset()
        steps, ended = 0, False
        while not ended:
            _, _, terminated, truncated, _ = env.step(0)
            steps, ended = steps + 1, terminated or truncated
            assert isinstance(truncated, bool) and not (terminated and truncated)
        found.append(steps)
        assert truncated == (steps < 4)
    assert found == lengths


def test_a_count_does_not_cross_the_border_of_an_episode() -> None:
    env = NoveltyTruncation(ScriptedNovelty([9.0, 9.0, 9.0]), max_novelty=1, consecutive=2)
    for _ in range(3):
        env.reset()
        assert not env.step(0)[3]  # one step beyond, and then a reset
    for _ in range(2):
        env.reset()
        assert [env.step(0)[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: NoveltyReward(env),
        lambda env: PessimisticReward(env),
        lambda env: NoveltyTruncation(env, max_novelty=1.0),
    ],
)
def test_missing_and_undefined_scores_are_errors(wrap: Wrap) -> None:
    bare = wrap(ScriptedNovelty([1.0], keys=()))
    bare.reset()
    with pytest.raises(ConfigError, match=r"no 'novelty'.*LikelihoodInfo\(real_env, world\)"):
        bare.step(0)
    undefined = wrap(ScriptedNovelty([NAN]))
    undefined.reset()
    with pytest.raises(ConfigError, match=r"NaN.*worldflow calibrate"):
        undefined.step(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: NoveltyReward(env, scale=0.0), "scale"),
        (lambda env: NoveltyReward(env, limit=-1.0), "limit"),
        (lambda env: PessimisticReward(env, scale=NAN), "scale"),
        (lambda env: PessimisticReward(env, score="surprise"), "surprise.*log_likelihood"),
        (lambda env: NoveltyTruncation(env), "one limit"),
        (lambda env: NoveltyTruncation(env, 1.0, 0.5), "one limit"),
        (lambda env: NoveltyTruncation(env, p_value=2.0), "p_value"),
        (lambda env: NoveltyTruncation(env, max_novelty=-1.0), "max_novelty"),
        (lambda env: NoveltyTruncation(env, 1.0, consecutive=0), "consecutive"),
    ],
)
def test_bad_arguments_are_named(make: Wrap, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(ScriptedNovelty([1.0]))


def wrapped_dream(world: WorldModel, p_value: float) -> gym.Env:
    env = gym.make("StarFlowWorld-v0", world=world, horizon=5)
    env = NoveltyTruncation(NoveltyReward(env), p_value=p_value)
    return PessimisticReward(env, score="uncertainty")


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_check_env_and_determinism(scripted_world: Callable[..., WorldModel]) -> None:
    check_env(wrapped_dream(scripted_world(), 1e-9), skip_render_check=True)
    runs = []
    for _ in range(2):
        env = wrapped_dream(scripted_world(), 1e-9)
        env.reset(seed=3)
        runs.append([env.step(k % 3)[1:4] for k in range(4)])
    assert runs[0] == runs[1]


def test_a_world_without_p_values_is_refused() -> None:
    world = tiny_world()
    world.calibration = replace(world.calibration, dreamed=None)
    for make, wrap in (
        (gym.make, lambda env: NoveltyTruncation(env, p_value=0.01)),
        (gym.make, NoveltyReward),
        (gym.make, PessimisticReward),
        (batch_of(1), lambda env: VectorNoveltyTruncation(env, p_value=0.01)),
        (batch_of(1), VectorNoveltyReward),
        (batch_of(1), VectorPessimisticReward),
    ):
        with pytest.raises(WorldFormatError, match=r"`dreamed`.*worldflow calibrate"):
            wrap(make("StarFlowWorld-v0", world=world))
    PessimisticReward(gym.make("StarFlowWorld-v0", world=world), score="uncertainty")


def test_a_real_env_may_have_a_world_of_its_own() -> None:
    env = gym.make("worldflow/Catch-v0")
    env.unwrapped.world = object()  # type: ignore[attr-defined]  # as Box2D's envs have
    NoveltyReward(env)


def batch_of(rows: int) -> Callable[..., gym.vector.VectorEnv]:
    return lambda name, **kwargs: gym.make_vec(
        name, num_envs=rows, autoreset_mode=DISABLED, **kwargs
    )


def test_specs_name_the_wrappers() -> None:
    env = NoveltyTruncation(gym.make("worldflow/Catch-v0"), max_novelty=3.0)
    assert env.spec is not None
    saved = json.loads(env.spec.to_json())["additional_wrappers"][-1]
    assert saved["kwargs"]["max_novelty"] == 3.0 and saved["name"] == "NoveltyTruncation"


# Rows of two and three steps, novelty 1, 2, 3; `+` is a bonus of half the novelty.
@pytest.mark.parametrize(
    ("mode", "table"),
    [
        (NEXT, [[1.5, 1.5], [3.0, 3.0], [0.0, 4.5], [1.5, 0.0], [3.0, 1.5]]),
        (SAME, [[1.5, 1.5], [3.0, 3.0], [1.5, 4.5], [3.0, 1.5], [1.5, 3.0]]),
    ],
)
def test_vector_rewards_by_autoreset_mode(mode: AutoresetMode, table: list[list[float]]) -> None:
    bonus = VectorNoveltyReward(scripted_batch(mode, [1, 2], [1, 2, 3]), scale=0.5)
    fine = VectorPessimisticReward(
        scripted_batch(mode, [1, 2], [1, 2, 3]), 0.05, score="uncertainty"
    )
    bonus.reset(seed=0)
    fine.reset(seed=0)
    plain = scripted_batch(mode, [1, 2], [1, 2, 3])
    plain.reset(seed=0)
    for expected in table:
        raw = plain.step(np.zeros(2, int))[1].copy()
        got = bonus.step(np.zeros(2, int))[1]
        assert got.tolist() == expected
        np.testing.assert_allclose(fine.step(np.zeros(2, int))[1], raw - (got - raw))


def test_vector_rewards_in_disabled_mode() -> None:
    envs = VectorNoveltyReward(scripted_batch(DISABLED, [1, 2], [4, 4, 4]), scale=1.0, limit=3.0)
    envs.reset(seed=0)
    assert envs.step(np.zeros(2, int))[1].tolist() == [2.0, 4.0]
    assert envs.step(np.zeros(2, int))[1].tolist() == [4.0, 5.0]
    envs.reset(options={"reset_mask": np.array([True, False])})
    assert envs.step(np.zeros(2, int))[1].tolist() == [2.0, 6.0]


def test_vector_truncation_resets_what_it_truncates() -> None:
    inner = scripted_batch(DISABLED, [1, 9, 1, 1], [1, 1])
    envs = VectorNoveltyTruncation(inner, max_novelty=5.0)
    assert envs.metadata["autoreset_mode"] is SAME and inner.metadata["autoreset_mode"] is DISABLED
    envs.reset(seed=0)
    observed, _, terminated, truncated, infos = envs.step(np.zeros(2, int))
    assert observed.ravel().tolist() == [1, 1] and not terminated.any() and not truncated.any()
    assert "final_obs" not in infos
    for episode in (1, 2):  # row 0 leaves the world in its second step, row 1 terminates there
        observed, rewarded, terminated, truncated, infos = envs.step(np.zeros(2, int))
        assert observed.ravel().tolist() == [100 * episode] * 2  # the observations of the reset
        assert rewarded.tolist() == [2, 2]
        assert terminated.tolist() == [False, True] and truncated.tolist() == [True, False]
        last = 100 * (episode - 1) + 2
        assert [o.tolist() for o in infos["final_obs"]] == [[last], [last]]
        assert infos["final_info"]["novelty"].tolist() == [9, 1]
        assert infos["_final_info"].tolist() == infos["final_info"]["_novelty"].tolist() == [1, 1]
        assert np.isnan(infos["novelty"]).all() and infos["_novelty"].all()
        observed, _, terminated, truncated, _ = envs.step(np.zeros(2, int))
        assert observed.ravel().tolist() == [100 * episode + 1] * 2
        assert not terminated.any() and not truncated.any()


def test_vector_truncation_leaves_the_other_rows_alone() -> None:
    envs = VectorNoveltyTruncation(
        scripted_batch(DISABLED, [9, 9, 9, 9], [1, 9, 9, 1, 1, 1]), max_novelty=5.0, consecutive=2
    )
    envs.reset(seed=0)
    seen, cut = [], []
    for _ in range(5):
        observed, _, _, truncated, infos = envs.step(np.zeros(2, int))
        seen.append(observed.ravel().tolist())
        cut.append(truncated.tolist())
        if truncated[0] and not truncated[1]:
            assert infos["_final_info"].tolist() == [True, False]
            assert infos["final_info"]["_novelty"].tolist() == [True, False]
            assert infos["final_obs"][1] is None
            assert np.isnan(infos["novelty"][0])
            assert infos["novelty"][1] == (9 if len(cut) == 2 else 1)
    assert cut == [[0, 0], [1, 0], [0, 1], [1, 0], [0, 0]]
    assert seen == [[1, 1], [100, 2], [101, 100], [200, 101], [201, 102]]


def test_vector_truncation_needs_an_env_that_lets_itself_be_reset() -> None:
    for mode in (NEXT, SAME):
        with pytest.raises(ConfigError, match="DISABLED"):
            VectorNoveltyTruncation(scripted_batch(mode, [1]), max_novelty=1.0)
    envs = scripted_batch(NEXT, [1])
    del envs.metadata["autoreset_mode"]
    with pytest.raises(ConfigError, match="autoreset_mode"):
        VectorNoveltyReward(envs)


def test_vector_missing_and_undefined_scores_are_errors() -> None:
    for script, keys, message in (
        ([1.0], (), r"no 'novelty'.*VectorLikelihoodInfo"),
        ([NAN, 1.0], ("novelty",), "NaN.*worldflow calibrate"),
    ):
        envs = VectorNoveltyReward(scripted_batch(NEXT, script, keys=keys))
        envs.reset(seed=0)
        with pytest.raises(ConfigError, match=message):
            envs.step(np.zeros(1, int))


def test_a_batch_of_one_dream_is_the_single_one() -> None:
    world = tiny_world()
    single = NoveltyTruncation(
        NoveltyReward(gym.make("StarFlowWorld-v0", world=world, horizon=6), 1.0), p_value=0.4
    )
    batch = VectorNoveltyTruncation(
        VectorNoveltyReward(batch_of(1)("StarFlowWorld-v0", world=world, horizon=6), 1.0),
        p_value=0.4,
    )
    single.reset(seed=5)
    batch.reset(seed=5)
    ends = 0
    for k in range(12):
        frame, reward, terminated, truncated, info = single.step(k % 3)
        frames, got, terminations, truncations, infos = batch.step(np.array([k % 3]))
        assert (reward, terminated, truncated) == (got[0], terminations[0], truncations[0])
        if terminated or truncated:
            ends += 1
            assert np.array_equal(infos["final_obs"][0], frame)
            assert infos["final_info"]["novelty"][0] == info["novelty"]
            frame, _ = single.reset()
        assert np.array_equal(frames[0], frame)
    assert ends and math.isfinite(reward)
