"""Novelty: tables with known answers, windows, and what a calibration file must hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest
import torch

import worldflow
from worldflow.calibration import Calibration
from worldflow.errors import ConfigError, WorldFormatError
from worldflow.novelty import Measure, RunningNovelty, Table, novelty_of, p_value_of
from worldflow.storage import save_world, write_calibration
from worldflow.testing import tiny_world


def normal_scores(count: int) -> torch.Tensor:
    """A sample whose quantiles are a normal distribution's own."""
    levels = ((torch.arange(count) + 0.5) / count).tolist()
    return torch.tensor([NormalDist().inv_cdf(level) for level in levels], dtype=torch.float64)


def test_novelty_and_p_value_are_one_thing() -> None:
    assert novelty_of(1.0) == 0.0
    assert novelty_of(0.05) == pytest.approx(1.959964, abs=1e-6)
    levels = torch.tensor([1.0, 0.5, 0.05, 0.001], dtype=torch.float64)
    scores = torch.tensor([novelty_of(p) for p in levels.tolist()], dtype=torch.float64)
    torch.testing.assert_close(p_value_of(scores), levels)
    for bad in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="p_value"):
            novelty_of(bad)


def test_one_normal_statistic_has_its_own_deviation_as_novelty() -> None:
    values = 7.0 + 3.0 * normal_scores(20_001)
    table = Table.fit(values[:, None], one_sided=False)
    assert table.mean == pytest.approx((7.0,)) and table.std == pytest.approx((3.0,), rel=1e-3)
    asked = torch.tensor([[7.0], [10.0], [4.0], [13.0], [1.0]], dtype=torch.float64)
    expected = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(table.novelty(asked), expected, atol=0.03, rtol=0)


def test_the_share_of_held_out_frames_beyond_a_novelty_is_its_p_value() -> None:
    generator = torch.Generator().manual_seed(0)
    skewed = torch.rand(50_000, 3, generator=generator, dtype=torch.float64).log()
    for one_sided, values in ((False, skewed), (True, skewed[:, :1])):
        novelty = Table.fit(values, one_sided).novelty(values)
        for p in (0.5, 0.1, 0.01, 0.001):
            assert float((novelty >= novelty_of(p)).double().mean()) == pytest.approx(p, rel=0.1)


def test_one_sided_tables_find_only_large_values_strange() -> None:
    table = Table.fit(normal_scores(1001)[:, None], one_sided=True)
    low, middle, high = table.novelty(torch.tensor([[-50.0], [0.0], [2.0]]).double()).tolist()
    assert low == 0.0
    assert middle == pytest.approx(novelty_of(0.5), abs=0.01)
    assert high == pytest.approx(novelty_of(1 - NormalDist().cdf(2.0)), abs=0.05)


def test_beyond_the_table_novelty_grows_one_for_one() -> None:
    table = Table.fit(normal_scores(1001)[:, None], one_sided=True)
    far, farther = table.novelty(torch.tensor([[10.0], [110.0]]).double()).tolist()
    assert farther - far == pytest.approx(100.0 / table.std[0], rel=1e-6)
    assert far > novelty_of(0.001)


def test_a_statistic_that_never_varies_has_a_unit() -> None:
    table = Table.fit(torch.ones(10, 1), one_sided=False)
    novelty = table.novelty(torch.tensor([[1.0], [1.1]]))
    assert novelty[0].isfinite() and novelty[1] > 100


def measure() -> Measure:
    """Novelty of one statistic, whose mean over w frames has a deviation of 1 / sqrt(w)."""
    values = normal_scores(2001)[:, None]
    windows = {w: Table.fit(values / w**0.5, one_sided=True) for w in (1, 2, 4)}
    return Measure(windows, Table.fit(values[:, None], one_sided=True))


def test_windows_average_before_they_judge() -> None:
    scores = torch.tensor([[[3.0], [1.0], [1.0], [1.0], [1.0], [1.0]]]).double()
    found = measure().over(scores, 4)[0]
    means = [(3.0, 1), (2.0, 2), (1.0, 2), (1.5, 4), (1.0, 4), (1.0, 4)]
    for novelty, (mean, window) in zip(found, means, strict=True):
        table = measure().windows[window]
        assert novelty == table.novelty(torch.tensor([mean]).double())
    torch.testing.assert_close(measure().over(scores, 1), measure().novelty(scores))


