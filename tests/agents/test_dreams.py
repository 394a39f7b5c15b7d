"""Dreams that trust the world less or more: what the learner is shown, and who is judged where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecNormalize

from worldflow.agents import places as places_module
from worldflow.agents.algorithms import AgentConfig
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.evaluation_config import EvaluationConfig
from worldflow.agents.evaluator import Evaluator
from worldflow.agents.places import Places
from worldflow.agents.rewards import RewardConfig
from worldflow.agents.saved import AgentCard
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.calibration import UNCALIBRATED
from worldflow.cli import main as command_line
from worldflow.envs import VectorNoveltyReward, VectorPessimisticReward
from worldflow.envs.imagination import Imagination
from worldflow.envs.sources import SourceConfig
from worldflow.envs.starts import Start
from worldflow.envs.vector import StarFlowWorldVectorEnv
from worldflow.errors import ConfigError, DataError, WorldFormatError
from worldflow.flow.guidance import Guidance
from worldflow.storage import save_world
from worldflow.testing import tiny_world
from worldflow.training.curves import read_scalars
from worldflow.world_model import WorldModel

Quick = Callable[..., TrainAgentConfig]
STEPS = 12
SAME = AutoresetMode.SAME_STEP


def place(world: WorldModel, **dream: Any) -> Places:
    return Places(world, DreamConfig(horizon=5, **dream), None, False, world.action_spec)


def learned(world: WorldModel, reward: RewardConfig | None = None, **dream: Any) -> dict[str, Any]:
    """What a learner in this dream is shown in some steps, and the returns that are reported."""
    agent = AgentConfig(num_envs=2, reward=reward or RewardConfig())
    venv = place(world, **dream).training_env(agent)
    venv.seed(3)
    venv.reset()
    shown: dict[str, list[Any]] = {"rewards": [], "shaping": [], "returns": [], "truncated": []}
    for k in range(STEPS):
        _, rewards, dones, infos = venv.step(np.array([k % 3, 1]))
        shown["rewards"].append(rewards)
        shown["shaping"].append([info.get("shaping") for info in infos])
        shown["returns"] += [info["episode"]["r"] for info in infos if "episode" in info]
        shown["truncated"].append(dones & [info["TimeLimit.truncated"] for info in infos])
    return shown


def wrapped(env: VectorEnv) -> np.ndarray:
    """Rewards of the same steps, of a Gymnasium vector env."""
    env.reset(seed=[3, 4])
    return np.stack([env.step(np.array([k % 3, 1]))[1] for k in range(STEPS)])


@pytest.mark.parametrize("window", [1, 4])
def test_learners_are_shown_what_the_wrappers_show(
    scripted_world: Callable[..., WorldModel], window: int
) -> None:
    world = scripted_world(4)

    def env() -> StarFlowWorldVectorEnv:
        return StarFlowWorldVectorEnv(2, world, 5, novelty_window=window, autoreset_mode=SAME)

    plain = learned(world)
    bonus = learned(world, bonus=0.5, novelty_window=window)
    penalty = learned(world, pessimism=0.2, novelty_window=window)
    np.testing.assert_allclose(plain["rewards"], wrapped(env()), rtol=1e-6)
    np.testing.assert_allclose(
        bonus["rewards"], wrapped(VectorNoveltyReward(env(), 0.5)), rtol=1e-6
    )
    np.testing.assert_allclose(
        penalty["rewards"], wrapped(VectorPessimisticReward(env(), 0.2)), rtol=1e-6
    )
    assert (np.array(bonus["rewards"]) > np.array(plain["rewards"])).any()
    assert (np.array(penalty["rewards"]) < np.array(plain["rewards"])).any()
    change = np.array(bonus["rewards"]) - np.array(plain["rewards"])
    np.testing.assert_allclose(bonus["shaping"], change, atol=1e-6)
    # returns are the environment's own: rewards 1 to 4
    assert plain["returns"] == bonus["returns"] == penalty["returns"] == [10.0] * 6


def test_shaped_rewards_are_scaled_as_others(scripted_world: Callable[..., WorldModel]) -> None:
    world = scripted_world(4)
    plain = learned(world, bonus=0.5)
    scaled = learned(world, RewardConfig(scale=3.0), bonus=0.5)
    np.testing.assert_allclose(scaled["rewards"], 3.0 * np.array(plain["rewards"]), rtol=1e-6)
    agent = AgentConfig(num_envs=2, reward=RewardConfig(normalize=True))
    assert isinstance(place(world, bonus=0.5).training_env(agent), VecNormalize)


def test_dreams_are_cut_for_learners_and_not_for_judges(
    scripted_world: Callable[..., WorldModel],
) -> None:
    world = scripted_world()
    strict = learned(world, max_novelty=1e-6)
    assert sum(np.sum(cut) for cut in strict["truncated"]) > sum(
        np.sum(cut) for cut in learned(world)["truncated"]
    )
    imagination = place(world, max_novelty=1e-6, novelty_window=4).imagination(2, "frames")
    assert imagination.max_novelty is None and imagination.horizon == 5


def test_judged_by_plain_rewards(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network has the same dreamed return, whatever it is shown while it learns."""
    evaluation = EvaluationConfig(every=16, episodes=3, real=False)
    found: list[list[dict[str, Any]]] = []
    original = Evaluator.evaluate

    def keep(evaluator: Evaluator, model: Any) -> list[dict[str, Any]]:
        found.append(original(evaluator, model))
        return found[-1]

    monkeypatch.setattr(Evaluator, "evaluate", keep)
    # a rate so small that no weight moves: all three networks stay as they were made
    still = {"learning_rate": 1e-30}
    for number, dream in enumerate(({}, {"bonus": 5.0}, {"pessimism": 5.0, "max_novelty": 2.0})):
        train_agent(quick(16, out=f"a{number}", dream=dream, evaluation=evaluation,
                          hyperparameters=still))  # fmt: skip
    assert found[0] == found[1] == found[2]


