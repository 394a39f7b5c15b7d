"""The episode store: alignment, equal bytes, and errors that name the file and the remedy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.episodes import EpisodeDataset, EpisodeWriter
from worldflow.data.metadata import DatasetMetadata
from worldflow.errors import DataError

METADATA = DatasetMetadata(
    source={"env_id": "worldflow/Catch-v0", "frame_size": 8},
    action_spec=ActionSpec("discrete", n=5),
    frame_shape=(8, 8, 3),
    fps=8.75,
    seed=3,
    collect={"steps": 10},
)


def episode(length: int, seed: int = 0, truncated: bool = False) -> Episode:
    """Frame t is filled with t; action t is t % 5; reward t is t / 2."""
    steps = np.arange(length)
    frames = np.broadcast_to(steps[:, None, None, None], (length, 8, 8, 3)).astype(np.uint8)
    terminated = np.zeros(length, dtype=np.bool_)
    terminated[-1] = not truncated
    rewards, known = (steps / 2).astype(np.float32), steps != 2
    return Episode(frames, steps % 5, rewards, terminated, known, seed, truncated)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = EpisodeWriter(tmp_path / "set", METADATA)
    writer.add(0, episode(4, seed=2**100))
    writer.add(1, episode(7, truncated=True))
    return tmp_path / "set"


def test_what_is_written_is_read(folder: Path) -> None:
    dataset = EpisodeDataset(folder)
    assert len(dataset) == 2
    assert dataset.steps == 3 + 6
    assert dataset.lengths.tolist() == [4, 7]
    assert dataset.metadata == METADATA
    assert dataset.action_spec == ActionSpec("discrete", n=5)
    assert dataset.frame_shape == (8, 8, 3)
    for i, expected in enumerate((episode(4, 2**100), episode(7, truncated=True))):
        found = dataset.read(i)
        for name in ("frames", "actions", "rewards", "terminated"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            assert getattr(found, name).dtype == getattr(expected, name).dtype
        assert (found.seed, found.truncated) == (expected.seed, expected.truncated)


def test_a_slice_keeps_actions_rewards_and_frames_aligned(folder: Path) -> None:
    piece = EpisodeDataset(folder).read(1, 2, 6)
    assert len(piece) == 4
    assert piece.frames[:, 0, 0, 0].tolist() == [2, 3, 4, 5]
    assert piece.actions.tolist() == [2, 3, 4, 0]
    assert piece.rewards.tolist() == [1.0, 1.5, 2.0, 2.5]
    assert not piece.truncated  # the cut came at frame 6, which is not in the slice
    assert EpisodeDataset(folder).read(1, 2, 99).truncated


def test_box_actions_are_kept_as_float32(tmp_path: Path) -> None:
    metadata = replace(METADATA, action_spec=ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 2.0)))
    actions = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)
    EpisodeWriter(tmp_path, metadata).add(0, replace(episode(3), actions=actions))
    dataset = EpisodeDataset(tmp_path)
    np.testing.assert_array_equal(dataset.read(0).actions, actions)
    assert dataset.metadata == metadata


def test_same_content_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        writer = EpisodeWriter(tmp_path / name, METADATA)
        # A strided view has the same content and other memory.
        twice = np.repeat(episode(5).frames, 2, axis=0)
        frames = twice[::2] if name == "b" else episode(5).frames
        path = writer.add(0, replace(episode(5, truncated=True), frames=frames))
        contents.append((path.read_bytes(), (tmp_path / name / "dataset.json").read_bytes()))
    assert contents[0] == contents[1]


def test_a_partial_file_is_no_episode(folder: Path) -> None:
    (folder / "episodes" / "000002.safetensors.partial").write_bytes(b"half")
    assert EpisodeWriter(folder, METADATA).finished_indices() == [0, 1]
    assert len(EpisodeDataset(folder)) == 2


def test_continuing_with_other_settings_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"'seed' is 3, this run has 4.*another output folder"):
        EpisodeWriter(folder, replace(METADATA, seed=4))
    assert EpisodeWriter(folder, METADATA).finished_indices() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((3, 8, 8, 3), np.float32)}, "frames must be"),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "at least one frame"),
        ({"actions": np.zeros(4, np.int64)}, "3 frames but actions"),
        ({"actions": np.zeros(3, np.int32)}, "actions must be int64 or float32"),
        ({"rewards": np.zeros(3)}, "rewards must be"),
        ({"terminated": np.zeros(2, np.bool_)}, "terminated must be"),
    ],
)
def test_an_episode_checks_its_arrays(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(episode(3), **change)


def test_the_writer_checks_the_episode(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, METADATA)
    with pytest.raises(DataError, match="but the dataset"):
        writer.add(0, replace(episode(3), frames=np.zeros((3, 16, 8, 3), np.uint8)))
    with pytest.raises(DataError, match="action spec"):
        writer.add(0, replace(episode(3), actions=np.zeros((3, 2), np.float32)))
    assert writer.finished_indices() == []


def test_missing_pieces_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is no folder.*worldflow collect"):
        EpisodeDataset(tmp_path / "nowhere")
    EpisodeWriter(tmp_path / "empty", METADATA)
    with pytest.raises(DataError, match=r"empty holds no episodes.*worldflow collect"):
        EpisodeDataset(tmp_path / "empty")
    (folder / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset\.json is missing.*worldflow collect"):
        EpisodeDataset(folder)
    with pytest.raises(DataError, match="missing beside episodes"):
        EpisodeWriter(folder, METADATA)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    path = folder / "episodes" / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"000001\.safetensors.*delete the file"):
        EpisodeDataset(folder)


def test_a_file_damaged_after_opening_is_named(folder: Path) -> None:
    dataset = EpisodeDataset(folder)
    dataset.paths[0].unlink()
    with pytest.raises(DataError, match=r"000000\.safetensors.*delete the file"):
        dataset.read(0)


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", "{}", '{"seed": "x", "truncated": false}', '{"truncated": false}']
)
def test_a_damaged_header_is_named(folder: Path, text: str) -> None:
    dataset = EpisodeDataset(folder)
    path = folder / "episodes" / "000001.safetensors"
    save_file(load_file(path), path, {"episode": text})
    whole = r"000001\.safetensors: not a whole episode.*`episode` cannot be read.*delete the file"
    with pytest.raises(DataError, match=whole):
        EpisodeDataset(folder)
    with pytest.raises(DataError, match=whole):  # damaged after it was opened
        dataset.read(1)
    with pytest.raises(DataError, match=whole):
        dataset.steps_of(1)


def test_a_foreign_file_is_named(folder: Path) -> None:
    path = folder / "episodes" / "000001.safetensors"
    save_file({"weights": np.zeros(3)}, path)
    with pytest.raises(DataError, match=r"000001\.safetensors.*weights"):
        EpisodeDataset(folder)
    path.unlink()
    path.with_name("model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"model\.safetensors: not an episode's name"):
        EpisodeDataset(folder)


def test_a_wrong_shape_is_named(folder: Path) -> None:
    other = replace(METADATA, frame_shape=(16, 8, 3))
    EpisodeWriter(folder.parent / "other", other).add(
        1, replace(episode(3), frames=np.zeros((3, 16, 8, 3), np.uint8))
    )
    path = folder / "episodes" / "000001.safetensors"
    path.write_bytes((folder.parent / "other/episodes/000001.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"000001.*frames is \(3, 16, 8, 3\), must be \(3, 8"):
        EpisodeDataset(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "format_version is 9"),
        ({"colour": 1}, r"unknown fields \['colour'\]"),
        ({"frame_shape": [8, 8]}, "frame_shape"),
    ],
)
def test_a_foreign_dataset_json_is_named(folder: Path, change: dict, message: str) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=rf"dataset\.json.*{message}"):
        EpisodeDataset(folder)
    path.write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: not valid JSON"):
        EpisodeDataset(folder)


def test_reading_outside_is_an_index_error(folder: Path) -> None:
    dataset = EpisodeDataset(folder)
    for arguments in ((2,), (-1,), (0, 4), (0, 2, 2), (0, -1)):
        with pytest.raises(IndexError):
            dataset.read(*arguments)


def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    linked = folder / "episodes" / "000001.safetensors"
    linked.rename(tmp_path / "elsewhere.safetensors")
    linked.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(DataError, match=r"000001\.safetensors leads out of the data folder"):
        EpisodeDataset(folder)
    (tmp_path / "another name").symlink_to(folder)  # the folder itself may be a link
    linked.unlink()
    assert len(EpisodeDataset(tmp_path / "another name")) == 1


def test_a_dataset_of_version_1_says_what_was_true_then(folder: Path) -> None:
    path = folder / "dataset.json"
    values = json.loads(path.read_text())
    old = {k: v for k, v in values.items() if k not in ("has_rewards", "has_terminations", "lossy")}
    path.write_text(json.dumps({**old, "format_version": 1}))
    for file in (folder / "episodes").iterdir():
        with safe_open(file, framework="numpy") as stored:
            facts = stored.metadata()
            tensors = {k: stored.get_tensor(k) for k in stored.keys() if k != "known"}  # noqa: SIM118
        file.write_bytes(save(tensors, facts))
    dataset = EpisodeDataset(folder)
    metadata = dataset.metadata
    assert (metadata.has_rewards, metadata.has_terminations, metadata.lossy) == (True, True, None)
    assert dataset.read(1, 1, 5).known.tolist() == [True] * 4
