"""What the documentation shows is run: the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    ("" if path.parts[len(ROOT.parts)] == "worldflow" else "worldflow.")
    + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("worldflow", "envs", "agents")
    for path in (ROOT / folder).rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0


def test_there_are_examples() -> None:
    assert "worldflow.envs.star_flow_world" in MODULES
