"""What is measured on which clips, with detectors whose answers are known; and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.agents.evaluate_world import EvaluateWorldConfig
from worldflow.config import load_config
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.splitting import split
from worldflow.errors import ConfigError, DataError
from worldflow.evaluation import evaluate as evaluating
from worldflow.evaluation.detection import DetectionConfig, detect
from worldflow.evaluation.detectors.detector import Detector
from worldflow.evaluation.dream_error import correlations, error_by_tenths
from worldflow.evaluation.evaluate import DreamedWorld, EvaluateConfig, main
from worldflow.evaluation.other_games import default_games, other_game, variant_clips
from worldflow.evaluation.resampling import episode_weights
from worldflow.held_out import RealData
from worldflow.storage import save_world
from worldflow.testing import tiny_world

SIZE = 32
LENGTHS = [14, 13, 12, 20, 15, 12, 16, 12, 18, 3]
SMALL = DetectionConfig(
    enabled=True, clips=2, given=2, window=3, others=["catch"], updates=2, resamples=20
)


class Oracle(Detector):
    """Knows the rule of `make_dataset`: the action that leads to frame t is (t - 1) % 3."""

    name = "oracle"

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        times = frames[:, :, 0, 0, 1].astype(int)
        return np.asarray(actions != (times - 1) % 3, dtype=float)


class Blind(Detector):
    """Finds everything equally strange."""

    name = "blind"

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.zeros(frames.shape[:2])


class Recorder(Detector):
    """Keeps what it was shown."""

    name = "recorder"

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def score(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        self.frames.append(frames)
        return np.zeros(frames.shape[:2])


def test_known_detectors(make_dataset: Callable[..., EpisodeDataset]) -> None:
    world, dataset = _world(0.5), make_dataset(LENGTHS)
    recorder = Recorder()
    held_out = split(dataset.recordings, 0.5, 0)[1]
    detectors = [Oracle(), Blind(), recorder]
    detected = detect(SMALL, world, dataset, held_out, detectors, 0, progress=False)
    figures = detected.figures
    for level in ("frame", "window"):
        wrong = figures["corruptions"]["wrong"][level]
        assert wrong["oracle"]["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert wrong["oracle"]["fpr"]["value"] == 0.0
        assert wrong["blind"]["auroc"]["value"] == 0.5
        for family in figures["families"].values():
            assert family[level]["blind"]["value"] == 0.5
    # only frames whose action differs count as strange, so that nothing else spoils the oracle
    assert figures["corruptions"]["shuffled"]["frame"]["oracle"]["auroc"]["value"] == 1.0
    assert figures["corruptions"]["occluder"]["frame"]["oracle"]["auroc"]["value"] == 0.5
    assert list(figures["families"]) == [
        "wrong actions",
        "changed dynamics",
        "changed appearance",
        "simpler images",
        "another game",
    ]
    long = {int(e) for e in held_out if LENGTHS[e] >= 10}
    assert figures["episodes"] == len(long) and figures["clips"] == 2 * len(long)
    assert set(recorder.frames[0][:, 0, 0, 0, 0].tolist()) == long
    assert set(detected.examples["simpler images"]) == {"real", "blurred", "constant", "black"}
    plain, red = detected.examples["changed appearance"], detected.maps["changed appearance"]
    assert red["occluder"].shape == plain["occluder"].shape
    assert not np.array_equal(red["occluder"], plain["occluder"])
    assert all(
        detected.maps[name].keys() == rows.keys() for name, rows in detected.examples.items()
    )


def test_too_short_episodes_are_refused(make_dataset: Callable[..., EpisodeDataset]) -> None:
    dataset = make_dataset([9] * 10)
    with pytest.raises(DataError, match="of the 5 episodes to measure on 0 have 10 frames"):
        detect(SMALL, _world(0.5), dataset, np.arange(5), [Blind()], 0, progress=False)


def test_what_cannot_be_measured_is_refused_before_anything_is(
    tmp_path: Path, make_dataset: Callable[..., EpisodeDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "dream", lambda *_: pytest.fail("it dreamed"))
    save_world(_world(0.5), tmp_path / "world", "card")
    config = EvaluateConfig(
        DreamedWorld(str(tmp_path / "world")),
        RealData(str(make_dataset(LENGTHS).folder)),
        str(tmp_path / "out"),
        detection=replace(SMALL, window=3),
    )
    with pytest.raises(ConfigError, match=r"detection\.window=3: .*windows of \[1, 2, 4, 8, 16\]"):
        main(config)
    with pytest.raises(DataError, match="episodes to measure on 0 have 36 frames"):
        main(replace(config, detection=replace(SMALL, window=16)))


def test_of_unseen_data_one_half_teaches_and_the_other_is_measured(
    tmp_path: Path, make_dataset: Callable[..., EpisodeDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, shown = make_dataset(LENGTHS), {}
    whole = evaluating.detect

    def noted(config, world, dataset, measured, *rest, **more):  # type: ignore[no-untyped-def]
        shown["measured"] = measured
        return whole(config, world, dataset, measured, *rest, **more)

    def taught(world, dataset, taught, *_):  # type: ignore[no-untyped-def]
        shown["taught"] = taught
        return [Blind()]

    monkeypatch.setattr(evaluating, "detect", noted)
    monkeypatch.setattr(evaluating, "make_detectors", taught)
    save_world(_world(0.1), tmp_path / "world", "card")  # of another split, which does not matter
    config = EvaluateConfig(
        DreamedWorld(str(tmp_path / "world")),
        RealData(str(dataset.folder), unseen=True),
        str(tmp_path / "out"),
        clips=20,
        horizon=2,
        samples=1,
        detection=replace(SMALL, window=2),
        progress=False,
    )
    main(config)
    halves = {name: set(indices.tolist()) for name, indices in shown.items()}
    assert not halves["taught"] & halves["measured"]
    assert halves["taught"] | halves["measured"] == set(range(len(LENGTHS)))
    assert 3 <= len(halves["taught"]) <= 7
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert figures["clips"] == len(halves["measured"])  # dreams too are of the measured ones


def test_other_games(make_dataset: Callable[..., EpisodeDataset]) -> None:
    dataset = make_dataset([4, 5], size=16)
    frames = other_game(str(dataset.folder), 3, 5, (SIZE, SIZE, 3), seed=0)
    assert frames.shape == (3, 5, SIZE, SIZE, 3)
    shown = frames.reshape(15, -1, 3)[:, 0].tolist()
    runs = [[[e, t, 0] for t in range(n)] for e, n in ((0, 4), (1, 5))]
    assert shown in [(a + b + a + b)[:15] for a, b in (runs, runs[::-1])]
    dreamed = other_game("catch", 2, 3, (SIZE, SIZE, 3), seed=0)
    np.testing.assert_array_equal(dreamed, other_game("catch", 2, 3, (SIZE, SIZE, 3), seed=0))
    assert dreamed.shape == (2, 3, SIZE, SIZE, 3)
    # it says that it is of Catch
    assert default_games(tiny_world(None, SIZE)) == ["pendulum", "takecover"]


def test_variants_must_fit(make_dataset: Callable[..., EpisodeDataset]) -> None:
    dataset = make_dataset([4, 9])
    frames, actions = variant_clips(str(dataset.folder), _world(0.5), 4, 6, seed=0)
    assert (frames[:, 0, 0, 0, 0] == 1).all()  # the other episode is too short
    times = frames[:, :, 0, 0, 1].astype(int)
    np.testing.assert_array_equal(actions[:, 1:], (times[:, 1:] - 1) % 3)
    with pytest.raises(DataError, match="no episode has 10 frames"):
        variant_clips(str(dataset.folder), _world(0.5), 4, 10, seed=0)
    with pytest.raises(DataError, match="a variant needs the world's frame_shape"):
        variant_clips(str(dataset.folder), tiny_world(ActionSpec("none"), SIZE), 4, 6, seed=0)


def test_correlations_with_a_dreams_error() -> None:
    rng = np.random.default_rng(0)
    error = rng.random((2, 6, 5))
    valid = np.ones((6, 5), np.bool_)
    valid[0, 3:] = False
    error[:, 0, 3:] = -1e9  # beyond the episode's end
    weights = episode_weights(6, 30, 0)
    same = correlations(2 * error, error, valid, 2, weights)
    for kind in ("frame", "window", "within step"):
        assert same[kind]["value"] == pytest.approx(1.0)
    assert set(same) == {"frame", "window", "running", "within step"}
    against = correlations(-error, error, valid, 2, weights)
    assert against["frame"]["value"] == pytest.approx(-1.0)


def test_errors_that_only_grow_with_time() -> None:
    steps, rows = np.arange(4.0)[None, None, :], np.arange(5.0)[None, :, None]
    error, score = 10 * steps + rows, -10 * steps + rows
    found = correlations(score, error, np.ones((5, 4), np.bool_), 8, episode_weights(5, 9, 0))
    assert found["within step"]["value"] == pytest.approx(1.0)
    assert (found["frame"]["value"] or 0.0) < -0.8
    assert "window" not in found  # longer than the dream
    of_time = correlations(steps + 0 * rows, error, np.ones((5, 4), np.bool_), 2, np.ones((1, 5)))
    assert of_time["within step"]["value"] is None


def test_errors_by_tenths_of_a_score() -> None:
    score = np.arange(40, dtype=float).reshape(2, 4, 5)[:, ::-1]  # any order
    valid = np.ones((4, 5), np.bool_)
    np.testing.assert_allclose(
        error_by_tenths(score, 2 * score, valid), 2 * (1.5 + 4 * np.arange(10))
    )
    valid[:, 1:] = False  # eight frames are left
    assert error_by_tenths(score, score, valid) == sorted(score[..., 0].ravel().tolist())


def test_the_command(
    tmp_path: Path, make_dataset: Callable[..., EpisodeDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(LENGTHS)
    save_world(_world(0.5), tmp_path / "world", "card")
    out = tmp_path / "out"
    config = EvaluateConfig(
        DreamedWorld(str(tmp_path / "world")),
        RealData(str(dataset.folder)),
        str(out),
        clips=4,
        horizon=4,
        samples=2,
        detection=replace(SMALL, window=2),
        progress=False,
    )
    main(config)
    figures = json.loads((out / "evaluation.json").read_text())
    assert figures["detection"]["detectors"] == [
        "novelty", "window novelty", "NLL", "codec", "RND", "ensemble", "curiosity",
    ]  # fmt: skip
    assert set(figures["detection"]["corruptions"]["black"]["frame"]["RND"]) == {
        "auroc", "auprc", "fpr",
    }  # fmt: skip
    assert "novelty of the dream" in figures["dream_error"]["correlations"]
    names = {path.name for path in out.glob("detection_*.png")}
    assert "detection_another_game.png" in names and "detection_wrong_actions.png" not in names
    assert "detection_wrong_actions_where.png" in names
    assert "Detection of strangeness" in (out / "report.html").read_text()
    assert "AUROC of single frames, wrong actions: novelty" in capsys.readouterr().out
    main(config)  # with the baselines that lie there
    assert json.loads((out / "evaluation.json").read_text()) == figures


def test_the_setting_detection() -> None:
    overrides = ["world=w", "data=d", "out=o"]
    assert not load_config("evaluate", EvaluateWorldConfig, overrides).detection.enabled
    config = load_config("evaluate", EvaluateWorldConfig, [*overrides, "detection=true"])
    assert config.detection == DetectionConfig(enabled=True)
    with pytest.raises(ConfigError, match=r"detection.window is 0"):
        DetectionConfig(window=0)
    with pytest.raises(ConfigError, match="two of one name"):
        DetectionConfig(others=["catch", "runs/catch"])


def _world(held_out: float):  # type: ignore[no-untyped-def]
    world = tiny_world(None, SIZE)
    world.spec = replace(world.spec, held_out=replace(world.spec.held_out, fraction=held_out))
    return world
