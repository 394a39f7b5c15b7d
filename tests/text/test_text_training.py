"""Training on captions: dropout, the cache, resuming, and how a world starts from another."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from training_runs import tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.errors import ConfigError
from worldflow.storage import load_world
from worldflow.testing import tiny_world
from worldflow.text.words import WordEncoder
from worldflow.training.batches import FrameEpisodes
from worldflow.training.captions import FILE, check_text_dropout, encode_captions
from worldflow.training.flow_gradients import clip_noise, some_text
from worldflow.training.flow_stage import FlowStage
from worldflow.training.flow_validation import other_texts, told_otherwise
from worldflow.training.loop import row_generators
from worldflow.training.pretrain import PretrainConfig, main
from worldflow.training.settings import TrainingConfig

CAPTIONS = ["goes left", "goes right", None]


def captioned(folder: Path) -> EpisodeDataset:
    """The moving square, every third episode without a caption."""
    write_dataset(folder / "plain", ActionSpec("discrete", n=3))
    plain = EpisodeDataset(folder / "plain")
    writer = EpisodeWriter(folder / "data", plain.metadata)
    for index in range(len(plain)):
        writer.add(index, replace(plain.read(index), caption=CAPTIONS[index % 3]))
    return EpisodeDataset(folder / "data")


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    captioned(tmp_path)
    return replace(tiny_pretraining(tmp_path / "data", tmp_path / "run"), text="words")


def test_captions_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = captioned(tmp_path)
    found = encode_captions("words", dataset, tmp_path)
    assert found.spec.examples == ("goes left", "goes right")
    assert found.vectors.shape == (6, WordEncoder.width)
    assert np.array_equal(found.vectors[0], WordEncoder().encode(["goes left"])[0].numpy())
    assert not found.vectors[2].any()
    monkeypatch.setattr(WordEncoder, "encode", lambda *_: pytest.fail("encoded again"))
    assert np.array_equal(encode_captions("words", dataset, tmp_path).vectors, found.vectors)


@pytest.mark.parametrize("damage", ["other", "cut"])
def test_a_cache_of_other_captions_or_damaged_is_written_anew(tmp_path: Path, damage: str) -> None:
    dataset = captioned(tmp_path)
    expected = encode_captions("words", dataset, tmp_path).vectors
    if damage == "cut":
        (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:20])
    else:
        dataset.captions[0] = "flies"
        assert not np.array_equal(encode_captions("words", dataset, tmp_path).vectors, expected)
        dataset.captions[0] = "goes left"
    assert np.array_equal(encode_captions("words", dataset, tmp_path).vectors, expected)


def test_text_without_captions_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", ActionSpec("none"))
    with pytest.raises(ConfigError, match=r"no episode in .* has a caption"):
        encode_captions("words", EpisodeDataset(tmp_path / "d"), tmp_path)


def test_captions_are_hidden_at_the_stated_rate_and_nothing_else_is_drawn() -> None:
    rows, text = range(2000), torch.ones(2000, 3)
    known = torch.ones(2000, 2, dtype=torch.bool)

    def draw(text: torch.Tensor) -> tuple[torch.Tensor, ...]:
        generators = row_generators(0, "flow", 5, rows)
        noise, shown = clip_noise(generators, (2, 1, 1), known, 0.5)
        return noise, shown, some_text(generators, text, 0.25)

    noise, shown, kept = draw(text)
    plain_noise, plain_shown, none = draw(text[:, :0])
    assert torch.equal(noise, plain_noise) and torch.equal(shown, plain_shown)
    assert none.shape == (2000, 0)
    hidden = ~kept.any(dim=1)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    # independently of the actions
    both = (hidden & ~shown[:, 0]).float().mean().item()
    assert both == pytest.approx(0.125, abs=0.03)


def test_batches_have_the_text_of_their_episodes(tmp_path: Path) -> None:
    dataset = captioned(tmp_path)
    vectors = np.arange(12, dtype=np.float32).reshape(6, 2)
    codec = tiny_world(frame_size=32).codec
    batch = FrameEpisodes(codec, dataset, vectors).batch([(4, 1), (0, 0)], 3)
    assert batch.text.tolist() == [[8.0, 9.0], [0.0, 1.0]]
    assert FrameEpisodes(codec, dataset).batch([(4, 1)], 3).text.shape == (1, 0)


def test_other_texts_are_of_other_clips() -> None:
    a, b, none = [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]
    assert other_texts(torch.tensor([a, a, b, none])).tolist() == [b, b, a, a]
    assert other_texts(torch.tensor([a, none])).tolist() == [a, a]
    assert other_texts(torch.tensor([a, a])).tolist() == [a, a]
    assert other_texts(torch.zeros(2, 0)).shape == (2, 0)


def test_the_gap_is_of_clips_that_have_a_caption() -> None:
    a, b, none = [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]
    text = torch.tensor([a, b, none, a])
    assert told_otherwise(text, torch.tensor([b, a, a, a])).tolist() == [True, True, False, False]
    assert told_otherwise(torch.zeros(2, 0), torch.zeros(2, 0)).tolist() == [False, False]


def test_hiding_all_captions_or_none_is_refused(config: PretrainConfig) -> None:
    config.training.flow.text_dropout = 1.0
    with pytest.raises(ConfigError, match=r"training.flow.text_dropout=1 hides every caption"):
        main(config)
    check_text_dropout("here", 0.0, ["a", None])
    check_text_dropout("here", 0.1, ["a", "b"])
    with pytest.raises(ConfigError, match="here=0, and every episode has a caption"):
        check_text_dropout("here", 0.0, ["a", "b"])


def test_a_world_says_whether_actions_were_hidden_from_it(config: PretrainConfig) -> None:
    config.training.flow.action_dropout = 0.0
    first = main(replace(config, text=None))
    assert load_world(first).spec.knows_unknown_actions is False
    again = main(replace(config, text=None, initial_world=str(first), out=config.out + "2"))
    assert load_world(again).spec.knows_unknown_actions is None
    config.training.flow.action_dropout = 0.1
    hidden = main(replace(config, text=None, out=config.out + "3"))
    assert load_world(hidden).spec.knows_unknown_actions is True


@pytest.mark.parametrize("mode", ["two-stage", "joint"])
def test_a_world_learns_from_captions(config: PretrainConfig, mode: str) -> None:
    config.training.codec_mode = mode
    config.data.held_out = 0.6  # with both captions
    config.training.joint.steps = config.training.joint.validate_every = 4
    config.training.joint.batch = config.training.joint.clip = 4
    world = load_world(main(config))
    assert world.spec.text is not None
    assert world.spec.text.encoder == "words"
    assert world.conditioning.text_projection.weight.shape == (8, WordEncoder.width)
    assert "held_out_text_gap" in (Path(config.out) / "metrics.jsonl").read_text()


def test_an_interrupted_run_continues_to_the_same_bits(config: PretrainConfig) -> None:
    whole = load_world(main(config)).state_dict()
    again = replace(config, out=config.out + "2")
    update, calls = FlowStage.update, []

    def stop(self: FlowStage, step: int) -> dict[str, torch.Tensor]:
        calls.append(step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlowStage, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            main(again)
    continued = load_world(main(again)).state_dict()
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


def test_text_belongs_to_the_settings_of_a_run(config: PretrainConfig) -> None:
    main(config)
    settings = json.loads((Path(config.out) / "run.json").read_text())
    assert settings["text"] == {"encoder": "words", "digest": WordEncoder.digest}
    assert settings["training"]["flow"]["text_dropout"] == 0.1
    with pytest.raises(ConfigError, match="text"):
        main(replace(config, text=None))


def test_runs_without_text_have_the_settings_that_they_had(config: PretrainConfig) -> None:
    config = replace(config, text=None)
    assert load_world(main(config)).spec.text is None
    settings = json.loads((Path(config.out) / "run.json").read_text())
    assert "text" not in settings
    assert "text_dropout" not in settings["training"]["flow"]


def test_a_world_without_text_is_a_start_for_one_with(config: PretrainConfig) -> None:
    first = main(replace(config, text=None, out=config.out + "1"))
    second = load_world(main(replace(config, initial_world=str(first))))
    assert second.spec.text is not None
    third = load_world(
        main(replace(config, initial_world=str(Path(config.out) / "world"), out=config.out + "3"))
    )
    assert third.spec.text == second.spec.text


@pytest.mark.parametrize("stage", ["flow", "joint"])
def test_dropout_is_a_share(stage: str) -> None:
    settings = TrainingConfig()
    with pytest.raises(ConfigError, match=rf"training.{stage}.text_dropout is 1.5"):
        replace(getattr(settings, stage), text_dropout=1.5)
