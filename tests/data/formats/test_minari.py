"""Minari datasets that Minari itself wrote: what is read, what is refused, and what is damaged."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from worldflow.actions import ActionSpec
from worldflow.data.formats.minari import MINARI
from worldflow.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

IMAGE = spaces.Box(0, 255, (32, 40, 3), np.uint8)
DISCRETE = spaces.Discrete(4)
LENGTHS = (3, 5)  # actions


def frame(episode: int, t: int) -> np.ndarray:
    """Smooth, so that JPEG keeps it nearly; red throughout, and no two frames are alike."""
    rows, columns = np.mgrid[:32, :40]
    red = 150 + 3 * columns - 20 * episode + rows
    return np.stack([red, rows * 2 + 10 * t, 4 * t + 0 * rows], axis=-1).clip(0, 255).astype("u1")


def frames(episode: int) -> np.ndarray:
    return np.stack([frame(episode, t) for t in range(LENGTHS[episode] + 1)])


def write(
    observation_space: spaces.Space = IMAGE,
    action_space: spaces.Space = DISCRETE,
    observations: Callable[[np.ndarray], Any] = lambda images: images,
    actions: Callable[[int], Any] = lambda length: np.arange(length) % 4,
    **options: Any,
) -> Path:
    """Write two episodes, the first terminated, the second truncated."""
    buffers = []
    for episode, length in enumerate(LENGTHS):
        last = np.arange(length) == length - 1
        buffers.append(
            EpisodeBuffer(
                observations=observations(frames(episode)),
                actions=actions(length),
                rewards=list(np.arange(length) / 2 + episode),
                terminations=list(last & (episode == 0)),
                truncations=list(last & (episode == 1)),
            )
        )
    root = Path(os.environ["MINARI_DATASETS_PATH"])
    name = f"world/set{len(list(root.glob('world/*')))}-v0"  # a name can be taken once
    minari.create_dataset_from_buffers(
        name,
        buffers,
        observation_space=observation_space,
        action_space=action_space,
        **options,
    )
    return root / name


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "minari").mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def edited(folder: Path, edit: Callable[[h5py.File], None]) -> Path:
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        edit(file)
    return folder


def described(folder: Path, **changes: object) -> Path:
    about = folder / "data" / "metadata.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), **changes}))
    return folder


def replaced(name: str, values: Any) -> Callable[[h5py.File], None]:
    """An edit that puts other values in a place."""

    def edit(file: h5py.File) -> None:
        del file[name]
        if values is not None:
            file[name] = values

    return edit


@pytest.mark.parametrize("inner", [False, True])
def test_lossless_frames_are_read_exactly(inner: bool) -> None:
    folder = write(jpeg_encoding=False)
    data = MINARI.open(folder / "data" if inner else folder)
    assert data.names == [
        ("" if inner else "data/") + f"main_data.hdf5 episode_{i}" for i in (0, 1)
    ]
    assert data.action_spec == ActionSpec("discrete", n=4)
    assert (data.format, data.alignment, data.fps, data.lossy) == ("minari", "taken_at", 30, None)
    assert data.source == {
        "path": str(folder / "data" if inner else folder),
        "dataset_id": "world/set0-v0",
        "image": "observations",
        "other_images": [],
        "fps": "assumed, as Minari records none",
    }
    for i, length in enumerate(LENGTHS):
        episode = data.open(i)
        for _ in range(2):  # it can be read again
            found = list(episode.read())
            assert [f.seconds for f in found] == [t / 30 for t in range(length + 1)]
            np.testing.assert_array_equal([f.pixels for f in found], frames(i))
        assert (episode.name, episode.frames) == (data.names[i], length + 1)
        np.testing.assert_array_equal(episode.actions, np.arange(length) % 4)
        np.testing.assert_array_equal(episode.rewards, np.arange(length) / 2 + i)
        np.testing.assert_array_equal(episode.terminated, [False] * (length - 1) + [i == 0])
        assert episode.terminated.dtype == np.bool_
        assert episode.truncated == (i == 1)


@pytest.mark.parametrize("alike", [False, True])
def test_jpeg_frames_are_what_minari_reads(alike: bool) -> None:
    # Frames that are alike give files of one length, which are stored as a matrix.
    same = (lambda images: np.repeat(images[:1], len(images), axis=0)) if alike else (lambda x: x)
    folder = write(observations=same, jpeg_encoding=True)
    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        assert file["episode_0/observations"].ndim == (2 if alike else 1)
    data = MINARI.open(folder)
    assert data.lossy == "JPEG"
    for i, theirs in enumerate(minari.load_dataset("world/set0-v0").iterate_episodes()):
        found = np.stack([f.pixels for f in data.open(i).read()])
        np.testing.assert_allclose(found.astype(int), theirs.observations.astype(int), atol=1)
        np.testing.assert_allclose(found.astype(int), same(frames(i)).astype(int), atol=24)
        assert found[..., 0].mean() > found[..., 2].mean() + 100  # red, not blue


def test_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldflow.data.formats.minari.BLOCK_BYTES", 2 * 32 * 40 * 3)
    episode = MINARI.open(write(jpeg_encoding=False)).open(1)
    np.testing.assert_array_equal([f.pixels for f in episode.read()], frames(1))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("a", "b"), "a"),
        (("a", "rgb"), "rgb"),
        (("a", "pixels", "rgb"), "pixels"),
        (("rgb", "pixels", "image"), "image"),
    ],
)
def test_one_image_of_several_is_taken_by_name(names: tuple[str, ...], chosen: str) -> None:
    parts = dict.fromkeys(names, IMAGE)
    space = spaces.Dict({**parts, "speed": spaces.Box(-1, 1, (2,))})

    def observe(images: np.ndarray) -> dict[str, np.ndarray]:
        others = {name: np.zeros_like(images) for name in names}
        return {**others, chosen: images, "speed": np.zeros((len(images), 2), np.float32)}

    data = MINARI.open(write(space, observations=observe, jpeg_encoding=False))
    assert data.source["image"] == f"observations/{chosen}"
    others = sorted(f"observations/{name}" for name in names if name != chosen)
    assert data.source["other_images"] == others
    np.testing.assert_array_equal([f.pixels for f in data.open(1).read()], frames(1))


def test_an_image_within_a_tuple_within_a_dict() -> None:
    space = spaces.Dict({"see": spaces.Tuple((spaces.Discrete(2), IMAGE))})
    folder = write(
        space,
        observations=lambda images: {"see": (np.zeros(len(images), np.int64), images)},
        jpeg_encoding=False,
    )
    data = MINARI.open(folder)
    assert data.source["image"] == "observations/see/_index_1"
    np.testing.assert_array_equal([f.pixels for f in data.open(0).read()], frames(0))


@pytest.mark.parametrize("jpeg", [False, True])
def test_grey_and_channels_first(jpeg: bool) -> None:
    grey = write(
        spaces.Box(0, 255, (32, 40), np.uint8),
        observations=lambda images: images[..., 0],
        jpeg_encoding=jpeg,
    )
    found = np.stack([f.pixels for f in MINARI.open(grey).open(0).read()])
    expected = frames(0)[..., :1].repeat(3, axis=3)
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=4 if jpeg else 0)
    first = write(
        spaces.Box(0, 255, (3, 32, 40), np.uint8),
        observations=lambda images: images.transpose(0, 3, 1, 2),
        jpeg_encoding=jpeg,  # Minari takes no JPEG of these
    )
    assert MINARI.open(first).lossy is None
    np.testing.assert_array_equal([f.pixels for f in MINARI.open(first).open(0).read()], frames(0))


@pytest.mark.parametrize(
    ("space", "actions", "spec", "expected"),
    [
        (spaces.Discrete(3, start=-1), [1, -1, 0], ActionSpec("discrete", n=3), [2, 0, 1]),
        (
            spaces.Box(np.array([-1, -2], "f4"), np.array([1, 2], "f4")),
            np.float32([[0.5, 0], [1, -2], [0, 0]]),
            ActionSpec("box", low=(-1, -2), high=(1, 2)),
            [[0.5, 0], [1, -2], [0, 0]],
        ),
        (
            spaces.Box(-1, 1, (2, 2)),
            np.float32(np.arange(12).reshape(3, 2, 2) / 12),
            ActionSpec("box", low=(-1,) * 4, high=(1,) * 4),
            np.float32(np.arange(12).reshape(3, 4) / 12),
        ),
        (
            spaces.Box(-np.inf, np.inf, (1,)),
            np.float32([[0.5], [-3], [0]]),
            ActionSpec("box", low=(-3,), high=(0.5,)),
            [[0.5], [-3], [0]],
        ),
        (
            spaces.Box(-np.inf, np.inf, (1,)),
            [[5], [3], [0]],
            ActionSpec("box", low=(0,), high=(5,)),
            [[5], [3], [0]],
        ),
        (
            spaces.Box(-100, 2**31 - 1, (1,), np.int32),
            np.int32([[5], [3], [0]]),
            ActionSpec("box", low=(-100,), high=(2**31 - 1,)),
            [[5], [3], [0]],
        ),
        (
            spaces.MultiDiscrete([3, 2]),
            [[2, 0], [0, 1], [1, 1]],
            ActionSpec("box", low=(0, 0), high=(2, 1)),
            [[2, 0], [0, 1], [1, 1]],
        ),
        (spaces.MultiDiscrete([3]), [[2], [0], [1]], ActionSpec("discrete", n=3), [2, 0, 1]),
        (
            spaces.MultiBinary(2),
            np.int8([[1, 0], [0, 1], [0, 1]]),
            ActionSpec("box", low=(0, 0), high=(1, 1)),
            [[1, 0], [0, 1], [0, 1]],
        ),
    ],
    ids=["start", "box", "matrix", "endless", "integers", "whole", "multi", "single", "binary"],
)
def test_actions(space: spaces.Space, actions: Any, spec: ActionSpec, expected: Any) -> None:
    folder = write(
        action_space=space,
        actions=lambda length: np.concatenate([np.array(actions)] * 2)[:length],
        jpeg_encoding=False,
    )
    data = MINARI.open(folder)
    assert data.action_spec == spec
    np.testing.assert_array_equal(data.open(0).actions, expected)


def test_a_damaged_episode_does_not_spoil_the_limits() -> None:
    folder = write(
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
    folder = write(action_space=space, actions=lambda length: {"a": np.zeros(length, np.int64)})
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

    folder = write(space, observations=observe, jpeg_encoding=False)
    with pytest.raises(DataError, match=r"metadata.json: .*without pixels.*render them first"):
        MINARI.open(folder)


def test_arrow_is_refused() -> None:
    folder = write(data_format="arrow")
    assert MINARI.detect(folder)
    with pytest.raises(DataError, match=r"data_format is 'arrow'.*again with data_format='hdf5'"):
        MINARI.open(folder)


def test_h5py_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"needs h5py.*pip install 'worldflow\[data\]'"):
        MINARI.open(folder)


def test_detection(tmp_path: Path) -> None:
    folder = write()
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
    folder = described(write(), **changes)
    with pytest.raises(DataError, match=message):
        MINARI.open(folder)


def test_files_that_cannot_be_read() -> None:
    about, file = (Path("data", name) for name in ("metadata.json", "main_data.hdf5"))
    folder = write()
    (folder / about).write_text("[]")
    with pytest.raises(DataError, match=r"metadata.json: holds no JSON object"):
        MINARI.open(folder)
    (folder / about).write_text("{")
    with pytest.raises(DataError, match=r"metadata.json: not readable JSON.*download"):
        MINARI.open(folder)
    (folder / about).unlink()
    with pytest.raises(DataError, match=r"metadata.json: not readable JSON"):
        MINARI.open(folder)
    folder = write()
    (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    with pytest.raises(DataError, match=r"main_data.hdf5 cannot be read.*download the dataset"):
        MINARI.open(folder)
    (folder / file).unlink()
    with pytest.raises(DataError, match=r"main_data.hdf5 cannot be read"):
        MINARI.open(folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("rewards", None, "rewards is missing"),
        ("rewards", np.zeros(4), "rewards are not one number for each action"),
        ("truncations", np.array([b"no"] * 5), "truncations are not one number"),
        ("terminations", h5py.SoftLink("/episode_0/terminations"), "terminations is missing"),
        ("rewards", h5py.ExternalLink("other.hdf5", "/rewards"), "rewards is missing, or no array"),
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
    data = MINARI.open(edited(write(), replaced(f"episode_1/{name}", values)))
    assert data.open(0).frames == 4
    with pytest.raises(DataError, match=f"main_data.hdf5 episode_1: .*{message}"):
        data.open(1)


def test_data_in_other_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(8 * 5))
    folder = write()
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
        with pytest.raises(
            DataError, match=f"episode_{i}: rewards is missing, or no array in this"
        ):
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
    data = MINARI.open(edited(write(), replaced("episode_1/observations", values)))
    with pytest.raises(DataError, match=message):
        list(data.open(1).read())


def test_a_damaged_block_is_found_on_reading() -> None:
    folder = write(jpeg_encoding=False)

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
    with pytest.raises(DataError, match=r"main_data.hdf5 cannot be read.*download the dataset"):
        list(data.open(1).read())


def test_no_readable_images() -> None:
    folder = write()
    for i in (0, 1):
        edited(folder, replaced(f"episode_{i}/observations", None))
    with pytest.raises(DataError, match=r"main_data.hdf5: no episode has images"):
        MINARI.open(folder)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = write()
    file = folder / "data" / "main_data.hdf5"
    shutil.move(file, tmp_path / "elsewhere.hdf5")
    file.symlink_to(tmp_path / "elsewhere.hdf5")
    with pytest.raises(DataError, match="leads out of the data folder"):
        MINARI.open(folder)
