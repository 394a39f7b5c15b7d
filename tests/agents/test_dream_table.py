"""The grid of agents and its table: known answers, resuming, and processes that share it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldflow.agents import dream_cells
from worldflow.agents.dream_cells import read_scores, run_cell, settings_of
from worldflow.agents.dream_grid import (
    DreamGridConfig,
    cell_folder,
    chosen,
    grid,
    training_of,
)
from worldflow.agents.dream_table import comparisons, markdown, paired, table_rows
from worldflow.agents.locks import held
from worldflow.agents.saved import AgentCard
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.errors import ConfigError

TRAIN = [
    "agent=ppo",
    "agent.num_envs=2",
    "agent.hyperparameters={n_steps: 8, batch_size: 16, n_epochs: 1, features_dim: 16}",
    "world.horizon=5",
    "total_steps=32",
    "checkpoint_steps=16",
    "evaluation.every=16",
    "evaluation.episodes=1",
    "evaluation.keep=dream",
    "device=cpu",
    "world_device=cpu",
    "progress=false",
]
# Each process notes which cells it trains, and is slow at it.
WORKER = """
import json, sys, time
from worldflow.agents import dream_cells
from worldflow.agents.dream_grid import DreamGridConfig, grid
log, settings = sys.argv[1], json.loads(sys.argv[2])
train = dream_cells.train_agent
def noted(config):
    with open(log, "a") as stream:
        stream.write(config.out + chr(10))
    time.sleep(0.5)
    return train(config)
dream_cells.train_agent = noted
config = DreamGridConfig(**settings)
print(json.dumps([dream_cells.run_cell(config, cell) for cell in grid(config)]))
"""


@pytest.fixture
def config(world_folder: Path, tmp_path: Path) -> DreamGridConfig:
    return DreamGridConfig(
        world=str(world_folder),
        out=str(tmp_path / "table"),
        temperatures=[0.5],
        seeds=1,
        train=TRAIN,
        episodes=3,
        num_envs=2,
        novelty_window=2,
    )


def scored(kind: str, seed: int, heat: float, variant: str | None, real: float) -> dict[str, Any]:
    """A finished cell whose agent has these returns in every episode."""
    figures = {
        place: {"mean": mean, "std": 1.0, "low": mean, "high": mean, "action_entropy": 0.5}
        for place, mean in (("dream", 2 * real), ("real", real))
    }
    cell = {"kind": kind, "seed": seed, "temperature": heat, "variant": variant}
    return {"cell": cell, "steps": 1000, "scores": {"last": figures}}


def test_paired_differences_have_known_intervals() -> None:
    """By Student's t: 4.303 standard errors to either side of three seeds, 2.776 of five."""
    alike = paired({0: 5.0, 1: 7.0, 2: 9.0}, {0: 3.0, 1: 5.0, 2: 7.0, 3: 100.0})
    assert alike == {"mean": 2.0, "std": 0.0, "low": 2.0, "high": 2.0, "count": 3}
    three = paired({0: 1.0, 1: 2.0, 2: 3.0}, dict.fromkeys(range(3), 0.0))
    assert three is not None and (three["mean"], three["std"]) == (2.0, 1.0)
    half = 4.302653 / 3**0.5
    assert (three["low"], three["high"]) == pytest.approx((2.0 - half, 2.0 + half))
    five = paired(dict(enumerate((-2.0, -1.0, 0.0, 1.0, 2.0))), dict.fromkeys(range(5), 0.0))
    assert five is not None and five["high"] == pytest.approx(2.776445 * (2.5 / 5) ** 0.5)
    # two seeds have a mean and no interval
    two = paired({0: 1.0, 1: 8.0}, {0: 1.0, 1: 4.0})
    assert two is not None and (two["mean"], two["low"], two["high"]) == (2.0, None, None)
    assert paired({0: 1.0}, {0: 0.0, 1: 3.0}) is None


