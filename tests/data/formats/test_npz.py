"""Episodes in .npz files: streamed, led to by their actions, and refused where that is unsure."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from array_samples import images, pixels, write_npz

from worldflow.actions import ActionSpec
from worldflow.data.formats.npz import NPZ
from worldflow.errors import DataError


@pytest.mark.parametrize("compress", [True, False])
def test_an_episode_of_dreamer_v2_is_read(tmp_path: Path, compress: bool) -> None:
    actions = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]] * [[0], [1], [1], [1]]
    write_npz(
        tmp_path / "a" / "20200101-x-3.npz",
        compress,
        image=images(4),
        action=actions.astype(np.float32),
        reward=np.array([0, 0.5, 0, 1], np.float32),
        is_first=np.array([True, False, False, False]),
        is_last=np.array([False, False, False, True]),
        is_terminal=np.array([False, False, False, True]),
        discount=np.ones(4, np.float32),
    )
    data = NPZ.open(tmp_path)
    assert (data.format, data.alignment, data.fps, data.lossy) == ("npz", "led_to", 30.0, None)
    assert data.names == ["a/20200101-x-3.npz"]
    assert data.action_spec == ActionSpec("box", low=(-1.0, 0.0, 0.0), high=(1.0, 1.0, 1.0))
    assert data.source == {
        "path": str(tmp_path),
        "files": 1,
        "keys": "action, image, is_terminal, reward",
        "fps_from": "assumed",
    }
    episode = data.open(0)
    assert (episode.name, episode.frames, episode.truncated) == (data.names[0], 4, False)
    for _ in range(2):  # it may be read again
        np.testing.assert_array_equal(pixels(episode), images(4))
    assert [frame.seconds for frame in episode.read()] == [i / 30 for i in range(4)]
    np.testing.assert_array_equal(episode.actions, actions)
    np.testing.assert_array_equal(episode.rewards, [0, 0.5, 0, 1])
    np.testing.assert_array_equal(episode.terminated, [False, False, False, True])


def test_discrete_actions_between_the_frames_and_a_rate(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", frames=images(3), actions=np.array([[4], [2]]), fps=12.5)
    data = NPZ.open(path)
    assert data.action_spec == ActionSpec("discrete", n=5)
    assert (data.fps, data.names, data.source["fps_from"]) == (12.5, ["x.npz"], "fps")
    episode = data.open(0)
    assert [frame.seconds for frame in episode.read()] == [0, 0.08, 0.16]
    assert (episode.actions is not None) and episode.actions.tolist() == [[4], [2]]
    assert (episode.rewards, episode.terminated, episode.frames) == (None, None, 3)


def test_a_single_frame_has_no_action(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", image=images(1), action=np.zeros(0))
    data = NPZ.open(tmp_path)
    assert data.action_spec == ActionSpec("none")
    assert data.open(0).frames == 1


@pytest.mark.parametrize("marker", ["reset", "stepid"])
def test_actions_of_dreamer_v3_are_those_between_the_frames(tmp_path: Path, marker: str) -> None:
    arrays = {
        "is_first": np.array([True, False, False]),
        "reward": np.array([0.0, 1.0, 2.0]),
        "is_terminal": np.array([False, False, True]),
        marker: np.zeros((3, 20), np.uint8),
    }
    write_npz(tmp_path / "x.npz", image=images(3), action=np.array([3, 1, 0]), **arrays)
    episode = NPZ.open(tmp_path).open(0)
    # Action 0 was taken at image 0 and led to image 1; the last led to nothing.
    assert episode.actions is not None and episode.actions.tolist() == [3, 1]
    # the reward of an image arrived with it
    assert episode.rewards is not None and episode.rewards.tolist() == [1, 2]
    assert episode.terminated is not None and episode.terminated.tolist() == [False, True]


def test_the_image_array_is_the_first_of_rank_4(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", frames=np.zeros((3, 2)), obs=images(3), pixels=images(3) + 1)
    data = NPZ.open(tmp_path)
    assert data.source["keys"] == "obs"
    assert data.action_spec == ActionSpec("none")
    np.testing.assert_array_equal(pixels(data.open(0)), images(3))


def test_channels_first_grey_and_numbers_in_names(tmp_path: Path) -> None:
    write_npz(tmp_path / "ep_10.npz", image=images(2).transpose(0, 3, 1, 2).copy())
    write_npz(tmp_path / "ep_9.npz", image=images(2)[..., 1:2].copy())
    write_npz(tmp_path / "._ep_1.npz", image=images(2))
    data = NPZ.open(tmp_path)
    assert data.names == ["ep_9.npz", "ep_10.npz"]
    np.testing.assert_array_equal(pixels(data.open(1)), images(2))
    np.testing.assert_array_equal(pixels(data.open(0)), images(2)[..., [1, 1, 1]])


@pytest.mark.parametrize("compress", [True, False])
def test_frames_are_streamed(tmp_path: Path, compress: bool) -> None:
    write_npz(tmp_path / "x.npz", compress, image=np.zeros((40, 256, 512, 3), np.uint8))  # 15 MiB
    episode = NPZ.open(tmp_path).open(0)
    tracemalloc.start()
    try:
        assert sum(1 for _ in episode.read()) == 40
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"video": images(2)}, "no array in it is named frames, images"),
        ({"image": images(2).astype(np.float32)}, "float32, not uint8"),
        ({"image": images(2)[0]}, r"image is of shape \(4, 6, 3\), not \(frames"),
        ({"image": np.asfortranarray(images(2))}, "Fortran order; save np.ascontiguousarray"),
        ({"image": np.array([b"a", None])}, "image holds objects, not numbers"),
        ({"image": images(3), "action": np.arange(4)}, r"3 frames but actions of shape \(4,\)"),
        ({"image": images(3), "action": np.int64(1)}, r"3 frames but actions of shape \(\)"),
        ({"image": images(3), "action": np.array([1, 2, None])}, "action holds objects"),
        ({"image": images(3), "action": np.array([0, np.nan, 0])}, "action of frame 1"),
        ({"image": images(3), "reward": np.zeros((3, 2))}, r"rewards of shape \(3, 2\)"),
        ({"image": images(3), "reward": np.array(["1", "2", "3"])}, "rewards of shape .*U1"),
        ({"image": images(3), "reward": np.array([0, np.inf, 0])}, "rewards hold NaN"),
        ({"image": images(3), "done": np.array([0, 0, 2])}, "terminated must be 0 or 1"),
        ({"image": images(3), "fps": np.float64(0)}, "frame rate is 0.0; correct it"),
        ({"image": images(3), "fps": np.array([1, 2])}, r"frame rate is \[1 2\]"),
        ({"image": images(3), "fps": np.array("many")}, "frame rate is many"),
        ({"image": images(3), "is_first": np.array([1, 0, 1])}, "another episode at frame 2"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    write_npz(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=rf"none of its 1 episodes.*x\.npz.*{message}"):
        NPZ.open(tmp_path)


def test_an_array_too_large_to_be_read_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz(tmp_path / "x.npz", image=images(3), action=np.zeros((3, 100)))
    assert NPZ.open(tmp_path).action_spec.shape == (100,)
    monkeypatch.setattr("worldflow.data.formats.array_files.MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"x\.npz: action .*more than 1000 bytes"):
        NPZ.open(tmp_path)


def test_episodes_with_other_actions_are_refused(tmp_path: Path) -> None:
    for width in (2, 3):
        write_npz(tmp_path / f"{width}.npz", image=images(3), action=np.zeros((3, width)))
    with pytest.raises(DataError, match=r"2 columns in 2\.npz, of 3 in 3\.npz"):
        NPZ.open(tmp_path)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret = write_npz(tmp_path / "secret.npz", image=images(2))
    write_npz(tmp_path / "data" / "a.npz", image=images(2))
    (tmp_path / "data" / "b.npz").symlink_to(secret)
    data = NPZ.open(tmp_path / "data")
    assert data.names == ["a.npz", "b.npz"]
    with pytest.raises(DataError, match=r"b\.npz leads out of the data folder"):
        data.open(1)
    assert NPZ.open(tmp_path / "data" / "b.npz").names == ["b.npz"]  # the user named it


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file ending in \.npz"):
        NPZ.open(tmp_path)


def test_detection(tmp_path: Path) -> None:
    assert not NPZ.detect(tmp_path)
    (tmp_path / "0.npz").write_bytes(b"broken")
    assert not NPZ.detect(tmp_path)
    write_npz(tmp_path / "sub" / "1.npz", image=images(2))
    assert NPZ.detect(tmp_path) and NPZ.detect(tmp_path / "sub" / "1.npz")
    write_npz(tmp_path / "0.npz", obs=np.zeros((5, 2)), action=np.arange(5))
    assert not NPZ.detect(tmp_path)  # the first readable one holds no images
    write_npz(tmp_path / "0.npz", actions=np.arange(5))
    assert not NPZ.detect(tmp_path)
