"""The file of latents: what is in it, when it is used again, and when it is not."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

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
from worldflow.training import latent_file as module
from worldflow.training.distributed import Ranks
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


def test_holes_of_a_file_that_is_being_filled_are_not_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4 * 1000 * 64 * 8  # bytes of 1000 frames
    file = module.LatentFile(tmp_path, np.array([600, 400]), (64, 8))
    usage = type("Usage", (), {"free": size})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    file.prepare("key")  # killed before a frame was written
    assert (tmp_path / "latents.bin").stat().st_size == size
    usage.free = size - (1 << 20)
    with pytest.raises(DataError, match=r"latents\.bin needs 0\.0 GB"):
        file.prepare("key")
    (tmp_path / "latents.bin").write_bytes(bytes(size))  # all of it written
    usage.free = 1 << 16
    assert file.prepare("key") == [None, None]

    class Windows:
        st_size = 70

    assert module._taken(Windows()) == 70  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "\xff",
        "[]",
        "{}",
        '{"key": KEY}',
        '{"key": KEY, "sums": 3}',
        '{"key": KEY, "sums": [1, "x"]}',
        '{"key": KEY, "sums": {"4": 1}}',  # there are four episodes
        '{"key": KEY, "sums": {"-1": 1}}',
    ],
)
def test_damaged_sums_are_none(
    codec: Codec,
    dataset: EpisodeDataset,
    tmp_path: Path,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "latents"
    LatentEpisodes(codec, dataset, folder)
    whole, state = (folder / "latents.bin").read_bytes(), (folder / "latents.json").read_text()
    calls = count_encoded(monkeypatch, codec)
    damaged = text.replace("KEY", json.dumps(json.loads(state)["key"])).encode("latin-1")
    (folder / "latents.json").write_bytes(damaged)
    LatentEpisodes(codec, dataset, folder)
    assert sum(calls) == sum(LENGTHS)
    assert (folder / "latents.bin").read_bytes() == whole
    assert (folder / "latents.json").read_text() == state
    assert "latents.json is damaged" in capsys.readouterr().err


def test_sums_that_several_ranks_noted_before_a_kill_are_used(
    codec: Codec, dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "latents"
    LatentEpisodes(codec, dataset, folder)
    whole, state = (folder / "latents.bin").read_bytes(), (folder / "latents.json").read_text()
    key, sums = json.loads(state)["key"], json.loads(state)["sums"]
    calls = count_encoded(monkeypatch, codec)
    for rank, episodes in ((0, [0]), (11, [2])):  # neither had come to its second
        part = {"key": key, "sums": {str(index): sums[index] for index in episodes}}
        (folder / f"latents.{rank}.json").write_text(json.dumps(part))
    stale = {"key": "another", "sums": {"1": sums[1]}}
    (folder / "latents.7.json").write_text(json.dumps(stale))
    (folder / "latents.json").write_text(json.dumps({"key": key, "sums": [None] * 4}))
    LatentEpisodes(codec, dataset, folder)
    assert sum(calls) == LENGTHS[1] + LENGTHS[3]
    assert (folder / "latents.bin").read_bytes() == whole
    assert sorted(path.name for path in folder.iterdir()) == ["latents.bin", "latents.json"]
    assert (folder / "latents.json").read_text() == state


class Threads(Ranks):
    """Ranks that are threads of one process."""

    def __init__(self, rank: int, barrier: threading.Barrier, board: dict[int, Any]) -> None:
        super().__init__(rank, barrier.parties)
        object.__setattr__(self, "meet", (barrier, board))

    def gather(self, value: Any) -> list[Any]:
        barrier, board = self.meet  # type: ignore[attr-defined]
        board[self.rank] = value
        barrier.wait(timeout=60)
        values = [board[rank] for rank in range(self.size)]
        barrier.wait(timeout=60)
        return values

    def share(self, value: Any) -> Any:
        return self.gather(value)[0]


def test_ranks_encode_a_part_each_under_the_key_of_the_main_one(
    codec: Codec, dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if one's weights are of other bits: alone, it would take the file for a foreign one."""
    alone = LatentEpisodes(codec, dataset, tmp_path / "alone")
    unlike = copy.deepcopy(codec)
    next(unlike.parameters()).data.mul_(1 + 1e-6)
    codecs, barrier, board = [codec, unlike], threading.Barrier(2), dict[int, Any]()
    calls = [count_encoded(monkeypatch, each) for each in codecs]
    found: dict[int, LatentEpisodes] = {}

    def open_latents(rank: int) -> None:
        ranks = Threads(rank, barrier, board)
        found[rank] = LatentEpisodes(codecs[rank], dataset, tmp_path / "both", ranks)

    for expected in ([LENGTHS[0] + LENGTHS[2], LENGTHS[1] + LENGTHS[3]], [0, 0]):
        threads = [threading.Thread(target=open_latents, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [sum(each) for each in calls] == expected
        for each in calls:
            each.clear()
    for rank in range(2):
        for index in range(4):
            ours, wanted = found[rank].latents[index], alone.latents[index]
            np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)
    LatentEpisodes(codec, dataset, tmp_path / "both")  # alone, it finds what both wrote
    assert not calls[0]
