"""Importing recordings: which action led to which frame, at which rate, and what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.data.formats.base import RawEpisode, RawFrame
from worldflow.data.formats.store import StoreEpisodes
from worldflow.data.importing import ImportConfig, import_dataset, summary
from worldflow.data.journal import is_unfinished
from worldflow.data.resize import fit_frame
from worldflow.data.writing import NpzWriter
from worldflow.errors import ConfigError, DataError

DISCRETE = ActionSpec("discrete", n=100)


class Recordings:
    """Recordings in memory; frame k is filled with k. An exception stands for a damaged file."""

    format, lossy = "memory", None

    def __init__(
        self,
        *recordings: dict[str, Any] | DataError,
        spec: ActionSpec = DISCRETE,
        alignment: str = "taken_at",
        fps: float = 10.0,
    ) -> None:
        self.recordings, self.action_spec, self.alignment = recordings, spec, alignment
        self.fps = fps
        self.names = [f"{index}.rec" for index in range(len(recordings))]
        self.source = {"path": "memory"}
        self.decoded: list[str] = []

    def open(self, index: int) -> RawEpisode:
        recording = self.recordings[index]
        if isinstance(recording, DataError):
            raise recording
        settings = dict(recording)
        seconds = settings.pop("seconds", None)
        count = settings.pop("count", None) or len(seconds)
        damaged_at = settings.pop("damaged_at", None)

        def read() -> Iterator[RawFrame]:
            self.decoded.append(self.names[index])
            for k in range(count):
                if k == damaged_at:
                    raise DataError(f"{self.names[index]}: damaged at frame {k}; replace it")
                when = seconds[k] if seconds is not None else k / self.fps
                yield RawFrame(when, np.full((8, 8, 3), k, np.uint8))

        return RawEpisode(name=self.names[index], read=read, **settings)


def imported(folder: Path, raw: Recordings, **settings: Any) -> EpisodeDataset:
    import_dataset(raw, folder, ImportConfig(size=8, **settings), progress=False)
    return EpisodeDataset(folder)


def shown(dataset: EpisodeDataset, index: int = 0) -> list[int]:
    """Which recorded frames an episode consists of."""
    return dataset.read(index).frames[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("alignment", "count", "expected"),
    [
        # five actions 10..14 of five frames
        ("taken_at", 5, [0, 10, 11, 12, 13]),
        ("led_to", 5, [0, 11, 12, 13, 14]),
        # five actions between six frames
        ("taken_at", 6, [0, 10, 11, 12, 13, 14]),
        ("led_to", 6, [0, 10, 11, 12, 13, 14]),
    ],
)
def test_actions_are_those_that_led_to_the_frame(
    tmp_path: Path, alignment: str, count: int, expected: list[int]
) -> None:
    values = np.arange(10, 15)
    raw = Recordings(
        {"count": count, "frames": count, "actions": values, "rewards": values / 2},
        alignment=alignment,
    )
    episode = imported(tmp_path / "set", raw).read(0)
    assert episode.actions.tolist() == expected
    assert episode.known.tolist() == [False, *[True] * (count - 1)]
    after = 14 if (alignment, count) == ("taken_at", 5) else 0  # came after the last frame
    rewards = [value / 2 for value in expected]
    rewards[-1] += after / 2
    assert episode.rewards.tolist() == rewards


def test_a_termination_after_the_last_frame_is_kept(tmp_path: Path) -> None:
    ended = np.array([False, False, True])
    dataset = imported(tmp_path / "set", Recordings({"count": 3, "terminated": ended}))
    assert dataset.read(0).terminated.tolist() == [False, False, True]
    assert dataset.metadata.has_terminations
    assert not dataset.metadata.has_rewards


def test_the_users_alignment_wins(tmp_path: Path) -> None:
    raw = Recordings({"count": 3, "actions": np.array([5, 6, 7])})
    assert imported(tmp_path / "a", raw).read(0).actions.tolist() == [0, 5, 6]
    led_to = imported(tmp_path / "b", raw, alignment="led_to")
    assert led_to.read(0).actions.tolist() == [0, 6, 7]


@pytest.mark.parametrize(
    ("aggregate", "expected"), [(None, [0, 3, 1]), ("mode", [0, 3, 1]), ("last", [0, 2, 2])]
)
def test_actions_within_a_skip(tmp_path: Path, aggregate: str | None, expected: list[int]) -> None:
    # between frames 0 to 3 and 3 to 6
    actions, rewards = np.array([3, 3, 2, 1, 1, 2]), np.arange(6.0)
    raw = Recordings({"count": 7, "actions": actions, "rewards": rewards})
    dataset = imported(tmp_path / "set", raw, frame_skip=3, aggregate=aggregate)
    episode = dataset.read(0)
    assert shown(dataset) == [0, 3, 6]
    assert episode.actions.tolist() == expected
    assert episode.rewards.tolist() == [0, 0 + 1 + 2, 3 + 4 + 5]
    assert dataset.metadata.fps == pytest.approx(10 / 3)


@pytest.mark.parametrize("alignment", ["led_to", "taken_at"])
@pytest.mark.parametrize(("skip", "segment"), [(4, 2000), (1, 10), (1, 4), (3, 4), (2, 5)])
def test_no_end_is_lost(tmp_path: Path, alignment: str, skip: int, segment: int) -> None:
    last = np.arange(10) == 9
    raw = Recordings({"count": 10, "rewards": 1.0 * last, "terminated": last}, alignment=alignment)
    dataset = imported(tmp_path / "set", raw, frame_skip=skip, segment=segment)
    episodes = [dataset.read(index) for index in range(len(dataset))]
    assert [e.terminated.any() for e in episodes] == [False] * (len(episodes) - 1) + [True]
    assert sum(e.rewards.sum() for e in episodes) == 1.0
    assert episodes[-1].terminated[-1]
    assert max(len(e) for e in episodes) <= segment
    cut = imported(
        tmp_path / "cut",
        Recordings({"count": 10, "truncated": True}),
        frame_skip=skip,
        segment=segment,
    )
    ends = [cut.read(index).truncated for index in range(len(cut))]
    assert ends == [False] * (len(ends) - 1) + [True]


def test_the_last_of_equally_frequent_actions_counts(tmp_path: Path) -> None:
    raw = Recordings({"count": 5, "actions": np.array([1, 2, 2, 1])})
    assert imported(tmp_path / "set", raw, frame_skip=4).read(0).actions.tolist() == [0, 1]


def test_box_actions_within_a_skip_are_averaged(tmp_path: Path) -> None:
    spec = ActionSpec("box", low=(0.0,), high=(8.0,))
    raw = Recordings({"count": 5, "actions": np.array([[1.0], [3.0], [5.0], [8.0]])}, spec=spec)
    episode = imported(tmp_path / "set", raw, frame_skip=2).read(0)
    assert episode.actions.tolist() == [[0.0], [2.0], [6.5]]
    assert episode.actions.dtype == np.float32


def test_a_variable_rate_becomes_constant(tmp_path: Path) -> None:
    seconds = [0.0, 0.1, 0.15, 0.2, 0.7, 0.8]
    raw = Recordings({"seconds": seconds, "actions": np.arange(1, 6)})
    dataset = imported(tmp_path / "set", raw, fps=5)
    # on screen at 0, 0.2, 0.4, 0.6 and 0.8 s
    assert shown(dataset) == [0, 3, 3, 3, 5]
    episode = dataset.read(0)
    assert episode.known.tolist() == [False, True, False, False, True]
    assert episode.actions.tolist() == [0, 3, 0, 0, 5]
    assert dataset.metadata.fps == 5


def test_a_jump_in_time_is_named(tmp_path: Path) -> None:
    raw = Recordings({"seconds": [0.0, 0.1, 1e9]})
    with pytest.raises(DataError, match=r"0\.rec: time jumps from 0 to 1000000000 seconds"):
        imported(tmp_path / "set", raw, fps=5)
    assert shown(imported(tmp_path / "all", raw)) == [0, 1, 2]


def test_more_frames_than_were_recorded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.fps=20, but only 10 a second"):
        imported(tmp_path / "set", Recordings({"count": 3}), fps=20)


def test_recordings_are_cut_where_they_end_and_where_they_are_long(tmp_path: Path) -> None:
    ended = np.array([False, True, False, False, False, False, False])  # taken at frame 1
    raw = Recordings({"count": 8, "actions": np.arange(1, 8), "terminated": ended})
    dataset = imported(tmp_path / "set", raw, segment=4)
    assert [shown(dataset, k) for k in range(len(dataset))] == [[0, 1, 2], [3, 4, 5, 6], [6, 7]]
    parts = [dataset.read(k) for k in range(3)]
    assert [part.actions.tolist() for part in parts] == [[0, 1, 2], [0, 4, 5, 6], [0, 7]]
    assert [part.terminated[-1] for part in parts] == [True, False, False]
    assert [part.recording for part in parts] == ["0.rec"] * 3
    again = tmp_path / "again"  # of our own store, cut anew: still parts of the same recording
    import_dataset(StoreEpisodes(tmp_path / "set"), again, ImportConfig(segment=3), progress=False)
    assert EpisodeDataset(again).recordings.tolist() == [0] * 4


def test_unknown_actions_stay_unknown(tmp_path: Path) -> None:
    known = np.array([True, False, True, True])
    raw = Recordings({"count": 5, "actions": np.arange(1, 5), "known": known}, {"count": 2})
    dataset = imported(tmp_path / "set", raw)
    assert dataset.read(0).known.tolist() == [False, True, False, True, True]
    assert dataset.read(0).actions.tolist() == [0, 1, 0, 3, 4]
    assert dataset.read(1).known.tolist() == [False, False]


DAMAGED = DataError("1.rec: is no recording; replace it")


def test_damaged_recordings_are_refused_or_named(tmp_path: Path) -> None:
    raw = Recordings({"count": 3}, DAMAGED, {"count": 9, "damaged_at": 7}, {"count": 4})
    with pytest.raises(DataError, match=r"1\.rec: is no recording; .*data\.on_error=skip"):
        imported(tmp_path / "a", raw)
    assert not raw.decoded  # before anything was decoded
    done = import_dataset(
        raw, tmp_path / "a", ImportConfig(size=8, on_error="skip", segment=4), progress=False
    )
    dataset = EpisodeDataset(tmp_path / "a")
    assert [shown(dataset, k) for k in range(len(dataset))] == [[0, 1, 2], [0, 1, 2, 3]]
    text = summary(done)
    assert text.startswith("imported 7 frames in 2 episodes from 2 of 4 recordings")
    assert "1.rec: is no recording" in text
    assert "2.rec: damaged at frame 7" in text


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        ({"count": 4, "actions": np.arange(6)}, "4 frames but 6 actions.*; 4 or 3 are needed"),
        ({"count": 4, "actions": np.arange(2)}, "fewer actions than frames"),
        ({"count": 3, "actions": np.array([1, 100, 3])}, r"0\.rec: discrete actions must lie in"),
        ({"count": 3, "rewards": np.array([1.0, np.nan, 3.0])}, "a reward is not a number"),
        (
            {"count": 3, "actions": np.arange(3), "rewards": np.arange(2.0)},
            r"\[2, 3\] entries; they must be of one length",
        ),
    ],
)
def test_steps_that_do_not_fit_are_named(
    tmp_path: Path, recording: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        imported(tmp_path / "set", Recordings(recording))


def test_nothing_to_import(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="memory: is empty"):
        imported(tmp_path / "a", Recordings())
    with pytest.raises(DataError, match=r"no recording can be read; the first: 1\.rec"):
        imported(tmp_path / "b", Recordings(DAMAGED), on_error="skip")
    with pytest.raises(DataError, match="no episode can be read"):
        imported(tmp_path / "c", Recordings({"count": 3, "damaged_at": 1}), on_error="skip")
    with pytest.raises(DataError, match="holds no frames"):
        imported(tmp_path / "d", Recordings({"seconds": []}))


def test_an_import_that_was_killed_continues(tmp_path: Path) -> None:
    recordings = [{"count": count, "actions": np.arange(count)} for count in (5, 3, 6)]
    whole = imported(tmp_path / "whole", Recordings(*recordings), segment=4)

    folder = tmp_path / "killed"
    broken = Recordings(*recordings[:2], {**recordings[2], "damaged_at": 5})
    with pytest.raises(DataError, match=r"2\.rec: damaged"):
        imported(folder, broken, segment=4)
    assert is_unfinished(folder)
    with pytest.raises(DataError, match="did not come to its end"):
        EpisodeDataset(folder)
    with (folder / "import.jsonl").open("a") as stream:
        stream.write('{"name": "2.r')  # killed while it wrote
    again = Recordings(*recordings)
    continued = imported(folder, again, segment=4)
    assert not is_unfinished(folder)
    assert again.decoded == ["2.rec"]
    assert len(continued) == len(whole)
    for a, b in zip(whole.paths, continued.paths, strict=True):
        assert a.read_bytes() == b.read_bytes()
    done = Recordings(*recordings)
    imported(folder, done, segment=4)
    assert not done.decoded


def test_a_folder_of_another_import_is_refused(tmp_path: Path) -> None:
    imported(tmp_path / "set", Recordings({"count": 3}))
    for raw, settings in (
        (Recordings({"count": 3}, {"count": 3}), {}),
        (Recordings({"count": 3}), {"fit": "pad"}),
    ):
        with pytest.raises(DataError, match="other recordings were imported into this folder, or"):
            imported(tmp_path / "set", raw, **settings)


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "000000.npz").write_bytes(b"mine")
    raw = Recordings({"count": 3})
    with pytest.raises(DataError, match="mine holds files already; choose an empty folder"):
        import_dataset(raw, folder, ImportConfig(size=8), NpzWriter, progress=False)
    assert [path.name for path in folder.iterdir()] == ["000000.npz"]


def test_rewards_that_only_some_have_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = Recordings({"count": 3, "rewards": np.ones(3)}, {"count": 3})
    dataset = imported(tmp_path / "set", raw)
    assert "rewards are left out: only 1 of 2 recordings have them" in capsys.readouterr().out
    assert not dataset.metadata.has_rewards
    assert dataset.read(0).rewards.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": "zoom"}, "data.fit is 'zoom'"),
        ({"alignment": "before"}, "data.alignment is 'before'"),
        ({"on_error": "ignore"}, "data.on_error is 'ignore'"),
        ({"frame_skip": 0}, "data.frame_skip=0"),
        ({"fps": -1.0}, r"data.fps is -1\.0"),
        ({"aggregate": "mean"}, "data.aggregate=mean is for boxes"),
        ({"aggregate": "median"}, "data.aggregate is 'median'"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        imported(tmp_path / "set", Recordings({"count": 3}), **settings)


def test_frames_are_fitted_by_the_stated_rule() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, :2], wide[:, 2:6], wide[:, 6:] = 10, 20, 30
    assert fit_frame(wide, 4, "crop")[0, :, 0].tolist() == [20, 20, 20, 20]
    assert fit_frame(wide, 4, "stretch")[0, :, 0].tolist() == [10, 20, 20, 30]
    assert fit_frame(wide, 8, "pad")[:, 0, 0].tolist() == [0, 0, 10, 10, 10, 10, 0, 0]
    tall = wide.transpose(1, 0, 2)
    assert fit_frame(tall, 2, "crop")[:, 0, 0].tolist() == [20, 20]
    assert fit_frame(wide[:, :4], 8, "crop").shape == (8, 8, 3)