def test_the_table_of_known_scores() -> None:
    results = [scored("random", 0, 1.0, None, 1.0)]
    for seed, real in enumerate((10.0, 15.0, 20.0)):
        results += [
            scored("dream", seed, 0.5, "neither", real),
            scored("dream", seed, 0.5, "pessimism", real + 4),
            scored("dream", seed, 1.0, "neither", real),
            scored("dream", seed, 1.0, "pessimism", real + 2),
        ]
    results.append(scored("dream", 0, 1.0, "truncation", 9.0))
    rows = table_rows(results)
    assert [(r["temperature"], r["variant"], r["seeds"]) for r in rows] == [
        (1.0, None, 1),
        (0.5, "neither", 3),
        (0.5, "pessimism", 3),
        (1.0, "neither", 3),
        (1.0, "pessimism", 3),
        (1.0, "truncation", 1),
    ]
    assert rows[2]["real"]["mean"] == 19.0 and rows[2]["dream"]["mean"] == 38.0
    half = 4.302653 * 5.0 / 3**0.5
    assert rows[2]["real"]["high"] == pytest.approx(19.0 + half)
    compared = comparisons(results)
    assert [(row["variant"], row["temperature"]) for row in compared] == [
        ("pessimism", 0.5),
        ("pessimism", 1.0),
        ("pessimism", None),
        ("truncation", 1.0),
    ]
    means = [row["difference"] and row["difference"]["mean"] for row in compared]
    assert means == [4.0, 2.0, 3.0, None]
    assert comparisons(results, "best") == []
    lines = markdown(rows, compared).splitlines()
    scores = "38.0 ± 10.0 | 19.0 [6.6, 31.4] | 0.50"
    assert f"| the dream | 0.5 | pessimism | 3 | 1,000 | {scores} |" in lines
    assert "| pessimism | all | last | 3 | 3.0 [3.0, 3.0] |" in lines
    assert any("These are 4 comparisons" in line for line in lines)
    pairs = [result for result in results if result["cell"]["seed"] < 2]
    lines = markdown(table_rows(pairs), comparisons(pairs)).splitlines()
    assert "| pessimism | all | last | 2 | 3.0 |" in lines


