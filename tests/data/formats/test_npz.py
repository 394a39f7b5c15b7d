"""Episodes in .npz files: streamed, led to by their actions, and refused where that is unsure."""

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.formats.base import RawEpisode
from worldflow.data.formats.npz import NPZ
from worldflow.errors import DataError


def images(length: int, height: int = 4, width: int = 6) -> np.ndarray:
    """Frame t is (t, t + 10, t + 20)."""
    colours = np.arange(length)[:, None] + np.array([0, 10, 20])
    shape = (length, height, width, 3)
    return np.broadcast_to(colours[:, None, None], shape).astype(np.uint8).copy()


def pixels(episode: RawEpisode) -> np.ndarray:
    return np.stack([frame.pixels for frame in episode.read()])


def save(path: Path, compress: bool = True, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if compress else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("compress", [True, False])
def test_an_episode_of_dreamer_v2_is_read(tmp_path: Path, compress: bool) -> None:
    actions = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]] * [[0], [1], [1], [1]]
    save(
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
    path = save(tmp_path / "x.npz", frames=images(3), actions=np.array([[4], [2]]), fps=12.5)
    data = NPZ.open(path)
    assert data.action_spec == ActionSpec("discrete", n=5)
    assert (data.fps, data.names, data.source["fps_from"]) == (12.5, ["x.npz"], "fps")
    episode = data.open(0)
    assert [frame.seconds for frame in episode.read()] == [0, 0.08, 0.16]
    assert (episode.actions is not None) and episode.actions.tolist() == [[4], [2]]
    assert (episode.rewards, episode.terminated, episode.frames) == (None, None, 3)


@pytest.mark.parametrize("marker", ["reset", "stepid"])
def test_actions_of_dreamer_v3_are_those_between_the_frames(tmp_path: Path, marker: str) -> None:
    arrays = {"is_first": np.array([True, False, False]), marker: np.zeros((3, 20), np.uint8)}
    save(tmp_path / "x.npz", image=images(3), action=np.array([3, 1, 0]), **arrays)
    episode = NPZ.open(tmp_path).open(0)
    # Action 0 was taken at image 0 and led to image 1; the last led to nothing.
    assert episode.actions is not None and episode.actions.tolist() == [3, 1]


def test_the_image_array_is_the_first_of_rank_4(tmp_path: Path) -> None:
    save(tmp_path / "x.npz", frames=np.zeros((3, 2)), obs=images(3), pixels=images(3) + 1)
    data = NPZ.open(tmp_path)
    assert data.source["keys"] == "obs"
    assert data.action_spec == ActionSpec("none")
    np.testing.assert_array_equal(pixels(data.open(0)), images(3))


def test_channels_first_grey_and_numbers_in_names(tmp_path: Path) -> None:
    save(tmp_path / "ep_10.npz", image=images(2).transpose(0, 3, 1, 2).copy())
    save(tmp_path / "ep_9.npz", image=images(2)[..., 1:2].copy())
    save(tmp_path / "._ep_1.npz", image=images(2))
    data = NPZ.open(tmp_path)
    assert data.names == ["ep_9.npz", "ep_10.npz"]
    np.testing.assert_array_equal(pixels(data.open(1)), images(2))
    np.testing.assert_array_equal(pixels(data.open(0)), images(2)[..., [1, 1, 1]])


@pytest.mark.parametrize("compress", [True, False])
def test_frames_are_streamed(tmp_path: Path, compress: bool) -> None:
    save(tmp_path / "x.npz", compress, image=np.zeros((40, 256, 512, 3), np.uint8))  # 15 MiB
    episode = NPZ.open(tmp_path).open(0)
    tracemalloc.start()
    try:
        assert sum(1 for _ in episode.read()) == 40
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_a_broken_file_is_listed_and_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "1.npz", image=images(9), action=np.arange(9)).read_bytes()
    (tmp_path / "0.npz").write_bytes(b"")
    (tmp_path / "2.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.npz").write_bytes(b"no zip at all")
    data = NPZ.open(tmp_path)
    assert data.names == ["0.npz", "1.npz", "2.npz", "3.npz"]
    assert data.action_spec == ActionSpec("discrete", n=9)
    for index in (0, 2, 3):
        with pytest.raises(DataError, match=rf"{index}\.npz: not a whole \.npz file.*again"):
            data.open(index)


