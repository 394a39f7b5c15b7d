"""The file of latents: what is in it, when it is used again, and when it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldflow.actions import ActionSpec
from worldflow.codec import Codec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.errors import DataError
from worldflow.testing import tiny_world
from worldflow.training import latents as module
from worldflow.training.latents import LatentEpisodes

LENGTHS = (5, 3, 70, 4)


@pytest.fixture
def dataset(tmp_path: Path) -> EpisodeDataset:
    spec = ActionSpec("discrete", n=3)
    writer = EpisodeWriter(tmp_path / "data", DatasetMetadata({}, spec, (32, 32, 3), 8.0, 0, {}))
    rng = np.random.default_rng(0)
    for index, length in enumerate(LENGTHS):
        writer.add(
            index,
            Episode(
                frames=rng.integers(0, 256, (length, 32, 32, 3), dtype=np.uint8),
                actions=rng.integers(0, 3, length),
                rewards=rng.random(length, dtype=np.float32),
                terminated=np.arange(length) == length - 1,
                known=rng.random(length) < 0.5,
                seed=0,
                truncated=False,
            ),
        )
    return EpisodeDataset(tmp_path / "data")


@pytest.fixture
def codec() -> Codec:
    return tiny_world(frame_size=32).codec


def encoded(codec: Codec, dataset: EpisodeDataset, index: int) -> torch.Tensor:
    return codec.encode_frames(torch.from_numpy(dataset.read(index).frames))


def test_a_batch_is_what_the_episodes_hold(
    codec: Codec, dataset: EpisodeDataset, tmp_path: Path
) -> None:
    batch = LatentEpisodes(codec, dataset, tmp_path / "latents").batch([(2, 60), (1, 1)], 4)
    torch.testing.assert_close(batch.latents[0], encoded(codec, dataset, 2)[60:64])
    torch.testing.assert_close(batch.latents[1, :2], encoded(codec, dataset, 1)[1:])
    assert not batch.latents[1, 2:].any()
    assert batch.valid.tolist() == [[True] * 4, [True, True, False, False]]
    episode = dataset.read(2, 60, 64)
    for name in ("actions", "known", "rewards", "terminated"):
        assert getattr(batch, name)[0].tolist() == getattr(episode, name).tolist()


def count_encoded(monkeypatch: pytest.MonkeyPatch, codec: Codec) -> list[int]:
    """Numbers of frames that are encoded from now on, one of each call."""
    calls: list[int] = []
    original = codec.encode_frames

    def counting(frames: torch.Tensor) -> torch.Tensor:
        calls.append(len(frames))
        return original(frames)

    monkeypatch.setattr(codec, "encode_frames", counting)
    return calls


def test_the_file_is_used_again_for_the_same_codec_and_data_only(
    codec: Codec, dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "latents"
    calls = count_encoded(monkeypatch, codec)
    LatentEpisodes(codec, dataset, folder)
    assert sum(calls) == sum(LENGTHS)
    calls.clear()
    LatentEpisodes(codec, dataset, folder)
    assert not calls
    with torch.no_grad():
        next(codec.parameters()).add_(0.1)
    again = LatentEpisodes(codec, dataset, folder)
    assert sum(calls) == sum(LENGTHS)
    torch.testing.assert_close(again.batch([(0, 0)], 5).latents[0], encoded(codec, dataset, 0))


def test_a_file_that_was_being_written_is_continued_and_a_damaged_one_mended(
    codec: Codec, dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "latents"
    LatentEpisodes(codec, dataset, folder)
    whole = (folder / "latents.bin").read_bytes()
    state = json.loads((folder / "latents.json").read_text())
    calls = count_encoded(monkeypatch, codec)

    (folder / "latents.json").write_text(json.dumps({**state, "sums": state["sums"][:2]}))
    LatentEpisodes(codec, dataset, folder)
    assert sum(calls) == sum(LENGTHS[2:])
    assert (folder / "latents.bin").read_bytes() == whole

    calls.clear()
    damaged = bytearray(whole)
    damaged[-5] ^= 1  # in the last episode
    (folder / "latents.bin").write_bytes(damaged)
    LatentEpisodes(codec, dataset, folder)
    assert sum(calls) == LENGTHS[-1]
    assert (folder / "latents.bin").read_bytes() == whole


def test_a_full_disk_is_named(
    codec: Codec, dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"latents\.bin needs 0\.0 GB for the latents of 82 frames"):
        LatentEpisodes(codec, dataset, tmp_path / "latents")
