"""Evaluation while learning: what is kept, when it ends, and that it changes nothing learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from worldflow.agents.algorithms import ALGORITHMS
from worldflow.agents.evaluation_config import EvaluationConfig, StopConfig
from worldflow.agents.evaluation_history import EVALUATIONS, EvaluationHistory
from worldflow.agents.evaluator import Evaluator
from worldflow.agents.saved import load_agent, load_weights
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.envs.sources import SourceConfig
from worldflow.errors import ConfigError
from worldflow.storage import save_world
from worldflow.testing import tiny_world
from worldflow.training.curves import read_scalars

Quick = Callable[..., TrainAgentConfig]


def weights(model: BaseAlgorithm) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.policy.state_dict().values()])


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / EVALUATIONS).read_text().splitlines()]


def script(monkeypatch: pytest.MonkeyPatch, returns: list[float], place: str = "real") -> None:
    """Evaluation k (after 16 * (k + 1) steps) gives return k of the list."""

    def scripted(evaluator: Evaluator, model: BaseAlgorithm) -> list[dict[str, Any]]:
        steps = model.num_timesteps
        row = {"steps": steps, "place": place, "mean": returns[steps // 16 - 1], "mean_length": 1.0}
        return [row]

    monkeypatch.setattr(Evaluator, "evaluate", scripted)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("observation", ["frames", "latents"])
def test_curves_in_dream_and_reality(
    quick: Quick, box_folder: Path, world_folder: Path, algorithm: str, observation: str
) -> None:
    world = box_folder if algorithm == "sac" else world_folder
    evaluation = EvaluationConfig(every=16, episodes=3, num_envs=2)
    config = quick(algorithm=algorithm, observation=observation, world=world, evaluation=evaluation)
    out = train_agent(config)
    found = rows(out)
    assert [(row["steps"], row["place"]) for row in found] == [
        (16, "dream"), (16, "real"), (32, "dream"), (32, "real"),
    ]  # fmt: skip
    for row in found:
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["env_steps"] == pytest.approx(3 * row["mean_length"])
        assert (row["policy_entropy"] is None) == (algorithm == "dqn")
        if algorithm == "sac":
            assert len(row["action_mean"]) == len(row["action_at_limits"]) == 1
        else:
            assert sum(row["action_frequencies"]) == pytest.approx(1.0)
    curves = read_scalars(out / "tensorboard")
    for place in ("dream", "real"):
        steps, values = curves[f"evaluation/{place}_return"]
        assert steps.tolist() == [16, 32]
        means = [row["mean"] for row in found if row["place"] == place]
        assert values.tolist() == pytest.approx(means)
    shown = {"evaluation/real_at_limit_0", "evaluation/dream_policy_entropy"}
    if algorithm != "sac":
        shown = {"evaluation/dream_action_2", "evaluation/real_action_entropy", "rollout/action_0"}
    assert shown <= set(curves)
    assert load_agent(out, "cpu")[1].kept_steps == 32


def test_what_is_learned_does_not_depend_on_evaluation(quick: Quick) -> None:
    for algorithm in ("ppo", "dqn"):
        judged = EvaluationConfig(every=16, episodes=2, deterministic=False)
        first = train_agent(quick(algorithm=algorithm, out=f"{algorithm}1", evaluation=judged))
        second = train_agent(quick(algorithm=algorithm, out=f"{algorithm}2"))
        assert len(rows(first)) == 4
        assert torch.equal(*(weights(load_agent(out, "cpu")[0]) for out in (first, second)))


@pytest.mark.parametrize(
    ("returns", "stop", "ends_after"),
    [
        ([1, 2, 3, 4], {"threshold": 3.0}, 3),
        ([1, 2, 2.9, 2.9], {"threshold": 3.0}, None),
        ([1, 3, 2, 2, 9], {"patience": 2}, 4),
        ([1, 3, 3, 3], {"patience": 2}, 4),  # as good is not better
        ([1, 3, 2, 4, 3], {"patience": 2}, None),
        ([1, 1.5, 1.9, 2.1, 2.2], {"patience": 2, "min_delta": 1.0}, 3),
        ([1, 1.5, 2.1, 2.2], {"patience": 2, "min_delta": 1.0}, None),
        ([-5, -6], {"patience": 1}, 2),
        ([5, 1, 7], {"patience": 3, "threshold": 7.0}, 3),
    ],
)
def test_when_a_training_ends(
    tmp_path: Path, returns: list[float], stop: dict[str, Any], ends_after: int | None
) -> None:
    history, config = EvaluationHistory(tmp_path, 0), StopConfig("dream", **stop)
    ended = None
    for number, mean in enumerate(returns, start=1):
        history.add({"steps": number, "place": "real", "mean": 100.0 * (number % 2)})
        history.add({"steps": number, "place": "dream", "mean": mean})
        assert history.stop_reason(StopConfig()) is None
        if history.stop_reason(config) is not None:
            ended = number
            break
    assert ended == ends_after


def test_an_early_stop_and_the_best_weights(
    quick: Quick, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script(monkeypatch, [1.0, 3.0, 2.0, 2.5, 9.0, 1.0])

    def config(patience: int) -> TrainAgentConfig:
        stop = StopConfig("real", patience=patience)
        return quick(96, evaluation=EvaluationConfig(every=16, episodes=1, keep="real", stop=stop))

    out = train_agent(config(2))
    assert "no better than 3.00 in 2 evaluations up to 64 steps" in capsys.readouterr().out
    model, card = load_agent(out, "cpu")
    assert (card.steps, card.kept_steps) == (64, 32)
    saved = {
        steps: weights(load_weights("ppo", out / "checkpoints" / f"{steps:012d}.zip", device="cpu"))
        for steps in (16, 32, 48, 64)
    }
    assert torch.equal(weights(model), saved[32])
    assert not torch.equal(weights(model), saved[64])
    assert [path.stem for path in (out / "best").iterdir()] == ["000000000032"]
    train_agent(config(2))  # it has ended
    assert load_agent(out, "cpu")[1].steps == 64
    train_agent(config(3))  # more patience than before
    assert load_agent(out, "cpu")[1].steps == 96
    assert load_agent(out, "cpu")[1].kept_steps == 80
    assert [path.stem for path in (out / "best").iterdir()] == ["000000000080"]


def test_the_best_of_what_a_kill_undid_is_forgotten(
    quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights, after 48 steps, are lost with a kill; those after 16 are still there."""
    config = quick(
        64, evaluation=EvaluationConfig(every=16, episodes=1, keep="real"), checkpoint_steps=32
    )
    script(monkeypatch, [5.0, 1.0, 9.0, 0.0])
    add = EvaluationHistory.add

    def killed(history: EvaluationHistory, row: dict[str, Any]) -> None:
        add(history, row)
        if row["steps"] == 48:
            raise KeyboardInterrupt

    monkeypatch.setattr(EvaluationHistory, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        train_agent(config)
    best = Path(config.out) / "best"
    assert {path.stem for path in best.iterdir()} == {"000000000016", "000000000048"}
    monkeypatch.setattr(EvaluationHistory, "add", add)
    script(monkeypatch, [5.0, 1.0, 2.0, 0.0])
    out = train_agent(config)
    assert [(row["steps"], row["mean"]) for row in rows(out)] == [
        (16, 5.0), (32, 1.0), (48, 2.0), (64, 0.0),
    ]  # fmt: skip
    assert load_agent(out, "cpu")[1].kept_steps == 16
    assert {path.stem for path in best.iterdir()} == {"000000000016"}


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    lines = [json.dumps({"steps": steps, "place": "real", "mean": 1.0}) for steps in (1, 2, 3)]
    (tmp_path / EVALUATIONS).write_text("\n".join(lines)[:-4])
    assert [row["steps"] for row in EvaluationHistory(tmp_path, 5).rows] == [1, 2]
    assert [row["steps"] for row in EvaluationHistory(tmp_path, 1).rows] == [1]
    assert [row["steps"] for row in EvaluationHistory(tmp_path, 5).rows] == [1]


def test_reality_where_it_can_be_made(
    quick: Quick, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = tiny_world()
    world.spec.source["env_id"] = "nowhere/Game-v0"
    save_world(world, tmp_path / "lost", "of a game that is not installed\n")
    brief: dict[str, Any] = {"every": 32, "episodes": 1}
    config = quick(16, world=tmp_path / "lost", evaluation=EvaluationConfig(**brief))
    out = train_agent(config)
    assert "no evaluation in the real environment" in capsys.readouterr().out
    assert [row["place"] for row in rows(out)] == ["dream"]
    for changes, message in (
        ({"real": True}, "nowhere/Game-v0"),
        ({"keep": "real"}, "returns of: real"),
        ({"stop": StopConfig("real", threshold=1.0)}, "returns of: real"),
    ):
        config.evaluation, config.out = EvaluationConfig(**brief | changes), str(tmp_path / "no")
        with pytest.raises(ConfigError, match=message):
            train_agent(config)
        assert not Path(config.out).exists()
    world.spec.source.clear()
    save_world(world, tmp_path / "video", "of video\n")
    judged = EvaluationConfig(**brief, real=True)
    config = quick(16, world=tmp_path / "video", out="no", evaluation=judged)
    with pytest.raises(ConfigError, match="learned from none"):
        train_agent(config)
    source = SourceConfig("worldflow/Catch-v0")
    judged = EvaluationConfig(**brief, dream=True)
    config = quick(world=None, out="no", source=source, evaluation=judged)
    with pytest.raises(ConfigError, match="needs a world"):
        train_agent(config)


@pytest.mark.parametrize(
    ("schema", "settings", "message"),
    [
        (EvaluationConfig, {"every": -1}, r"evaluation\.every"),
        (EvaluationConfig, {"episodes": 0}, r"evaluation\.episodes"),
        (EvaluationConfig, {"keep": "first"}, "use last, dream or real"),
        (EvaluationConfig, {"keep": "real", "every": 0}, "need evaluations"),
        (EvaluationConfig, {"keep": "dream", "dream": False}, "need evaluations"),
        (StopConfig, {"by": "real"}, "needs `by` and one"),
        (StopConfig, {"patience": 2}, "needs `by` and one"),
        (StopConfig, {"by": "sleep", "patience": 2}, "'sleep'"),
        (StopConfig, {"by": "real", "patience": 0}, "patience is 0"),
        (StopConfig, {"by": "real", "patience": 1, "min_delta": -1.0}, "min_delta"),
    ],
)
def test_bad_settings(schema: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schema(**settings)