@pytest.mark.parametrize("compress", [True, False])
def test_damaged_frames_are_found_while_reading(tmp_path: Path, compress: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    path = save(tmp_path / "x.npz", compress, image=noise)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz: not a whole \.npz file"):
        pixels(NPZ.open(tmp_path).open(0))


def test_frames_that_the_directory_only_claims_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (2, 4, 6, 3)}
    write_member(path, header, images(2).tobytes()[:-1])
    content = bytearray(path.read_bytes())
    size = content.rindex(b"PK\1\2") + 24  # of the member, uncompressed
    content[size] += 1
    path.write_bytes(content)
    frames = NPZ.open(tmp_path).open(0).read()
    np.testing.assert_array_equal(next(frames).pixels, images(1)[0])
    with pytest.raises(DataError, match=r"x\.npz: image ends at frame 1"):
        next(frames)


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", image=images(2), action=np.arange(2), fps=np.float64(20))
    content, random = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        broken = bytearray(content)
        broken[random.integers(len(broken))] = random.integers(256)
        path.write_bytes(broken)
        try:
            pixels(NPZ.open(path).open(0))
        except DataError:
            refused += 1
    assert refused > 50


def write_member(path: Path, header: dict[str, Any], data: bytes, version: bytes = b"\1\0") -> None:
    """An .npz file whose `image` has this header."""
    text = (repr(header) + "\n").encode()
    member = b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", member)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((2, 4, 6, 3), 143, "image is not all there"),
        ((2, 4, 6, 3), 145, "image is not all there"),
        ((-2, -4, 6, 3), 144, "image is not all there"),
        ((0, 4, 6, 3), 0, r"shape \(0, 4, 6, 3\), not \(frames, height"),
        ((1, 9000, 1, 3), 27000, "frames of 9000 x 1 pixels"),
        ((1, 5, 6, 5), 150, "no image"),
    ],
)
def test_sizes_are_checked_first(
    tmp_path: Path, shape: tuple[int, ...], size: int, message: str
) -> None:
    path = tmp_path / "x.npz"
    write_member(path, {"descr": "|u1", "fortran_order": False, "shape": shape}, bytes(size))
    with pytest.raises(DataError, match=rf"x\.npz.*{message}"):
        NPZ.open(path)


@pytest.mark.parametrize("version", [b"\4\0", b"\1\0"])
def test_a_hostile_header_is_refused(tmp_path: Path, version: bytes) -> None:
    header = {"descr": "|u1" if version == b"\4\0" else (), "fortran_order": False, "shape": (72,)}
    write_member(tmp_path / "x.npz", header, bytes(72), version)
    with pytest.raises(DataError, match=r"x\.npz: not a whole \.npz file"):
        NPZ.open(tmp_path)


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
    save(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=rf"none of its 1 episodes.*x\.npz.*{message}"):
        NPZ.open(tmp_path)


def test_an_array_too_large_to_be_read_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "x.npz", image=images(3), action=np.zeros((3, 100)))
    assert NPZ.open(tmp_path).action_spec.shape == (100,)
    monkeypatch.setattr("worldflow.data.formats.npz.MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"x\.npz: action .*more than 1000 bytes"):
        NPZ.open(tmp_path)


def test_episodes_with_other_actions_are_refused(tmp_path: Path) -> None:
    for width in (2, 3):
        save(tmp_path / f"{width}.npz", image=images(3), action=np.zeros((3, width)))
    with pytest.raises(DataError, match="2 and of 3 columns"):
        NPZ.open(tmp_path)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret = save(tmp_path / "secret.npz", image=images(2))
    save(tmp_path / "data" / "a.npz", image=images(2))
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
    save(tmp_path / "sub" / "1.npz", image=images(2))
    assert NPZ.detect(tmp_path) and NPZ.detect(tmp_path / "sub" / "1.npz")
    save(tmp_path / "0.npz", obs=np.zeros((5, 2)), action=np.arange(5))
    assert not NPZ.detect(tmp_path)  # the first readable one holds no images
    save(tmp_path / "0.npz", actions=np.arange(5))
    assert not NPZ.detect(tmp_path)
    (tmp_path / "0.npz").unlink()
    (tmp_path / "sub" / "1.MP4").write_bytes(b"")
    assert not NPZ.detect(tmp_path)  # a folder of videos, and actions beside them


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()]), allow_pickle=True)
    with zipfile.ZipFile(save(tmp_path / "x.npz", image=images(1)), "a") as archive:
        archive.writestr("action.npy", buffer.getvalue())
    with pytest.raises(DataError, match="action holds objects"):
        NPZ.open(tmp_path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))
