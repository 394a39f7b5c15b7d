"""The table of denoisers: known answers of a flow that is the identity, and the command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import denoiser_ablation
import numpy as np
import pytest
import torch
from denoiser_ablation import ALONE, CODEC, MATCHED, measure, ways

from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError
from worldflow.evaluation.clips import RealClips
from worldflow.evaluation.score_matching import EXACT, cut
from worldflow.evaluation.ssim import ssim
from worldflow.flow.flow import Flow
from worldflow.metrics import decibels, squared_error
from worldflow.storage import save_world
from worldflow.testing import tiny_config, tiny_world
from worldflow.world_model import WorldModel


def identity_world(sigma: float) -> WorldModel:
    """Of a flow whose density is the standard normal, and a denoiser that predicts nothing."""
    world = tiny_world(config=replace(tiny_config(), sigma=sigma))
    world.flow = Flow(world.config.flow, world.tokens, world.channels, world.config.condition)
    world.denoiser.projection.weight.zero_()
    world.denoiser.projection.bias.zero_()
    return world.eval().requires_grad_(False)


def noise_clips(rows: int, steps: int) -> RealClips:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (rows, steps, 64, 64, 3), dtype=np.uint8)
    valid = np.ones((rows, steps), np.bool_)
    valid[0, 3:] = False
    return RealClips(frames, rng.integers(0, 3, (rows, steps)), valid)


def test_the_score_of_a_standard_normal_shrinks_the_latents() -> None:
    """sigma d(-log p)/dy~ = sigma y~, so that Tweedie's estimate is (1 - sigma^2) y~."""
    world = identity_world(0.5)
    pieces, _ = cut(noise_clips(2, 5))
    real, shown, _ = ways(world, pieces, slice(0, 2), seed=0)
    assert np.array_equal(real, pieces.frames[[0, 1], [1, 3]])
    expected = {CODEC: world.reconstruct(torch.from_numpy(real)).numpy()}
    assert np.array_equal(shown[CODEC], expected[CODEC])
    assert np.array_equal(shown[MATCHED], shown[ALONE])  # it predicts nothing
    assert not np.array_equal(shown[ALONE], shown[CODEC])
    decoded: list[torch.Tensor] = []
    decode = world.codec.decode_frames
    world.codec.decode_frames = lambda y: decoded.append(y) or decode(y)  # type: ignore[method-assign,func-returns-value]
    ways(world, pieces, slice(0, 2), seed=0)
    _, _, before, after, noisy = decoded
    assert torch.allclose(before, 0.75 * noisy, atol=1e-5)
    assert torch.allclose(after, before, atol=1e-5)  # frames are independent


def test_without_noise_all_ways_are_the_codec() -> None:
    found = measure(identity_world(1e-6), noise_clips(3, 4), batch=2, seed=0)["ways"]
    values = [found[name]["psnr"]["mean"] for name in (CODEC, MATCHED, *EXACT, ALONE)]
    assert values == pytest.approx([values[0]] * 5, abs=1e-3)


def test_figures_are_of_the_measured_frames() -> None:
    world, clips = identity_world(0.3), noise_clips(3, 4)
    found = measure(world, clips, batch=2, seed=0)
    assert found["frames"] == 3 and found["lookahead"] == 0 and 0 <= found["beyond_limit"] < 1
    real = clips.frames[[0, 1, 2], [1, 2, 2]]
    shown = world.reconstruct(torch.from_numpy(real)).numpy()
    psnr = float(decibels(squared_error(shown, real).mean()))
    codec = found["ways"][CODEC]
    assert codec["psnr"]["mean"] == pytest.approx(psnr)
    assert codec["psnr"]["low"] <= psnr <= codec["psnr"]["high"] and codec["psnr"]["count"] == 3
    assert codec["ssim"]["mean"] == pytest.approx(ssim(shown, real).mean())


def test_the_command_prints_a_table_for_each_world(
    tmp_path: Path,
    dataset: EpisodeDataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_config()
    ahead = replace(config, denoiser=replace(config.denoiser, lookahead=1))
    worlds = [str(tmp_path / f"lookahead_{k}") for k in (0, 1)]
    for folder, each in zip(worlds, (config, ahead), strict=True):
        save_world(tiny_world(config=each), folder, "card")
    out = tmp_path / "ablation.json"
    data = (f"data.path={dataset.folder}", "data.unseen=true")
    words = ("denoiser_ablation.py", f"worlds=[{','.join(worlds)}]", *data)
    monkeypatch.setattr(sys, "argv", [*words, "clips=2", "length=5", "batch=2", f"out={out}"])
    denoiser_ablation.main()
    printed = capsys.readouterr().out
    assert printed.count("| decoder alone |") == 2
    assert "flow-score matching, lookahead 0" in printed
    assert "flow-score matching, lookahead 1" in printed
    figures = json.loads(out.read_text())["worlds"]
    assert [figures[name]["lookahead"] for name in worlds] == [0, 1]
    monkeypatch.setattr(sys, "argv", [*words, "length=1"])
    with pytest.raises(ConfigError, match="length=1"):
        denoiser_ablation.main()
