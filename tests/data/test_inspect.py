"""`worldflow data inspect`: what it counts, and what it calls damaged and double."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.cli import main as cli
from worldflow.data.convert import ConvertConfig, main
from worldflow.data.formats.base import RawEpisode
from worldflow.data.formats.registry import open_recordings
from worldflow.data.importing import ImportConfig
from worldflow.data.inspect import THUMBNAIL, Coverage, inspect
from worldflow.data.steps import Steps

Store = Callable[..., Path]


def test_the_report(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "npz"
    main(ConvertConfig(str(store()), str(folder), "npz", ImportConfig(size=16)))
    (folder / "000009.npz").write_bytes((folder / "000001.npz").read_bytes())
    (folder / "000010.npz").write_bytes(b"")
    capsys.readouterr()
    sheet = tmp_path / "sheets" / "sheet.png"
    assert cli(["data", "inspect", str(folder), f"out={sheet}", "rows=2"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "format       npz, lossless",
        "recordings   5, 5 looked at, 4 readable",
        "frames       19",
        "resolutions  16 x 16 (4)",
        "frame rates  10 (4)",
        "actions      3 choices, in 4 recordings",
        "rewards      in 4 recordings",
        "terminations in 4 recordings, 4 in all",
        "duplicates   1",
        "000009.npz = 000001.npz",
        "damaged      1",
        "000010.npz",
    ):
        assert line in printed
    image = cv2.imread(str(sheet))
    assert image.shape == (2 * THUMBNAIL, 8 * THUMBNAIL, 3)
    # six frames, the first filled with 0 and the sixth with 5; two places stay black
    assert image[0, 5 * THUMBNAIL :: THUMBNAIL, 0].tolist() == [5, 0, 0]


def test_only_the_first_recordings_are_decoded(store: Store) -> None:
    found = inspect(open_recordings(store()), limit=2)
    assert found.frames == 10
    assert found.sizes == {(16, 16): 2}


def action_coverage(spec: ActionSpec, *recordings: np.ndarray) -> list[str]:
    coverage = Coverage(spec)
    for actions in recordings:
        coverage.add(actions)
    return coverage.lines()


def test_actions_of_another_number_than_frames_are_damage(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "video"
    main(ConvertConfig(str(store()), str(folder), "video", ImportConfig(size=16)))
    (folder / "000001.npz").unlink()
    (folder / "000001.csv").write_text("action\n0\n1\n")  # of 4 frames
    found = inspect(open_recordings(folder))
    [damage] = found.damaged
    assert "000001.mkv: 4 frames but 2 actions" in damage
    assert found.frames == 11


def test_action_coverage() -> None:
    discrete = ActionSpec("discrete", n=3)
    assert action_coverage(discrete, np.array([0, 0]), np.array([2, 0])) == [
        "action 0: 3 (75.0%)",
        "action 1: 0 (0.0%)",
        "action 2: 1 (25.0%)",
    ]
    box = ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 1.0))
    actions = np.stack((np.linspace(-0.9, 0.9, 10), np.full(10, 0.5)), axis=1)
    first, second = action_coverage(box, actions[:3], actions[3:])
    assert "mean 0.5, deviation 0, " in second and f"deviation {actions[:, 0].std():.3g}," in first
    assert "-0.9 to 0.9, mean" in first
    assert "10 of 10 parts" in first
    assert "1 of 10 parts" in second


@pytest.mark.parametrize(
    ("alignment", "known", "counts"),
    [
        ("led_to", None, [2, 1, 1]),  # the first led to no frame
        ("taken_at", None, [2, 1, 2]),
        ("led_to", [True, True, False, False, True], [1, 1, 0]),
        ("taken_at", [True, True, False, False, True], [1, 1, 1]),
    ],
)
def test_unknown_and_unused_actions_are_left_out(
    alignment: str, known: list[bool] | None, counts: list[int]
) -> None:
    recording = RawEpisode(
        name="a",
        read=lambda: iter(()),
        actions=np.array([2, 1, 0, 2, 0]),
        known=None if known is None else np.array(known),
    )
    recorded = Steps(recording, ActionSpec("discrete", n=3), alignment, "last").recorded()
    assert recorded is not None
    assert np.bincount(recorded, minlength=3).tolist() == counts


def test_the_first_action_of_our_own_store_is_not_counted(store: Store) -> None:
    # 1 2 0 1 2, 2 0 1 and 0 1 2 0, each after a reset frame, whose action is a zero
    found = inspect(open_recordings(store()))
    assert [line.split(": ")[1] for line in found.coverage] == ["4 (33.3%)"] * 3
    unknown = inspect(open_recordings(store("unknown", known=False)))
    assert unknown.coverage == []


def test_long_recordings_are_shown_evenly(store: Store) -> None:
    found = inspect(open_recordings(store(lengths=(200,))))
    shown = found.sheet[0][:, 0, 0, 0].astype(int)
    assert shown[0] == 0
    assert (np.diff(shown) > 20).all()