def test_rows_of_a_window_are_reset_and_skipped_alone() -> None:
    running = RunningNovelty(measure(), 2, 2)
    one, two = torch.tensor([[1.0], [1.0]]).double(), torch.tensor([[2.0], [2.0]]).double()
    running.add(one)
    skipped = running.add(two, [True, False])
    assert skipped[1].isnan() and skipped[0] == measure().windows[2].novelty(one[0] * 1.5)
    running.reset(0)
    after = running.add(two)
    assert after[0] == measure().windows[1].novelty(two[0])
    assert after[1] == measure().windows[2].novelty(one[0] * 1.5)
    with pytest.raises(ConfigError, match=r"window=3.*\[1, 2, 4\]"):
        RunningNovelty(measure(), 3, 1)


def test_a_calibration_survives_its_file() -> None:
    calibration = tiny_world().calibration
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())), "x")
    assert again == calibration and again.where == "x"
    assert set(again.require("seen").windows) == {1, 2, 4, 8, 16}


def test_short_episodes_have_short_windows() -> None:
    runs = [torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(k)) for k in range(80)]
    calibration = Calibration.fit(torch.randn(240), runs, [run[..., :1] for run in runs])
    assert set(calibration.require("seen").windows) == {1, 2}


def test_mean_and_quantiles_of_a_known_sample() -> None:
    values, runs = torch.arange(101.0), [torch.zeros(101, 1, 3)]
    calibration = Calibration.fit(values, runs, [runs[0][..., :1]])
    assert calibration.mean == 50.0 and calibration.frames == 101
    assert calibration.quantiles[4] == 50.0 and calibration.quantiles[1] == 1.0


@pytest.mark.parametrize("kind", ["seen", "dreamed"])
def test_a_file_without_the_tables_is_refused(tmp_path: Path, kind: str) -> None:
    world = tiny_world()
    save_world(world, tmp_path / "w", "card")
    values = world.calibration.to_dict()
    del values[kind]
    (tmp_path / "w/calibration.json").write_text(json.dumps(values))
    with pytest.raises(WorldFormatError, match=rf"calibration\.json.*{kind}.*calibrate"):
        worldflow.load_world(tmp_path / "w")
    loaded = worldflow.load_world(tmp_path / "w", calibrated=False)
    frames, actions = (torch.from_numpy(a) for a in (world.context.frames, world.context.actions))
    assert loaded.score(frames, actions).novelty.isnan().all()
    with pytest.raises(WorldFormatError, match=rf"`{kind}` is missing.*calibrate"):
        loaded.calibration.require(kind)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("seen", "windows", "1", "mean"), [0.0, 0.0], "seen: `mean`"),
        (("seen", "windows", "1", "std"), [1.0, 0.0, 1.0], "positive"),
        (("dreamed", "windows", "1", "levels"), [1.0] * 13 + [0.0], "must not fall"),
        (("dreamed", "tokens", "mean"), [[math.nan]] * 16, "finite"),
        (("dreamed", "windows"), {}, r"dreamed\.windows\.1"),
        (("seen",), 3, "calibration field"),
    ],
)
def test_bad_fields_of_the_file_are_named(
    path: tuple[str, ...], value: object, message: str
) -> None:
    values = json.loads(json.dumps(tiny_world().calibration.to_dict()))
    node = values
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(WorldFormatError, match=message) as error:
        Calibration.from_dict(values, "folder/calibration.json")
    assert "folder/calibration.json" in str(error.value)


def test_the_calibration_of_another_world_is_refused(tmp_path: Path) -> None:
    world = tiny_world()
    save_world(world, tmp_path / "w", "card")
    other = tiny_world(frame_size=80).calibration
    write_calibration(tmp_path / "w", replace(world.calibration, seen=other.seen))
    with pytest.raises(WorldFormatError, match=r"calibration\.json: `tokens` has 25.*16"):
        worldflow.load_world(tmp_path / "w")
