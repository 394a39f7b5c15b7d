"""From data without actions, rewards and ends to a world, and from there to one with actions."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import SIZE, tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.data.convert import ConvertConfig
from worldflow.data.convert import main as convert
from worldflow.data.formats.decoding import read_frames
from worldflow.data.importing import ImportConfig
from worldflow.errors import ConfigError, MissingHeadError
from worldflow.flow.outcomes import PREFERENCE
from worldflow.heads.config import HeadsConfig
from worldflow.pictures.video import write_video
from worldflow.storage import load_world
from worldflow.training.initial import other_split
from worldflow.training.pretrain import PretrainConfig, main
from worldflow.world_spec import HeldOut

HELD = HeldOut(0.1, 0, episodes=20, recordings=20, frames=400)
OPEN = HeadsConfig(hidden=8, reward=None, termination=None)


def with_data(config: PretrainConfig, path: Path, **changes: object) -> PretrainConfig:
    """The same settings for a folder that must be imported, with heads left open."""
    return replace(
        config,
        data=replace(config.data, path=str(path), size=SIZE),
        world=replace(config.world, heads=OPEN),
        **changes,  # type: ignore[arg-type]
    )


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Videos without actions, rewards or ends."""
    write_dataset(tmp_path / "store", ActionSpec("none"))
    folder = tmp_path / "videos"
    convert(ConvertConfig(str(tmp_path / "store"), str(folder), "video", ImportConfig(size=SIZE)))
    for steps in folder.glob("*.npz"):
        steps.unlink()
    return folder


def test_videos_alone_give_a_world(videos: Path, tmp_path: Path) -> None:
    config = with_data(tiny_pretraining(videos, tmp_path / "run"), videos)
    world = load_world(main(config))
    assert world.action_spec.kind == "none"
    assert world.reward_head is None
    assert world.termination_head is None
    with pytest.raises(MissingHeadError):
        world.require_heads()


