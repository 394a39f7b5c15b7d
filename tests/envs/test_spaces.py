"""Action spaces to specs and back."""

import numpy as np
import pytest
from gymnasium import spaces

from worldflow.actions import ActionSpec
from worldflow.envs.spaces import action_space, action_spec
from worldflow.errors import ConfigError


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (spaces.Discrete(4), ActionSpec("discrete", n=4)),
        (
            spaces.Box(np.array([-1, 0], np.float32), np.array([1, 2], np.float32)),
            ActionSpec("box", low=(-1.0, 0.0), high=(1.0, 2.0)),
        ),
    ],
)
def test_there_and_back(space: spaces.Space, spec: ActionSpec) -> None:
    assert action_spec(space) == spec
    assert action_space(spec) == space
    space.seed(0)
    sample = spec.validate(np.asarray(space.sample()))
    assert sample.shape == spec.shape


def test_no_action_is_one_choice() -> None:
    assert action_space(ActionSpec("none")) == spaces.Discrete(1)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3, start=1), "does not start at 0"),
        (spaces.Box(-np.inf, np.inf, (2,), np.float32), "finite"),
        (spaces.Box(-1, 1, (2, 2), np.float32), "flat"),
        (spaces.Box(0, 255, (2,), np.uint8), "not supported"),
        (spaces.MultiDiscrete([2, 3]), "not supported"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "not supported"),
    ],
)
def test_other_spaces_are_refused(space: spaces.Space, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        action_spec(space)
