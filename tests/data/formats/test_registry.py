"""The registry: a sample of each format is told from all others, and opened as what it is."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from array_samples import write_csgo
from lerobot_samples import write_lerobot
from minari_samples import write_minari
from video_samples import NOISE, write_video

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode
from worldflow.data.formats.registry import FORMATS, detect, open_recordings
from worldflow.data.metadata import DatasetMetadata
from worldflow.data.writing import WRITERS
from worldflow.errors import ConfigError, DataError

FRAMES = np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3)


def written(kind: str, folder: Path) -> Path:
    """An episode of FRAMES and the actions 0, 1, 2, 1, 0, by one of our own writers."""
    spec, size = ActionSpec("discrete", n=3), (8, 8, 3)
    metadata = DatasetMetadata({}, spec, size, 10.0, 0, {}, has_rewards=True, has_terminations=True)
    episode = Episode(
        frames=FRAMES,
        actions=np.array([0, 1, 2, 1, 0]),
        rewards=np.zeros(5, np.float32),
        terminated=np.zeros(5, np.bool_),
        known=np.arange(5) > 0,
        seed=0,
        truncated=False,
    )
    WRITERS[kind](folder, metadata).add(0, episode)
    return folder


def csgo(folder: Path) -> Path:
    folder.mkdir()
    write_csgo(folder / "hdf5_1.hdf5", 5)
    return folder


# What is written of each format, and how many frames its first episode has.
SAMPLES: dict[str, tuple[str, Callable[[Path], Path], int]] = {
    "store": ("store", lambda folder: written("store", folder), 5),
    "npz": ("npz", lambda folder: written("npz", folder), 5),
    "groups": ("hdf5", lambda folder: written("hdf5", folder), 5),
    "csgo": ("hdf5", csgo, 5),
    "video": ("video", lambda folder: written("video", folder), 5),
    "minari": ("minari", lambda folder: write_minari(), 4),
    "lerobot 2.1": ("lerobot", lambda folder: write_lerobot(folder, "v2.1"), 14),
    "lerobot 3.0": ("lerobot", lambda folder: write_lerobot(folder, "v3.0", image=True), 14),
}


def test_every_format_has_a_sample() -> None:
    assert {kind for kind, _, _ in SAMPLES.values()} == FORMATS.keys()


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.usefixtures("minari_home")
@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_told_and_opened(tmp_path: Path, name: str) -> None:
    kind, write, count = SAMPLES[name]
    path = write(tmp_path / "sample")
    assert detect(path).name == kind
    for recordings in (open_recordings(path), open_recordings(path, kind)):
        assert recordings.format == kind
        assert recordings.source["path"] == str(path)
        assert recordings.fps > 0
        episode = recordings.open(0)
        assert episode.name == recordings.names[0]
        assert episode.frames in (count, None)
        frames = list(episode.read())
        assert len(frames) == count
        assert {(frame.pixels.dtype, frame.pixels.shape[2]) for frame in frames} == {
            (np.dtype(np.uint8), 3)
        }


@pytest.mark.parametrize("kind", ["store", "npz", "hdf5", "video"])
def test_what_our_own_writers_wrote_is_read(tmp_path: Path, kind: str) -> None:
    recordings = open_recordings(written(kind, tmp_path / "sample"))
    episode = recordings.open(0)
    np.testing.assert_array_equal([frame.pixels for frame in episode.read()], FRAMES)
    assert episode.actions is not None
    between = episode.actions[1:] if recordings.alignment == "led_to" else episode.actions
    assert between.tolist() == [1, 2, 1, 0]


def test_videos_with_arrays_beside_them_are_videos(tmp_path: Path) -> None:
    write_video(tmp_path / "deep" / "a.mkv", NOISE[:2])
    np.savez(tmp_path / "0.npz", image=NOISE[:2], actions=[0])
    assert detect(tmp_path).name == "video"


def test_what_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no episodes of a known format") as error:
        open_recordings(tmp_path)
    assert all(f"{name}: " in str(error.value) for name in FORMATS)
    for kind in ("auto", "npz"):
        with pytest.raises(DataError, match="nowhere does not exist; give a folder or a file"):
            open_recordings(tmp_path / "nowhere", kind)
    with pytest.raises(ConfigError, match="format 'avi' is unknown; use auto, store"):
        open_recordings(tmp_path, "avi")


def test_only_their_own_formats_need_h5py_and_pyarrow(tmp_path: Path) -> None:
    """In a process of its own, where nothing has imported them yet."""
    for kind in ("store", "npz", "hdf5", "video"):
        written(kind, tmp_path / kind)
    write_lerobot(tmp_path / "lerobot")
    code = """
import sys
sys.modules.update(dict.fromkeys(["h5py", "pyarrow", "pyarrow.parquet"]))
from pathlib import Path
from worldflow.data.formats.registry import FORMATS, detect, open_recordings
from worldflow.errors import ConfigError
for folder in sorted(Path(sys.argv[1]).iterdir()):
    entry = detect(folder)
    assert entry.name == folder.name, (entry, folder)
    try:
        assert len(list(open_recordings(folder).open(0).read())) == 5
        needs = None
    except ConfigError as error:
        assert "pip install 'worldflow[data]'" in str(error), error
        needs = "data"
    assert needs == entry.extra, entry
    print(folder.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["hdf5", "lerobot", "npz", "store", "video"], done.stderr
