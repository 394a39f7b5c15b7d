"""What can be asked of a clip, and which answers a caption gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from worldflow.errors import ConfigError, DataError

Questions = Mapping[str, Mapping[str, str]]
UNASKED, UNSURE = -1, -2  # in the place of an answer's number
GAP = " ... "  # between the parts of a phrase, which may stand anywhere in a caption

COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
# of the world `multi`: question, answer, and the phrase in a caption that gives it
QUESTIONS: dict[str, dict[str, str]] = {
    "game": {"catch": "catch", "doom": "doom corridor", "grid": "grid world"},
    "side": {where: f"ball falls on the {where}" for where in ("left", "middle", "right")},
    "end": {"caught": "is caught", "missed": "is missed"},
    "player": {where: f"player keeps to the {where}" for where in ("left", "right")},
    "colour": {colour: f"grid world{GAP}{colour}" for colour in COLOURS},
    "thing": {thing: f"grid world{GAP}{thing}" for thing in ("ball", "key")},
}
# prompts that no caption is like, and what they ask for
PARAPHRASES: dict[str, dict[str, str]] = {
    "a white ball drops down on the left-hand side": {"game": "catch", "side": "left"},
    "the ball comes down at the right edge": {"game": "catch", "side": "right"},
    "a ball falling in the centre": {"game": "catch", "side": "middle"},
    "the falling ball on the left is caught by the paddle": {
        "game": "catch",
        "side": "left",
        "end": "caught",
    },
    "the ball on the right falls past the paddle": {
        "game": "catch",
        "side": "right",
        "end": "missed",
    },
    "first-person shooter, running left while monsters fire": {"game": "doom", "player": "left"},
    "first-person shooter, running right while monsters fire": {"game": "doom", "player": "right"},
    "fireballs in a corridor, I stay on the left": {"game": "doom", "player": "left"},
    "fireballs in a corridor, I stay on the right": {"game": "doom", "player": "right"},
    "a green key lies in a small room": {"game": "grid", "colour": "green", "thing": "key"},
    "a room with a blue key": {"game": "grid", "colour": "blue", "thing": "key"},
    "a room with a purple ball": {"game": "grid", "colour": "purple", "thing": "ball"},
    "pick up the yellow ball in the grid": {"game": "grid", "colour": "yellow", "thing": "ball"},
    "find the red key": {"game": "grid", "colour": "red", "thing": "key"},
}


def check_questions(questions: Questions) -> None:
    """Refuse a question with fewer than two answers.

    Raises:
        ConfigError: there is one, or there is no question.
    """
    few = [name for name, answers in questions.items() if len(answers) < 2]
    if few or not questions:
        raise ConfigError(f"questions: {few or 'none'}; each needs two answers or more")


def answers_of(caption: str, questions: Questions) -> dict[str, str]:
    """The answers that a caption gives; of what it does not speak it gives none.

    Raises:
        DataError: it gives two to one question.
    """
    found: dict[str, str] = {}
    for question, phrases in questions.items():
        given = [answer for answer, phrase in phrases.items() if _holds(caption, phrase)]
        if len(given) > 1:
            raise DataError(f"the caption {caption!r} gives {given} to the question {question!r}")
        if given:
            found[question] = given[0]
    return found


def numbered(answers: Sequence[Mapping[str, str]], questions: Questions) -> np.ndarray:
    """Answers as their numbers, (B, Q) int64; `UNASKED` where there is none.

    Raises:
        ConfigError: a question or an answer that there is not.
    """
    numbers = np.full((len(answers), len(questions)), UNASKED, np.int64)
    names = list(questions)
    for row, given in enumerate(answers):
        for question, answer in given.items():
            if question not in questions or answer not in questions[question]:
                raise ConfigError(f"there is no answer {answer!r} to a question {question!r}")
            numbers[row, names.index(question)] = list(questions[question]).index(answer)
    return numbers


def by_answers(captions: Iterable[str], questions: Questions) -> dict[tuple[str, ...], list[str]]:
    """Different captions, sorted, by what they answer; those that answer nothing left out."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for caption in sorted(set(captions)):
        given = answers_of(caption, questions)
        if given:
            groups.setdefault(tuple(given.values()), []).append(caption)
    return groups


def _holds(caption: str, phrase: str) -> bool:
    """Whether all parts of a phrase stand in a caption, as whole words."""
    return all(re.search(rf"\b{re.escape(part)}\b", caption) for part in phrase.split(GAP))
