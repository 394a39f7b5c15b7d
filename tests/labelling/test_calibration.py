"""Tempers, reliability and the report's figures on posteriors whose answers are known."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.numpy import save

from worldflow import metrics
from worldflow.actions import ActionSpec
from worldflow.errors import DataError
from worldflow.labelling.calibration import (
    MAX_TEMPER,
    Reliability,
    calibration_error,
    fit_temper,
    summed_nll,
    tempered,
)
from worldflow.labelling.picture import LEFT, SIDE, TOP, reliability_diagram
from worldflow.labelling.report import labels_path, read_labels, write_report

TWO = np.log([0.5, 0.5])


def test_a_temper_scales_the_log_likelihood_differences() -> None:
    prior, ratio = np.array([0.2, 0.8]), 1.7
    log_posterior = np.log(prior) + np.array([ratio, 0.0])
    log_posterior -= np.logaddexp.reduce(log_posterior)
    half = tempered(log_posterior, np.log(prior), 0.5)
    assert half[0] - half[1] == pytest.approx(np.log(0.25) + 0.5 * ratio)
    assert np.exp(half).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(tempered(log_posterior, np.log(prior), 1.0), log_posterior)
    np.testing.assert_allclose(np.exp(tempered(log_posterior, np.log(prior), 0.0)), prior)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_fitted_temper_undoes_an_overconfidence(factor: float) -> None:
    rng = np.random.default_rng(0)
    log_prior = np.log([0.3, 0.6, 0.1])
    true = tempered(log_prior + rng.normal(0, 2, (20_000, 3)), log_prior, 1.0)
    truth = (rng.random((20_000, 1)) > np.exp(true).cumsum(1)).sum(1).clip(max=2)
    overconfident = tempered(true, log_prior, factor)
    parts = [(overconfident[k::3], truth[k::3]) for k in range(3)]
    temper = fit_temper(lambda: iter(parts), log_prior)
    assert temper == pytest.approx(1 / factor, rel=0.05)
    for other in (0.999 * temper, 1.001 * temper):
        nll = summed_nll(tempered(overconfident, log_prior, other), truth)
        assert nll > summed_nll(tempered(overconfident, log_prior, temper), truth)


def test_a_posterior_that_is_always_right_or_always_wrong_has_a_temper_at_the_limit() -> None:
    log_posterior = np.log(np.array([[0.9, 0.1], [0.2, 0.8]]))
    for truth, expected in (([0, 1], MAX_TEMPER), ([1, 0], 0.0)):
        parts = [(log_posterior, np.array(truth))]
        assert fit_temper(lambda: parts, TWO) == pytest.approx(expected, abs=1e-6)  # noqa: B023


def test_reliability_of_known_numbers() -> None:
    posterior = np.array([[0.51, 0.49], [0.52, 0.48], [0.04, 0.96], [1.0, 0.0]])
    found, truth = Reliability(2), np.array([0, 1, 1, 0])
    for k in range(2):  # of parts, as of the whole
        found.add(posterior[k::2], truth[k::2])
    rows = found.rows()
    assert [row["count"] for row in rows] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert rows[0]["confidence"] == pytest.approx(0.515) and rows[0]["accuracy"] == 0.5
    assert rows[1]["accuracy"] is None
    assert rows[9]["confidence"] == pytest.approx(0.98) and rows[9]["accuracy"] == 1.0
    assert (rows[0]["low"], rows[9]["high"]) == (0.5, 1.0)
    assert calibration_error(rows) == pytest.approx(0.5 * 0.015 + 0.5 * 0.02)
    nll = summed_nll(np.log(posterior[:3]), np.array([0, 1, 1]))
    assert nll == pytest.approx(-np.log([0.51, 0.48, 0.96]).sum())


def test_a_calibrated_posterior_has_a_small_error() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(50_000)
    truth = (rng.random(50_000) > first).astype(int)
    posterior = np.stack([first, 1 - first], axis=1)
    assert calibration_error(reliability(posterior, truth)) < 0.01
    assert calibration_error(reliability(posterior, rng.integers(0, 2, 50_000))) > 0.2


def reliability(posterior: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    found = Reliability(posterior.shape[1])
    found.add(posterior, truth)
    return found.rows()


def test_the_diagram_shows_the_bars() -> None:
    posterior = np.array([[0.55, 0.45]] * 4 + [[1.0, 0.0]] * 4)
    picture = reliability_diagram(reliability(posterior, np.array([0, 0, 1, 1, 0, 0, 0, 0])))
    blue = (picture == (31, 119, 180)).all(-1)
    heights = blue[TOP : TOP + SIDE].sum(0)
    middle = LEFT + round(0.575 * SIDE)  # of the bin from 0.55 to 0.6
    assert heights[middle] == pytest.approx(0.5 * SIDE, abs=4)  # the diagonal hides a little
    assert heights[LEFT + round(0.975 * SIDE)] == pytest.approx(SIDE, abs=4)
    assert not heights[LEFT + round(0.7 * SIDE)] and not heights[: LEFT + SIDE // 2].any()


def write(folder: Path, index: int, truth: list[int], first: list[float], known: bool) -> None:
    """Labels of one episode: `first` is the posterior of action 0; the first frame is added."""
    p = np.array([0.5, *first], np.float32)
    posterior = np.stack([p, 1 - p], axis=1)
    log_posterior = np.log(posterior)
    path = labels_path(folder, index)
    path.parent.mkdir(exist_ok=True, parents=True)
    tensors = {
        "action": posterior.argmax(1),
        "confidence": posterior.max(1),
        "entropy": -(posterior * log_posterior).sum(1),
        "posterior": posterior,
        "log_posterior": log_posterior,
        "spread": np.abs(log_posterior[:, 0] - log_posterior[:, 1]),
        "kept": np.ones(len(p), np.float32),
        "recorded": np.full(len(p), known),
        "truth": np.array([0, *truth]),
    }
    path.write_bytes(save(tensors))


def test_the_report_of_known_labels(tmp_path: Path) -> None:
    write(tmp_path, 0, [0, 1, 0, 1], [0.95, 0.05, 0.5001, 0.5001], known=True)
    write(tmp_path, 3, [0, 0, 1], [0.8, 0.98, 0.97], known=True)
    write(tmp_path, 5, [0, 0, 0], [0.001, 0.001, 0.001], known=False)
    prior = np.array([0.5, 0.5])
    settings = {"threshold": 0.75}
    figures = write_report(tmp_path, settings, [0, 3, 5], ActionSpec("discrete", n=2), prior)
    assert json.loads((tmp_path / "labelling.json").read_text()) == figures
    assert (figures["episodes"], figures["transitions"]) == (3, 10)
    assert figures["labelled"] == pytest.approx(0.8)
    assert sum(figures["entropy"]["counts"]) == 10 and figures["entropy"]["counts"][-1] == 2
    assert figures["kept"] == {"mean": 1.0, "least": 1.0}
    truth = figures["truth"]
    assert truth["transitions"] == 7
    assert truth["accuracy"] == pytest.approx(5 / 7)
    assert truth["accuracy_of_episodes"]["mean"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert truth["most_frequent_action"] == pytest.approx(4 / 7)
    assert truth["confusion"] == [[4, 0], [2, 1]]
    sure = {row["posterior"]: (row["share"], row["accuracy"]) for row in truth["confident"]}
    assert sure[0.75] == pytest.approx((5 / 7, 4 / 5))
    assert sure[0.9] == pytest.approx((4 / 7, 3 / 4))
    assert sure[0.99] == (0.0, None)
    shown = {row["low"]: (row["share"], row["accuracy"]) for row in truth["spread"]}
    assert shown[0.0] == pytest.approx((2 / 7, 1 / 2))  # frames that do not hold the answer
    assert shown[1.0] == pytest.approx((3 / 7, 1.0))  # log(0.95 / 0.05) is 2.9, of 0.8 it is 1.4
    assert truth["spread"][-1]["high"] is None
    assert truth["temper"]["transitions"] == 4
    assert truth["temper"]["at_1"]["nll"] == pytest.approx(-np.log([0.8, 0.98, 0.03]).mean(), 1e-4)
    assert truth["temper"]["fitted"] > 1.0  # the first episode errs only in doubt
    assert cv2.imread(str(tmp_path / "reliability.png")).shape[2] == 3


def test_a_report_without_true_actions(tmp_path: Path) -> None:
    write(tmp_path, 0, [0, 0], [0.9, 0.2], known=False)
    spec, prior = ActionSpec("discrete", n=2), np.array([0.5, 0.5])
    figures = write_report(tmp_path, {"threshold": 0.5}, [0], spec, prior)
    assert figures["truth"] is None and figures["labelled"] == 1.0
    assert not (tmp_path / "reliability.png").exists()
    write(tmp_path, 1, [], [], known=True)  # an episode of one frame
    figures = write_report(tmp_path, {"threshold": 0.5}, [1], spec, prior)
    assert figures["transitions"] == 0 and figures["labelled"] is None


def test_one_episode_is_too_few_to_fit_a_temper(tmp_path: Path) -> None:
    write(tmp_path, 0, [0, 0], [0.9, 0.2], known=True)
    spec, prior = ActionSpec("discrete", n=2), np.array([0.5, 0.5])
    figures = write_report(tmp_path, {"threshold": 0.5}, [0], spec, prior)
    assert figures["truth"]["temper"] is None


def test_the_report_of_a_box(tmp_path: Path) -> None:
    truth = np.array([[0, 0], [1, 0], [3, 1], [1, 0], [3, 1]], np.float32)
    action = truth + np.array([[0, 0], [0.4, 0], [-0.4, 0], [0, 0.3], [0, 0.3]], np.float32)
    entropy = np.array([0.0, -3.0, -3.0, -0.1, -0.1], np.float32)
    tensors = {
        "action": action,
        "confidence": 1 - np.exp(entropy),
        "entropy": entropy,
        "recorded": np.ones(5, np.bool_),
        "truth": truth,
    }
    path = labels_path(tmp_path, 0)
    path.parent.mkdir()
    path.write_bytes(save(tensors))
    spec = ActionSpec("box", low=(0.0, 0.0), high=(4.0, 1.0))
    figures = write_report(tmp_path, {"threshold": 0.9}, [0], spec, np.zeros(0))
    found = figures["truth"]
    assert found["in_units_of"] == [4.0, 1.0] and found["transitions"] == 4
    expected = [0.1 / np.sqrt(2), 0.3 / np.sqrt(2)]
    assert found["all"]["root_mean_squared_error"] == pytest.approx(expected, abs=1e-6)
    assert found["labelled"]["share"] == 0.5
    assert found["labelled"]["root_mean_squared_error"] == pytest.approx([0.1, 0.0], abs=1e-6)
    # of variances 1/16 and 1/4 in these units
    assert found["explained"] == pytest.approx([1 - 0.005 * 16, 1 - 0.045 * 4], abs=1e-5)
    assert figures["entropy"]["edges"][0] == -3.0 and sum(figures["entropy"]["counts"]) == 4


def test_damaged_labels_are_named(tmp_path: Path) -> None:
    write(tmp_path, 0, [0], [0.9], known=True)
    path = labels_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"000000\.safetensors.*delete it"):
        read_labels(tmp_path, 0)
    with pytest.raises(DataError, match=r"000001\.safetensors"):
        read_labels(tmp_path, 1)


def test_memory_does_not_grow_with_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report of 40 episodes holds no more posteriors than one of 2."""
    monkeypatch.setattr(metrics, "AT_ONCE", 1000)  # so that the bootstrap does not hide them
    rng, frames = np.random.default_rng(0), 1000
    spec, prior = ActionSpec("discrete", n=2), np.array([0.5, 0.5])
    for index in range(40):
        first = rng.uniform(0.01, 0.99, frames)
        write(
            tmp_path, index, (rng.random(frames) > first).astype(int).tolist(), first.tolist(), True
        )
    peaks = []
    for count in (1, 2, 40):  # the first one also loads code
        tracemalloc.start()
        write_report(tmp_path, {"threshold": 0.9}, list(range(count)), spec, prior)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    episode = labels_path(tmp_path, 0).stat().st_size
    assert peaks[2] < peaks[1] + episode  # all of them are 38 episodes more


def test_resamples_are_drawn_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    whole = metrics.bootstrap(values)
    monkeypatch.setattr(metrics, "AT_ONCE", 170)
    assert metrics.bootstrap(values) == whole
