"""`worldflow evaluate`, beside the real game: agents in both, and one page of everything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.agents.compare import (
    CompareConfig,
    StickyPolicy,
    candidates,
    compare,
    comparison_figures,
    horizon_within,
)
from worldflow.agents.evaluate_world import EvaluateWorldConfig, main, why_not
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.data.episodes import EpisodeDataset
from worldflow.envs.collect import CollectConfig, collect
from worldflow.envs.decisions import DecisionsConfig
from worldflow.envs.sources import SourceConfig
from worldflow.errors import ConfigError
from worldflow.evaluation.evaluate import DreamedWorld
from worldflow.held_out import RealData
from worldflow.storage import load_world, save_world
from worldflow.testing import tiny_world

Quick = Callable[..., TrainAgentConfig]


@pytest.fixture
def data(tmp_path: Path) -> EpisodeDataset:
    source = SourceConfig("worldflow/Catch-v0")
    return collect(CollectConfig(source, steps=40, out=str(tmp_path / "data"), progress=False))


def settings(world: str, data: EpisodeDataset, out: Path) -> EvaluateWorldConfig:
    return EvaluateWorldConfig(
        world=DreamedWorld(world),
        data=RealData(str(data.folder), unseen=True),
        out=str(out),
        clips=3,
        samples=1,
        strips=1,
        progress=False,
        decisions=DecisionsConfig(starts=2, horizon=4, real=2, dreams=5),
        compare=CompareConfig(episodes=3, num_envs=2, horizon=4),
    )


def test_one_page_of_everything(
    quick: Quick, data: EpisodeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = train_agent(quick(16))
    world = quick(16).world.path
    config = settings(world, data, tmp_path / "out")
    config.compare.agents = [str(agent)]
    main(config)
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    game = figures["game"]
    assert game["decisions"]["by_return"]["decided"] == 2
    assert game["decisions"]["by_return"]["ceiling"]["decided"] >= 0
    assert len(game["decisions"]["real_returns"][0]) == 5
    named = [agent["name"] for agent in game["compare"]["agents"]]
    assert named[:4] == ["random", "sticky 0.5", "sticky 0.9", "sticky 1"]
    assert any(name.endswith("16 steps") for name in named)
    assert all(agent["real"]["count"] == 3 for agent in game["compare"]["agents"])
    page = (tmp_path / "out" / "report.html").read_text()
    for title in ("What actions do", "Decisions", "Agents in dream and reality"):
        assert f"<h2>{title}</h2>" in page
    assert "decisions, Spearman" in capsys.readouterr().out

    main(replace(config, real=False))
    assert "game" not in json.loads((tmp_path / "out" / "evaluation.json").read_text())


def test_a_world_without_a_game_says_so(data: EpisodeDataset, tmp_path: Path) -> None:
    world = tiny_world()
    world.spec = replace(world.spec, source={})
    save_world(world, tmp_path / "world", "card")
    main(settings(str(tmp_path / "world"), data, tmp_path / "out"))
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "no environment" in figures["game"]["reason"]
    assert "no environment" in (tmp_path / "out" / "report.html").read_text()
    assert why_not(load_world(tmp_path / "world")) == figures["game"]["reason"]


def test_how_returns_go_together() -> None:
    rng = np.random.default_rng(0)
    skill = {"bad": 0.0, "middling": 1.0, "good": 2.0, "best": 5.0}
    returns = {
        name: (3 * s + 1 + rng.normal(0, 0.1, 50), s + rng.normal(0, 0.1, 50))
        for name, s in skill.items()
    }
    found = comparison_figures(returns)
    assert found["pearson"]["mean"] == pytest.approx(1.0, abs=0.01)
    assert found["spearman"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 50}
    assert found["agents"][3]["dream"]["mean"] == pytest.approx(16.0, abs=0.1)
    inverted = comparison_figures({name: (-d, r) for name, (d, r) in returns.items()})
    assert inverted["spearman"]["mean"] == -1.0
    assert comparison_figures(dict(list(returns.items())[:2]))["pearson"] is None


def test_sticky_policies_hold_their_action_through_an_episode() -> None:
    spec, seen = ActionSpec("discrete", n=1000), np.zeros((2, 4, 4, 3), np.uint8)
    holding, wavering = StickyPolicy(spec, 1.0), StickyPolicy(spec, 0.0)
    rows = [np.random.default_rng(i) for i in range(2)]
    first = holding(seen, rows)
    assert first[0] != first[1]
    for _ in range(5):
        np.testing.assert_array_equal(holding(seen, rows), first)
    rows[1] = np.random.default_rng(9)  # row 1 begins an episode, row 0 does not
    after = holding(seen, rows)
    assert after[0] == first[0]
    assert after[1] != first[1]
    assert len({int(wavering(seen, rows)[0]) for _ in range(9)}) > 5


def test_agents_that_are_not_there_or_do_not_fit(quick: Quick, tmp_path: Path) -> None:
    world = tiny_world(frame_size=32)
    missing = CompareConfig(agents=[str(tmp_path / "no")])
    with pytest.raises(ConfigError, match="holds no agent"):
        candidates(missing, world, "catch")
    agent = train_agent(quick(16))
    with pytest.raises(ConfigError, match="but this world gives"):
        candidates(CompareConfig(agents=[str(agent)]), world, "catch")
    with pytest.raises(ConfigError, match=r"compare\.episodes is 0"):
        CompareConfig(episodes=0)
    with pytest.raises(ConfigError, match="probabilities"):
        CompareConfig(sticky=[1.5])
    with pytest.raises(ConfigError, match="names a folder twice"):
        CompareConfig(agents=["runs/a", "runs/b", "runs/a"])


def test_agents_whose_folders_have_one_name_are_told_apart(quick: Quick, tmp_path: Path) -> None:
    agent = train_agent(quick(16))
    twins = [str(shutil.copytree(agent, tmp_path / name / "agent")) for name in "ab"]
    other = str(shutil.copytree(agent, tmp_path / "third"))
    path = quick(16).world.path
    assert path is not None
    config = CompareConfig(agents=[*twins, other], sticky=[])
    named = {who.name.partition(", ")[0] for who in candidates(config, load_world(path), path)}
    assert named == {*twins, "third"}


def test_dreams_are_no_longer_than_the_game_can_be(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = load_world(str(quick(16).world.path))  # of Catch, which declares no limit
    context = world.config.context
    assert horizon_within(1000, world) == 1000
    limited = replace(world.spec, source={"env_id": "worldflow/Catch-v0", "max_episode_steps": 5})
    world.spec = limited
    assert horizon_within(1000, world) == 5 - context + 1 and horizon_within(1, world) == 1
    found = compare(CompareConfig(episodes=2, horizon=9), world, "catch", 1.0, 0, progress=False)
    assert found["horizon"] == 5 - context + 1
    # Catch ends after seven steps: cut after five, nothing was won or lost
    assert all(agent["real"]["mean"] == 0.0 for agent in found["agents"])
    world.spec = replace(limited, source=limited.source | {"max_episode_steps": context - 1})
    with pytest.raises(ConfigError, match=f"truncates its episodes after {context - 1} steps"):
        horizon_within(1000, world)
