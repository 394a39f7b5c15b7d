"""Minari datasets that are refused or damaged: an error that names each."""

import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari_samples import DISCRETE, described, edited, frames, replaced, write_minari

from worldflow.actions import ActionSpec
from worldflow.data.formats.minari import MINARI
from worldflow.errors import ConfigError, DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:minari"),
    pytest.mark.usefixtures("minari_home"),
]


def test_a_damaged_episode_does_not_spoil_the_limits() -> None:
    folder = write_minari(
        action_space=spaces.Box(-np.inf, np.inf, (1,)),
        actions=lambda length: np.linspace(-1, length, length, dtype="f4")[:, None],
    )
    data = MINARI.open(edited(folder, replaced("episode_1/actions", np.full((5, 1), np.nan))))
    assert data.action_spec == ActionSpec("box", low=(-1,), high=(3,))
    assert len(list(data.open(0).read())) == 4
    with pytest.raises(DataError, match=r"main_data.hdf5 episode_1: the action of frame 0 is not"):
        data.open(1)


def test_actions_of_other_spaces_are_refused() -> None:
    space = spaces.Dict({"a": DISCRETE})
    folder = write_minari(
        action_space=space, actions=lambda length: {"a": np.zeros(length, np.int64)}
    )
    with pytest.raises(DataError, match=r"metadata.json: action_space is Dict.*with a Discrete"):
        MINARI.open(folder)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 1, (3,)),
        spaces.Box(0, 255, (7, 7, 3), np.uint8),  # the grid of MiniGrid
        spaces.Box(0, 1, (32, 40, 3), np.float32),
        spaces.Box(0, 255, (32, 40, 4), np.uint8),  # alpha, or four frames: not told
    ],
    ids=["vector", "symbols", "floats", "stack"],
)
def test_sets_without_pixels_are_refused(space: spaces.Box) -> None:
    def observe(images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), *space.shape), space.dtype)

    folder = write_minari(space, observations=observe, jpeg_encoding=False)
    with pytest.raises(DataError, match=r"metadata.json: .*without pixels.*render them first"):
        MINARI.open(folder)


def test_arrow_is_refused() -> None:
    folder = write_minari(data_format="arrow")
    assert MINARI.detect(folder)
    with pytest.raises(DataError, match=r"data_format is 'arrow'.*again with data_format='hdf5'"):
        MINARI.open(folder)


def test_h5py_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_minari()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"needs h5py.*pip install 'worldflow\[data\]'"):
        MINARI.open(folder)


def test_detection(tmp_path: Path) -> None:
    folder = write_minari()
    assert MINARI.detect(folder)
    assert MINARI.detect(folder / "data")
    assert not MINARI.detect(tmp_path)
    assert not MINARI.detect(tmp_path / "none")
    (tmp_path / "metadata.json").write_text('{"title": "photographs"}')
    assert not MINARI.detect(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_episodes": 3}, r"main_data.hdf5 holds 2 episodes, total_episodes in .* is 3"),
        ({"observation_space": "{"}, "no observation_space that can be read"),
        ({"observation_space": '{"type": "Dict", "subspaces": 3}'}, "no observation_space"),
        ({"action_space": None}, "no action_space that can be read"),
        ({"action_space": '{"type": "Discrete", "n": 3}'}, "no action_space .*KeyError"),
        ({"action_space": '{"type": "Box", "low": [0], "high": [[1]]}'}, "no action_space that"),
    ],
)
def test_damaged_metadata(changes: dict[str, object], message: str) -> None:
    folder = described(write_minari(), **changes)
    with pytest.raises(DataError, match=message):
        MINARI.open(folder)


