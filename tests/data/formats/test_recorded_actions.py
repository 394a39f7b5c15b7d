"""Recorded actions: their kind and limits, and the recordings that do not go together by name."""

import numpy as np
import pytest

from worldflow.actions import ActionSpec
from worldflow.data.formats.recorded_actions import check_actions, infer_action_spec
from worldflow.errors import DataError


@pytest.mark.parametrize(
    ("recordings", "expected"),
    [
        ([], ActionSpec("none")),
        ([np.zeros(0, int)], ActionSpec("none")),
        ([np.array([0, 2]), np.array([[1], [3]])], ActionSpec("discrete", n=4)),
        ([np.array([0, 2]), np.array([0.5])], ActionSpec("box", low=(0,), high=(2,))),
        ([np.array([[0, 5], [2, 5]])], ActionSpec("box", low=(0, 4), high=(2, 6))),
        (
            [np.array([[1, -3]]), np.array([[0.5, 4]])],
            ActionSpec("box", low=(0.5, -3), high=(1, 4)),
        ),
    ],
)
def test_kinds_and_limits(recordings: list[np.ndarray], expected: ActionSpec) -> None:
    assert infer_action_spec((f"r{i}", actions) for i, actions in enumerate(recordings)) == expected


def test_recordings_that_do_not_go_together_are_named() -> None:
    recordings = [("empty", np.zeros(0)), ("a", np.zeros((2, 2))), ("b", np.zeros((1, 3)))]
    with pytest.raises(DataError, match=r"actions of 2 columns in a, of 3 in b; put .* own"):
        infer_action_spec(recordings)
    recordings = [("a", np.array([-1])), ("b", np.array([-2, 3])), ("c", np.array([0]))]
    with pytest.raises(DataError, match="discrete actions start at 0, but b has -2"):
        infer_action_spec(recordings)


def test_numbers_too_large_for_choices_are_refused() -> None:
    """A table of a thousand million choices would fill the memory."""
    recordings = [("a", np.array([0, 1])), ("b", np.array([0, 10**9])), ("c", np.array([5]))]
    with pytest.raises(DataError, match=r"below 65536, but b has 1000000000.*as fractions"):
        infer_action_spec(recordings)
    assert infer_action_spec([("a", np.array([65_535]))]).n == 65_536


def test_actions_are_numbers() -> None:
    assert check_actions("x", np.array([True, False])).tolist() == [1, 0]
    assert check_actions("x", np.zeros((0,))).shape == (0,)
    assert check_actions("x", np.zeros((0, 2))).shape == (0, 2)
    for wrong in (np.array(["a"]), np.zeros((2, 2, 2)), np.zeros(()), np.zeros((2, 0))):
        with pytest.raises(DataError, match=r"x: actions of shape .* they must be numbers"):
            check_actions("x", wrong)
    with pytest.raises(
        DataError, match=r"x: the action of frame 1 is not a number \(2 such frames"
    ):
        check_actions("x", np.array([[0, 1], [np.inf, 0], [0, np.nan]]))