def test_one_video_alone_gives_a_world(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = sorted(videos.glob("*.mkv"))
    frames = np.concatenate(
        [np.stack([frame.pixels for frame in read_frames(path)]) for path in recordings]
    )
    (tmp_path / "one").mkdir()
    write_video(tmp_path / "one/clip.mp4", frames, fps=10.0)
    config = with_data(tiny_pretraining(tmp_path / "one", tmp_path / "run"), tmp_path / "one")
    world = load_world(main(config))
    assert len(frames) == 48  # in parts of 24
    assert world.spec.held_out is not None
    assert world.spec.held_out.episodes == 3  # a part begins with the last frame of the one before
    assert "clip.mp4 is all there is: it is cut into parts of 24" in capsys.readouterr().out


def test_a_world_of_videos_is_the_start_of_one_with_actions(videos: Path, tmp_path: Path) -> None:
    base = main(with_data(tiny_pretraining(videos, tmp_path / "base"), videos))
    labelled = tmp_path / "labelled"
    write_dataset(labelled, ActionSpec("discrete", n=3))
    config = with_data(
        tiny_pretraining(labelled, tmp_path / "run"), labelled, initial_world=str(base)
    )
    training = replace(config.training, flow=replace(config.training.flow, learning_rate=0.0))
    tuned = load_world(main(replace(config, training=training)))
    assert tuned.action_spec == ActionSpec("discrete", n=3)
    assert tuned.reward_head is not None
    before, after = load_world(base).state_dict(), tuned.state_dict()
    for name, value in before.items():  # without a step, all weights are those of the start
        assert torch.equal(value, after[name]), name
    assert "conditioning.table.weight" in after

    again = load_world(main(replace(config, out=str(tmp_path / "steps")))).state_dict()
    changed = {name for name in before if not torch.equal(before[name], again[name])}
    assert any(name.startswith("flow.") for name in changed)
    assert not any(name.startswith("codec.") for name in changed)


def test_outcomes_grow_from_a_world_without(videos: Path, tmp_path: Path) -> None:
    config = with_data(tiny_pretraining(videos, tmp_path / "run"), videos)
    base = main(config)
    flow = config.world.flow
    block = replace(flow.global_block, outcomes=3)
    world = replace(config.world, flow=replace(flow, global_block=block))
    still = replace(config.training, flow=replace(config.training.flow, learning_rate=0.0))
    more = replace(
        config, world=world, training=still, initial_world=str(base), out=str(tmp_path / "more")
    )
    grown, plain = load_world(main(more)), load_world(base)
    context = plain.context
    frames, actions = torch.from_numpy(context.frames[:2]), torch.from_numpy(context.actions[:2])
    noisy = plain.noisy_latents(frames, torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = plain.flow(noisy, plain.conditioning(actions)).log_prob
        after = grown.flow(noisy, grown.conditioning(actions)).log_prob
    # the first outcome is the world that there was, with this log probability of each token
    first = -math.log(1.0 + 2.0 * math.exp(-PREFERENCE))
    assert (after >= before + plain.tokens * first - 1e-3).all()
    with pytest.raises(ConfigError, match=r"is built otherwise \(flow\.global_block\.outcomes"):
        main(replace(config, initial_world=str(tmp_path / "more/world"), out=str(tmp_path / "d")))


def test_a_world_goes_on_with_another_window(videos: Path, tmp_path: Path) -> None:
    config = with_data(tiny_pretraining(videos, tmp_path / "run"), videos)
    base, window = main(config), config.world.flow.window
    world = replace(config.world, flow=replace(config.world.flow, window=window + 2))
    still = replace(config.training, flow=replace(config.training.flow, learning_rate=0.0))
    more = replace(
        config, world=world, training=still, initial_world=str(base), out=str(tmp_path / "more")
    )
    wider, before = load_world(main(more)), load_world(base)
    assert all(torch.equal(x, wider.state_dict()[name]) for name, x in before.state_dict().items())
    assert wider.config.flow.window == window + 2


def test_what_cannot_be_learned_or_started_from_is_named(videos: Path, tmp_path: Path) -> None:
    config = with_data(tiny_pretraining(videos, tmp_path / "run"), videos)
    asked = replace(config, world=replace(config.world, heads=HeadsConfig(8, reward=True)))
    with pytest.raises(ConfigError, match=r"world\.heads\.reward=true, but the data have no rew"):
        main(asked)
    base = main(config)
    other = replace(config.world, sigma=0.5)
    with pytest.raises(ConfigError, match=r"is built otherwise \(sigma\)"):
        main(replace(config, world=other, initial_world=str(base), out=str(tmp_path / "b")))
    wider = replace(config.world, codec=replace(config.world.codec, widths=[8, 8, 8, 16]))
    with pytest.raises(ConfigError, match=r"is built otherwise \(codec\."):
        main(replace(config, world=wider, initial_world=str(base), out=str(tmp_path / "c")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, False),
        ({"seed": 1}, True),
        ({"fraction": 0.2}, True),
        ({"growing": True}, True),
        ({"seed": 1, "episodes": 21}, False),
        ({"seed": 1, "frames": 399}, False),
    ],
)
def test_the_same_data_split_otherwise_are_told(change: dict[str, float], said: bool) -> None:
    assert (other_split(HELD, replace(HELD, **change)) is not None) == said  # type: ignore[arg-type]
    before = replace(HELD, frames=None)  # a world of before frames were counted
    if "frames" not in change:
        assert (other_split(before, replace(HELD, **change)) is not None) == said  # type: ignore[arg-type]


def test_a_run_warns_where_it_measures_on_what_was_learned_from(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    first = tiny_pretraining(tmp_path / "data", tmp_path / "first")
    base = main(first)
    again = replace(first, initial_world=str(base), out=str(tmp_path / "again"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main(again)
    other = replace(again, training=replace(again.training, seed=1), out=str(tmp_path / "other"))
    with pytest.warns(
        UserWarning, match=r"split otherwise \(data\.held_out=0\.34 training\.seed=0"
    ):
        main(other)