def test_cells_are_settings_of_train_agent(config: DreamGridConfig) -> None:
    cells = {cell.name: cell for cell in grid(config)}
    assert list(cells) == [
        "random",
        "t0.5_neither_s0",
        "t0.5_pessimism_s0",
        "t0.5_truncation_s0",
        "real_s0",
    ]
    cautious = training_of(config, cells["t0.5_pessimism_s0"]).world
    assert (cautious.temperature, cautious.pessimism, cautious.novelty_window) == (0.5, 0.5, 2)
    cut = training_of(config, cells["t0.5_truncation_s0"]).world
    assert (cut.max_novelty, cut.pessimism, cut.novelty_window) == (3.0, 0.0, 2)
    real = training_of(replace(config, train_real=["total_steps=16"]), cells["real_s0"])
    assert real.real and not real.world.uses_novelty and real.total_steps == 16
    picked = chosen(replace(config, cells=["t*_neither_*", "random"]))
    assert [cell.name for cell in picked] == ["random", "t0.5_neither_s0"]
    with pytest.raises(ConfigError, match=r"t2_\* names none of random, t0.5"):
        chosen(replace(config, cells=["t2_*"]))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"variants": ["caution"]}, "no caution; there are neither"),
        ({"train": ["world.temperature=2"]}, "world.temperature is the grid's own"),
        ({"seeds": 0}, "seeds=0"),
        ({"max_novelty": 0.0}, "max_novelty=0.0 must be positive"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        DreamGridConfig(world="catch", out="x", **changes)


def test_a_cell_is_trained_once_and_resumes(
    config: DreamGridConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = next(cell for cell in grid(config) if cell.variant == "truncation")
    trained: list[str] = []

    def noted(settings: TrainAgentConfig) -> Path:
        trained.append(settings.out)
        return train_agent(settings)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dream_cells, "train_agent", noted)
    with monkeypatch.context() as patch:
        patch.setattr(dream_cells, "score", killed)
        with pytest.raises(KeyboardInterrupt):
            run_cell(config, cell)
    assert read_scores(config, cell) is None
    weights = cell_folder(config, cell) / "agent" / "agent.zip"
    assert run_cell(config, cell)
    first = weights.stat().st_mtime_ns
    assert run_cell(config, cell) and len(trained) == 2
    assert weights.stat().st_mtime_ns == first
    found = read_scores(config, cell)
    assert found is not None and found["steps"] == 32
    for weights_of in ("last", "best"):
        for place in ("dream", "real"):
            scores = found["scores"][weights_of][place]
            taken = np.array([share for share in scores["action_frequencies"] if share])
            assert len(scores["returns"]) == 3 and taken.sum() == pytest.approx(1.0)
            entropy = -(taken * np.log(taken)).sum()
            assert scores["action_entropy"] == pytest.approx(entropy, abs=1e-9)
    with pytest.raises(ConfigError, match=r"made with scoring\.episodes="):
        read_scores(replace(config, episodes=4), cell)
    with pytest.raises(ConfigError, match=r"made with training\.world\.max_novelty="):
        read_scores(replace(config, max_novelty=2.0), cell)


def test_given_agents_and_random_play_are_scored(
    config: DreamGridConfig, quick: Callable[..., TrainAgentConfig]
) -> None:
    folder = train_agent(quick(real=True))
    given = replace(config, temperatures=[], real_agents=[str(folder)])
    cells = grid(given)
    assert [cell.name for cell in cells] == ["random", "given_s0"]
    assert all(run_cell(given, cell) for cell in cells)
    results = [read_scores(given, cell) for cell in cells]
    rows = table_rows([result for result in results if result is not None])
    assert [row["learned_in"] for row in rows] == ["random play", "the real game"]
    assert rows[1]["steps"] == 32 and rows[0]["entropy"] is None
    for cell in cells:  # both are scored in dreams of the grid's own temperature
        with pytest.raises(ConfigError, match=r"made with dream\.temperature="):
            changed = replace(given, dream_temperature=2.0)
            read_scores(changed, next(c for c in grid(changed) if c.name == cell.name))
    longer = replace(given, train=[*TRAIN, "world.horizon=6"])
    with pytest.raises(ConfigError, match=r"made with dream\.horizon="):
        read_scores(longer, cells[0])
    empty = replace(given, real_agents=[str(folder.parent)], out=given.out + "2")
    with pytest.raises(ConfigError, match="holds no finished agent"):
        run_cell(empty, grid(empty)[1])


def test_given_agents_are_scored_by_their_last_weights(
    config: DreamGridConfig, quick: Callable[..., TrainAgentConfig]
) -> None:
    folder = train_agent(quick(real=True))
    given = replace(config, temperatures=[], real_agents=[str(folder)])
    cell = grid(given)[1]
    # as if the best weights by real return had been kept, of an earlier step
    shutil.copyfile(folder / "checkpoints" / f"{16:012d}.zip", folder / "agent.zip")
    card = AgentCard.load(folder)
    card.evaluation, card.kept_steps = replace(card.evaluation, every=16, keep="real"), 16
    card.save(folder)
    checkpoint = folder / "checkpoints" / f"{card.steps:012d}.zip"
    found = settings_of(given, cell, training_of(given, cell))["agent"]
    digests = [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (checkpoint, folder / "agent.zip")
    ]
    assert found == digests[0] != digests[1]
    assert run_cell(given, cell)
    checkpoint.unlink()
    with pytest.raises(
        ConfigError, match=r"best weights by real return, of step 16.*last step, 32"
    ):
        read_scores(given, cell)


def test_agents_of_other_beginnings_are_other_cells(
    config: DreamGridConfig, quick: Callable[..., TrainAgentConfig]
) -> None:
    cell = grid(config)[1]
    plain = training_of(config, cell)
    begun = replace(plain, initial_agent=str(train_agent(quick())))
    assert settings_of(config, cell, begun) != settings_of(config, cell, plain)


def test_a_cell_that_is_held_is_left_alone(config: DreamGridConfig) -> None:
    cell = grid(config)[0]
    folder = cell_folder(config, cell)
    folder.mkdir(parents=True)
    with held(folder / "lock") as mine:
        assert mine and not run_cell(config, cell)
    assert run_cell(config, cell)


def test_two_processes_share_a_grid(config: DreamGridConfig, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", WORKER, str(log), json.dumps(vars(config))]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    trained = log.read_text().split()
    expected = [str(cell_folder(config, cell) / "agent") for cell in grid(config)[1:]]
    assert sorted(trained) == sorted(expected)
    finished = [read_scores(config, cell) is not None for cell in grid(config)]
    assert all(finished)


def forget(settings: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Nested settings without some, wherever they stand."""
    kept = {name: value for name, value in settings.items() if name not in names}
    return {n: forget(v, names) if isinstance(v, dict) else v for n, v in kept.items()}


@pytest.mark.parametrize("kind", ["random", "dream"])
def test_cells_of_before_there_was_a_choice_stay_what_they_are(
    config: DreamGridConfig, kind: str
) -> None:
    cell = next(cell for cell in grid(config) if cell.kind == kind)
    assert run_cell(config, cell)
    path = cell_folder(config, cell) / "scores.json"
    result = json.loads(path.read_text())
    later = {"prompt", "guidance", "expected_ends", "latent_network"}
    result["settings"] = forget(result["settings"], later)
    path.write_text(json.dumps(result))
    assert read_scores(config, cell) == result
    others = {"prompt": ["world.prompt=the ball"], "guidance": ["world.guidance=2"]}
    if kind == "dream":  # play by chance depends on neither
        others["expected_ends"] = ["world.expected_ends=7"]
        others["latent_network"] = ["agent.observation=latents", "agent.latent_network=shared"]
    for name, words in others.items():
        with pytest.raises(ConfigError, match=rf"was made with \S*{name}="):
            read_scores(replace(config, train=[*config.train, *words]), cell)


def test_a_game_says_no_probabilities_of_ends(config: DreamGridConfig) -> None:
    other = replace(config, train=[*config.train, "world.expected_ends=2"])
    real = next(cell for cell in grid(other) if cell.kind == "real")
    dream = next(cell for cell in grid(other) if cell.kind == "dream")
    assert training_of(other, real).world.expected_ends == 0.0
    assert training_of(other, dream).world.expected_ends == 2.0
