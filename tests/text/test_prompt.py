"""A prompt's vector, and what is said of one that is unlike all captions."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from worldflow.errors import DataError
from worldflow.testing import tiny_world
from worldflow.text.encoder import embed, encoder_of
from worldflow.text.prompt import FAR, Nearest, Prompt, prompt_vector, read_prompt

CAPTIONS = ("the ball falls left", "the ball falls right")


def test_the_nearest_caption_is_found() -> None:
    spec = tiny_world(captions=CAPTIONS).spec.text
    assert spec is not None
    read = read_prompt(spec, CAPTIONS[1])
    assert torch.equal(read.vector, embed(encoder_of(spec), CAPTIONS[1:]))
    assert read.nearest == Nearest(CAPTIONS[1], pytest.approx(1.0)) and read.remark is None
    assert read_prompt(replace(spec, examples=()), "something else").remark is None
    with pytest.raises(DataError, match="learned without captions"):
        read_prompt(None, "ball")


def test_only_what_is_far_is_remarked_on() -> None:
    near, far = (Prompt(torch.zeros(1, 2), Nearest("a", c)) for c in (FAR, FAR - 0.01))
    assert near.remark is None
    assert far.remark is not None and "nearest is 'a' (similarity 0.49)" in far.remark


def test_an_env_warns() -> None:
    spec = tiny_world(captions=CAPTIONS).spec.text
    with pytest.warns(UserWarning, match="no caption that this world learned from is like this"):
        prompt_vector(spec, "мяч падает влево")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt_vector(spec, CAPTIONS[0])