def test_recorded_and_logged(quick: Quick) -> None:
    config = quick(16, dream={"bonus": 0.5, "novelty_window": 2, "max_novelty": 40.0})
    out = train_agent(config)
    assert AgentCard.load(out).world == config.world
    _, values = read_scalars(out / "tensorboard")["dream/shaping"]
    assert values[0] > 0.0
    with pytest.raises(ConfigError, match=r"begun with world\.bonus=0\.5, not 0\.1"):
        train_agent(quick(32, dream={"bonus": 0.1, "novelty_window": 2, "max_novelty": 40.0}))


@pytest.mark.parametrize(
    ("dream", "message"),
    [
        ({"novelty_window": 0}, r"world\.novelty_window=0"),
        ({"max_novelty": 0.0}, r"world\.max_novelty=0\.0"),
        ({"pessimism": -1.0}, r"world\.pessimism=-1\.0"),
        ({"bonus": float("nan")}, r"world\.bonus=nan"),
        ({"bonus": 1.0, "pessimism": 1.0}, "set one of them"),
    ],
)
def test_settings_out_of_range(dream: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DreamConfig(**dream)


def test_refused_where_they_change_nothing(quick: Quick, side: Callable[..., Any]) -> None:
    source: SourceConfig = side(False)
    for changes in ({"real": True}, {"source": source}):
        with pytest.raises(ConfigError, match="learns in a real environment"):
            train_agent(quick(dream={"bonus": 1.0}, **changes))
        with pytest.raises(ConfigError, match="learns in a real environment"):
            train_agent(quick(dream={"expected_ends": 1.0}, **changes))


def test_windows_and_calibration(
    quick: Quick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    config = quick(dream={"novelty_window": 3, "bonus": 1.0})
    assert config.world.path is not None
    arguments = [f"world={config.world.path}", "world.novelty_window=3", f"out={tmp_path / 'x'}"]
    assert command_line(["train-agent", *arguments]) == 2
    assert "windows of [1, 2, 4" in capsys.readouterr().err
    load = places_module.open_world

    def uncalibrated(path: str, device: str) -> WorldModel:
        world = load(path, device)
        world.complete(UNCALIBRATED, world.context)
        return world

    monkeypatch.setattr(places_module, "open_world", uncalibrated)
    for dream in ({"bonus": 1.0}, {"pessimism": 1.0}, {"max_novelty": 3.0}):
        with pytest.raises(WorldFormatError, match="calibration field `dreamed` is missing"):
            train_agent(quick(dream=dream))


def test_agents_learn_and_are_judged_in_dreams_of_a_prompt(
    quick: Quick,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "told"
    save_world(tiny_world(captions=("the ball falls left", "right, [then] left")), folder, "told\n")
    starts: list[Start] = []

    class Watched(Imagination):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            starts.append(kwargs.get("start") or args[-1])

    monkeypatch.setattr(places_module, "Imagination", Watched)
    judged = EvaluationConfig(every=16, episodes=1, num_envs=1, real=False)
    out = train_agent(
        quick(
            world=folder, dream={"prompt": "right, [then] left", "guidance": 1.0}, evaluation=judged
        )
    )
    wanted = Start(prompt="right, [then] left", guidance=Guidance(1.0))
    assert starts == [wanted, wanted]  # where it learns, and where it is judged
    assert AgentCard.load(out).world.prompt == "right, [then] left"
    play = ["evaluate-agent", f"agent={out}", "episodes=1", "real=false", "progress=false"]
    assert command_line(play) == 0
    assert command_line([*play, "world.prompt=the ball, falls", "world.guidance=0"]) == 0
    assert starts[2:] == [wanted, Start(prompt="the ball, falls")]
    assert command_line([*play, "world.guidance=-1"]) == 2
    assert "world.guidance=-1" in capsys.readouterr().err


def test_prompts_need_a_world_that_can_be_told() -> None:
    world = tiny_world()
    with pytest.raises(DataError, match="without captions"):
        place(world, prompt="the ball").training_env(AgentConfig(num_envs=2))
    with pytest.raises(ConfigError, match="knows no text"):
        place(world, guidance=1.0).training_env(AgentConfig(num_envs=2))
    told = tiny_world(captions=("the ball falls left", "the ball falls right"))
    with pytest.raises(ConfigError, match="leads towards a prompt"):
        place(told, guidance=1.0).training_env(AgentConfig(num_envs=2))
    for led in ({"prompt": "the ball"}, {"guidance": 1.0}):
        with pytest.raises(ConfigError, match="no world to dream"):
            Places.of(DreamConfig(**led), SourceConfig("worldflow/Catch-v0"), False)
