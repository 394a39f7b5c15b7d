"""Collecting: alignment, seeds, the stop rule, policies, and going on after a crash."""

import operator
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.config import load_config
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset
from worldflow.envs.collect import CollectConfig, collect, main, output_folder, record_episode
from worldflow.envs.collect_workers import recorded_side_by_side
from worldflow.envs.policies import (
    make_policy,
)
from worldflow.envs.policy_config import PolicyConfig
from worldflow.envs.sources import SourceConfig, make_source
from worldflow.envs.sources.catch import BALL, PADDLE
from worldflow.errors import ConfigError, DataError

CATCH = SourceConfig("worldflow/Catch-v0")


def config(folder: Path, steps: int = 100, **changes: Any) -> CollectConfig:
    plain = CollectConfig(CATCH, steps=steps, seed=5, out=str(folder), progress=False)
    return replace(plain, **changes)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_fewest_whole_episodes_that_reach_the_steps(tmp_path: Path) -> None:
    # Every episode of Catch has 7 steps: 14 episodes hold 98 steps, 15 hold 105.
    dataset = collect(config(tmp_path / "a", steps=100))
    assert (len(dataset), dataset.steps) == (15, 105)
    assert dataset.lengths.tolist() == [8] * 15
    assert len(collect(config(tmp_path / "b", steps=98))) == 14
    assert dataset.metadata.source["env_id"] == "worldflow/Catch-v0"
    assert dataset.metadata.fps == 8.0
    assert dataset.action_spec == ActionSpec("discrete", n=3)


def test_an_action_led_to_its_frame(tmp_path: Path) -> None:
    dataset = collect(config(tmp_path, source=SourceConfig("worldflow/Catch-v0", {"drift": 0.0})))
    for i in range(len(dataset)):
        episode = dataset.read(i)
        cells = episode.frames[:, 4::8, 4::8]
        # The ball lies over the paddle in the last frame; the paddle's right cell may be hidden.
        paddle = (cells[:-1, -1] == PADDLE).all(axis=-1).argmax(axis=-1)
        moves = np.clip(paddle[:-1] + episode.actions[1:-1] - 1, 0, 6)
        np.testing.assert_array_equal(paddle[1:], moves)
        rows = (cells == BALL).all(axis=-1).any(axis=-1).argmax(axis=-1)
        assert rows.tolist() == list(range(8))
        assert episode.actions[0] == 0
        assert episode.rewards[:-1].tolist() == [0.0] * 7
        last = (cells[-1, -1] == PADDLE).all(axis=-1).sum()
        assert episode.rewards[-1] == (1.0 if last == 1 else -1.0)
        assert episode.terminated.tolist() == [False] * 7 + [True]
        assert not episode.truncated


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        collect(config(tmp_path / name, seed=seed))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a") != tree(tmp_path / "c")
    frames = [EpisodeDataset(tmp_path / "a").read(i).frames.tobytes() for i in range(15)]
    assert len(set(frames)) > 10


def test_an_episode_depends_on_the_seed_and_its_index_only(tmp_path: Path) -> None:
    expected = collect(config(tmp_path)).read(9)
    env = make_source(CATCH)
    policy = make_policy(PolicyConfig(), env.action_spec, env.frame_shape, None)
    found = record_episode(env, policy, config(tmp_path), 9)
    np.testing.assert_array_equal(found.frames, expected.frames)
    np.testing.assert_array_equal(found.actions, expected.actions)
    assert found.seed == expected.seed


def test_workers_write_the_same_bytes(tmp_path: Path) -> None:
    collect(config(tmp_path / "one"))
    several = config(tmp_path / "several", workers=3)
    collect(replace(several, steps=30))  # and go on from there
    assert len(EpisodeDataset(tmp_path / "several")) == 5
    collect(several)
    assert tree(tmp_path / "several") == tree(tmp_path / "one")


def test_a_gap_is_filled_by_workers(tmp_path: Path) -> None:
    collect(config(tmp_path / "whole"))
    dataset = collect(config(tmp_path / "gaps"))
    for index in (3, 8):
        dataset.paths[index].unlink()
    collect(config(tmp_path / "gaps", workers=2))
    assert tree(tmp_path / "gaps") == tree(tmp_path / "whole")


def test_what_a_worker_raises_is_raised(tmp_path: Path) -> None:
    make = partial(partial, operator.floordiv, 1)  # importable in a process that is spawned
    with pytest.raises(ZeroDivisionError):
        next(recorded_side_by_side(make, [0, 5], workers=2))
    with pytest.raises(ConfigError, match="workers=0"):
        config(tmp_path, workers=0)


