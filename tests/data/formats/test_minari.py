"""Minari datasets that Minari itself wrote: what was written is read."""

from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari_samples import IMAGE, LENGTHS, frames, write_minari

from worldflow.actions import ActionSpec
from worldflow.data.formats.minari import MINARI

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:minari"),
    pytest.mark.usefixtures("minari_home"),
]


@pytest.mark.parametrize("inner", [False, True])
def test_lossless_frames_are_read_exactly(inner: bool) -> None:
    folder = write_minari(jpeg_encoding=False)
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
    folder = write_minari(observations=same, jpeg_encoding=True)
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
    episode = MINARI.open(write_minari(jpeg_encoding=False)).open(1)
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

    data = MINARI.open(write_minari(space, observations=observe, jpeg_encoding=False))
    assert data.source["image"] == f"observations/{chosen}"
    others = sorted(f"observations/{name}" for name in names if name != chosen)
    assert data.source["other_images"] == others
    np.testing.assert_array_equal([f.pixels for f in data.open(1).read()], frames(1))


def test_an_image_within_a_tuple_within_a_dict() -> None:
    space = spaces.Dict({"see": spaces.Tuple((spaces.Discrete(2), IMAGE))})
    folder = write_minari(
        space,
        observations=lambda images: {"see": (np.zeros(len(images), np.int64), images)},
        jpeg_encoding=False,
    )
    data = MINARI.open(folder)
    assert data.source["image"] == "observations/see/_index_1"
    np.testing.assert_array_equal([f.pixels for f in data.open(0).read()], frames(0))


@pytest.mark.parametrize("jpeg", [False, True])
def test_grey_and_channels_first(jpeg: bool) -> None:
    grey = write_minari(
        spaces.Box(0, 255, (32, 40), np.uint8),
        observations=lambda images: images[..., 0],
        jpeg_encoding=jpeg,
    )
    found = np.stack([f.pixels for f in MINARI.open(grey).open(0).read()])
    expected = frames(0)[..., :1].repeat(3, axis=3)
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=4 if jpeg else 0)
    first = write_minari(
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
    folder = write_minari(
        action_space=space,
        actions=lambda length: np.concatenate([np.array(actions)] * 2)[:length],
        jpeg_encoding=False,
    )
    data = MINARI.open(folder)
    assert data.action_spec == spec
    np.testing.assert_array_equal(data.open(0).actions, expected)
