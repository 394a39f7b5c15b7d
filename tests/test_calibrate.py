"""`worldflow calibrate`: tables from held-out episodes, put in place of the old ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldflow import calibrate as module
from worldflow.actions import ActionSpec
from worldflow.calibrate import (
    CalibrateConfig,
    CalibratedWorld,
    calibrate,
    check_measurable,
    main,
)
from worldflow.calibration import Calibration
from worldflow.cli import main as run
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.data.splitting import split
from worldflow.errors import ConfigError, DataError, WorldFormatError
from worldflow.held_out import RealData
from worldflow.storage import load_world, save_world
from worldflow.testing import tiny_world
from worldflow.world_spec import HeldOut


def write_episodes(folder: Path, lengths: list[int], actions: int = 3, size: int = 64) -> None:
    writer = EpisodeWriter(
        folder,
        DatasetMetadata(
            action_spec=ActionSpec("discrete", n=actions),
            frame_shape=(size, size, 3),
            fps=8.0,
            source={},
            collect={},
            seed=0,
            lossy=None,
            has_rewards=True,
            has_terminations=True,
        ),
    )
    rng = np.random.default_rng(0)
    for index, length in enumerate(lengths):
        writer.add(
            index,
            Episode(
                frames=rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8),
                actions=rng.integers(0, actions, length),
                rewards=np.zeros(length, np.float32),
                terminated=np.zeros(length, np.bool_),
                known=np.ones(length, np.bool_),
                seed=index,
                truncated=True,
            ),
        )


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A world's folder, and a dataset of as many episodes as it says it learned from."""
    world = tiny_world()
    world.spec = replace(world.spec, held_out=HeldOut(0.5, 0, 4))
    save_world(world, tmp_path / "world", "card")
    write_episodes(tmp_path / "data", [70, 9, 80, 2])
    return tmp_path / "world", tmp_path / "data"


def config(world: Path, data: Path, unseen: bool = False) -> CalibrateConfig:
    return CalibrateConfig(CalibratedWorld(str(world)), RealData(str(data), unseen))


def test_held_out_frames_with_enough_past_are_measured(places: tuple[Path, Path]) -> None:
    folder, data = places
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert main(config(folder, data)) == folder / "calibration.json"
    after = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert {name for name in after if before[name] != after[name]} == {"calibration.json"}
    assert set(after) == set(before)
    dataset, world = EpisodeDataset(data), load_world(folder)
    held_out = split(dataset.recordings, 0.5, 0)[1]
    # clips of at most 64 frames, the first two of each being context
    expected = {70: 62 + 4, 9: 7, 80: 62 + 14, 2: 0}
    count = sum(expected[int(dataset.lengths[index])] for index in held_out)
    assert world.calibration.frames == count
    main(config(folder, data, unseen=True))
    assert load_world(folder).calibration.frames == sum(expected.values())


def test_a_table_fits_what_it_was_made_from(places: tuple[Path, Path]) -> None:
    folder, data = places
    world, dataset = load_world(folder), EpisodeDataset(data)
    first, again, other = (calibrate(world, dataset, np.arange(4), seed) for seed in (0, 0, 1))
    assert first == again and first != other
    world.calibration = first
    episode = dataset.read(0, 0, 64)
    scores = world.score(
        torch.from_numpy(episode.frames)[None], torch.from_numpy(episode.actions)[None]
    )
    assert 0.3 < float(scores.novelty[0, 2:].median()) < 1.1  # 0.67 for a normal score
    few = calibrate(world, dataset, np.arange(4), 0, frames=5)
    assert 5 <= few.frames <= first.frames


def test_a_lost_or_damaged_file_is_made_again(places: tuple[Path, Path]) -> None:
    folder, data = places
    (folder / "calibration.json").unlink()
    with pytest.raises(WorldFormatError, match=r"calibration\.json is missing; run `worldflow cal"):
        load_world(folder)
    main(config(folder, data))
    (folder / "calibration.json").write_text("{")
    main(config(folder, data))
    assert load_world(folder).calibration.seen is not None


def test_a_kill_leaves_the_old_file(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = places
    before = (folder / "calibration.json").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        main(config(folder, data))
    assert (folder / "calibration.json").read_bytes() == before


def test_data_that_do_not_fit_are_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = places
    write_episodes(tmp_path / "more", [5, 5, 5])
    with pytest.raises(DataError, match=r"3 episodes.*unseen=true"):
        main(config(folder, tmp_path / "more"))
    write_episodes(tmp_path / "actions", [5], actions=4)
    with pytest.raises(DataError, match="actions"):
        main(config(folder, tmp_path / "actions", unseen=True))
    write_episodes(tmp_path / "short", [2, 1])
    with pytest.raises(DataError, match=r"longer than world\.context=2"):
        main(config(folder, tmp_path / "short", unseen=True))
    with pytest.raises(ConfigError, match="frames"):
        CalibrateConfig(frames=0)


def test_the_command(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = places
    monkeypatch.setattr(module, "ROWS", 2)
    assert run(["calibrate", f"world={folder}", f"data={data}", "data.unseen=true"]) == 0
    assert "calibrated on 149 held-out frames" in capsys.readouterr().out
    assert set(json.loads((folder / "calibration.json").read_text())) > {"seen", "dreamed"}
    assert run(["calibrate", f"world={folder}"]) == 2
    assert "data.path" in capsys.readouterr().err


def test_too_few_frames_are_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    world = load_world(places[0])
    short = tmp_path / "short"
    write_episodes(short, [3, 2])  # the context is of two frames
    with pytest.raises(DataError, match=r"1 held-out frames with enough past are too few"):
        calibrate(world, EpisodeDataset(short), np.arange(2), 0)
    with pytest.raises(DataError, match=r"longest of 3 frames, have 1 after world\.context=2"):
        check_measurable(EpisodeDataset(short), np.arange(2), 2)
    check_measurable(EpisodeDataset(short), np.arange(2), 1)
    runs = [torch.zeros(2, 3, 4)]
    for alike in (torch.ones(2), torch.tensor([1.0, torch.nan])):
        with pytest.raises(DataError, match="all alike or not finite"):
            Calibration.fit(alike, runs, [runs[0][..., :1]])