def test_an_exception_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(config(tmp_path / "whole"))
    calls = 0

    def failing(*arguments: Any) -> Episode:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return record_episode(*arguments)

    monkeypatch.setattr("worldflow.envs.collect.record_episode", failing)
    with pytest.raises(KeyboardInterrupt):
        collect(config(tmp_path / "broken"))
    assert len(EpisodeDataset(tmp_path / "broken")) == 6
    collect(config(tmp_path / "broken"))
    assert calls == 7 + 9  # the finished six are not played again
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    steps = 4000
    command = [sys.executable, "-m", "worldflow", "collect", f"steps={steps}", "seed=5"]
    command += [f"out={tmp_path / 'killed'}", "progress=false"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("episodes/*.safetensors"))) < 20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 20 <= len(EpisodeDataset(tmp_path / "killed")) < 572
    collect(config(tmp_path / "killed", steps=steps))
    collect(config(tmp_path / "whole", steps=steps))
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def processes(mark: str) -> set[int]:
    """Those that were started with a variable of this value, they or what started them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find workers")
@pytest.mark.parametrize("name", ["Catch", "TakeCover"])
def test_a_killed_run_leaves_no_workers_and_goes_on(tmp_path: Path, name: str) -> None:
    if name == "TakeCover":  # whose game is a process of its own
        pytest.importorskip("vizdoom")
    source, killed = SourceConfig(f"worldflow/{name}-v0"), tmp_path / "killed"
    command = [sys.executable, "-m", "worldflow", "collect", f"source={name.lower()}", "seed=5"]
    command += ["steps=100000", "workers=2", f"out={killed}", "progress=false"]
    mark = f"WORLDFLOW_TEST={tmp_path}"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WORLDFLOW_TEST": str(tmp_path)}
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=env)
    deadline = time.monotonic() + 120
    while not list(killed.glob("episodes/*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    assert len(processes(mark)) >= 3  # itself and two workers
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    found = [int(pid) for path in children for pid in path.read_text().split()]
    games = [pid for pid in found if Path(f"/proc/{pid}/exe").readlink().name == "vizdoom"]
    process.kill()
    process.wait()
    for game in games:  # of the killed process itself, which nobody ends
        os.kill(game, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (left := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    steps = EpisodeDataset(killed).steps + 1
    collect(config(killed, steps=steps, source=source, workers=2))
    collect(config(tmp_path / "whole", steps=steps, source=source))
    assert tree(killed) == tree(tmp_path / "whole")


def test_a_lost_episode_is_played_again_and_more_steps_extend(tmp_path: Path) -> None:
    collect(config(tmp_path / "short", steps=50))
    (tmp_path / "short" / "episodes" / "000003.safetensors").unlink()
    collect(config(tmp_path / "short", steps=100))
    collect(config(tmp_path / "whole", steps=100))
    assert tree(tmp_path / "short") == tree(tmp_path / "whole")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    collect(config(tmp_path))
    with pytest.raises(DataError, match=r"'collect'.*another output folder"):
        collect(config(tmp_path, policy=PolicyConfig(sticky=0.1)))
    with pytest.raises(DataError, match="'seed'"):
        collect(config(tmp_path, seed=6))
    with pytest.raises(DataError, match="'source'"):
        collect(config(tmp_path, source=SourceConfig("worldflow/Catch-v0", {"drift": 0.2})))
    with pytest.raises(ConfigError, match="steps"):
        config(tmp_path, steps=0)


def test_a_limit_truncates(tmp_path: Path) -> None:
    source = replace(CATCH, max_episode_steps=5)
    dataset = collect(config(tmp_path / "a", steps=10, source=source))
    assert dataset.metadata.source["max_episode_steps"] == 5
    assert dataset.lengths.tolist() == [6, 6]
    assert dataset.read(0).truncated
    assert not dataset.read(0).terminated.any()
    # Where the environment ends the episode at the same step, its end counts.
    source = replace(CATCH, max_episode_steps=7)
    episode = collect(config(tmp_path / "b", steps=10, source=source)).read(0)
    assert episode.terminated[-1]
    assert not episode.truncated


def test_box_actions_are_recorded(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    source = SourceConfig("Pendulum-v1", frame_skip=4, max_episode_steps=10)
    dataset = collect(config(tmp_path, steps=20, source=source))
    episode = dataset.read(0)
    assert episode.actions.shape == (11, 1)
    assert episode.actions.dtype == np.float32
    dataset.action_spec.validate(episode.actions)
    assert episode.truncated


def test_takecover_is_recorded_alike_after_a_break(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")
    source = SourceConfig("worldflow/TakeCover-v0")
    collect(config(tmp_path / "a", steps=120, source=source))
    collect(config(tmp_path / "b", steps=1, source=source))
    dataset = collect(config(tmp_path / "b", steps=120, source=source))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert dataset.metadata.fps == 8.75


def test_the_default_folder_is_named_after_the_environment() -> None:
    for env_id, name in (
        ("worldflow/TakeCover-v0", "takecover"),
        ("ale_py:ALE/Pong-v5", "pong"),
        ("CartPole-v1", "cartpole"),
    ):
        assert output_folder(CollectConfig(SourceConfig(env_id))) == Path("runs/data") / name


def test_the_command_line_gives_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["source=takecover", "steps=60000"]
    loaded = load_config("collect", CollectConfig, overrides)
    assert loaded == CollectConfig(SourceConfig("worldflow/TakeCover-v0"), steps=60000)
    overrides = ["source.kwargs.drift=0.0", "steps=7", f"out={tmp_path}", "progress=false"]
    main(load_config("collect", CollectConfig, overrides))
    assert capsys.readouterr().out == f"{tmp_path}: 1 episodes, 7 steps\n"


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect(config(tmp_path, steps=100, progress=True))
    assert "100/100" in capsys.readouterr().err


def test_collecting_loads_neither_torch_nor_stable_baselines3() -> None:
    code = (
        "import sys, worldflow.envs.collect; "
        "assert not {'torch', 'stable_baselines3', 'vizdoom'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