def test_files_that_cannot_be_read() -> None:
    about, file = (Path("data", name) for name in ("metadata.json", "main_data.hdf5"))
    folder = write_minari()
    (folder / about).write_text("[]")
    with pytest.raises(DataError, match=r"metadata.json: holds no JSON object"):
        MINARI.open(folder)
    (folder / about).write_text("{")
    with pytest.raises(DataError, match=r"metadata.json: not readable JSON.*download"):
        MINARI.open(folder)
    (folder / about).unlink()
    with pytest.raises(DataError, match=r"metadata.json: not readable JSON"):
        MINARI.open(folder)
    folder = write_minari()
    (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    with pytest.raises(DataError, match=r"main_data.hdf5: cannot be read as HDF5.*get the file"):
        MINARI.open(folder)
    (folder / file).unlink()
    with pytest.raises(DataError, match=r"main_data.hdf5: cannot be read as HDF5"):
        MINARI.open(folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("rewards", None, "rewards is missing"),
        ("rewards", np.zeros(4), "rewards are not one number for each action"),
        ("truncations", np.array([b"no"] * 5), "truncations are not one number"),
        (
            "terminations",
            h5py.SoftLink("/episode_0/terminations"),
            "terminations is a soft",
        ),
        ("rewards", h5py.ExternalLink("other.hdf5", "/rewards"), "rewards is a soft or external"),
        ("actions", np.zeros(4, np.int64), "6 observations, but 4 actions"),
        ("actions", np.zeros((5, 2), np.int64), "actions of 2 numbers, not 1"),
        ("actions", np.full(5, 4), "actions that action_space does not have"),
        ("actions", np.full(5, -1), "actions that action_space does not have"),
        ("actions", np.zeros((0,), np.int64), "no actions"),
        ("actions", np.array([b"no"] * 5), "they must be numbers"),
        ("observations", np.zeros((6, 8, 8, 3), np.uint8), r"not frames of \(32, 40, 3\)"),
        ("observations", np.zeros((6, 32, 40, 3), np.float32), r"float32, not frames of"),
    ],
)
def test_a_damaged_episode_is_named(name: str, values: Any, message: str) -> None:
    data = MINARI.open(edited(write_minari(), replaced(f"episode_1/{name}", values)))
    assert data.open(0).frames == 4
    with pytest.raises(DataError, match=f"main_data.hdf5 episode_1: .*{message}"):
        data.open(1)


def test_data_in_other_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(8 * 5))
    folder = write_minari()
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
        outside = [(str(tmp_path / "raw"), 0, 40)]
        file["episode_1"].create_dataset("rewards", (5,), "f8", external=outside)
        del file["episode_0/rewards"]
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "raw"), "x", (3,))
        file["episode_0"].create_virtual_dataset("rewards", layout)
    data = MINARI.open(folder)
    for i in (0, 1):
        with pytest.raises(DataError, match=f"episode_{i}: the data of rewards lie in other files"):
            data.open(i)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((6, 30), np.uint8), "episode_1, frame 0: no image that can be decoded"),
        (np.zeros((6, 0), np.uint8), "episode_1, frame 0: no image that can be decoded"),
        ("small", r"frame 0 has \(8, 8\) pixels"),
    ],
)
def test_damaged_jpeg_files(values: Any, message: str) -> None:
    if isinstance(values, str):
        content = minari.dataset._storages.hdf5_storage.encode_frame(np.zeros((8, 8, 3), np.uint8))
        values = np.stack([content] * 6)
    data = MINARI.open(edited(write_minari(), replaced("episode_1/observations", values)))
    with pytest.raises(DataError, match=message):
        list(data.open(1).read())


def test_a_damaged_block_is_found_on_reading() -> None:
    folder = write_minari(jpeg_encoding=False)

    def compress(file: h5py.File) -> None:
        del file["episode_1/observations"]
        file["episode_1"].create_dataset(
            "observations", data=frames(1), chunks=(1, 32, 40, 3), compression="gzip"
        )

    edited(folder, compress)
    path = folder / "data" / "main_data.hdf5"
    with h5py.File(path) as file:
        chunk = file["episode_1/observations"].id.get_chunk_info(3)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    data = MINARI.open(folder)
    with pytest.raises(DataError, match=r"main_data.hdf5: cannot be read as HDF5.*get the file"):
        list(data.open(1).read())


def test_no_readable_images() -> None:
    folder = write_minari()
    for i in (0, 1):
        edited(folder, replaced(f"episode_{i}/observations", None))
    with pytest.raises(DataError, match=r"main_data.hdf5: no episode has images"):
        MINARI.open(folder)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = write_minari()
    file = folder / "data" / "main_data.hdf5"
    shutil.move(file, tmp_path / "elsewhere.hdf5")
    file.symlink_to(tmp_path / "elsewhere.hdf5")
    with pytest.raises(DataError, match="leads out of the data folder"):
        MINARI.open(folder)
