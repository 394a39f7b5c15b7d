"""`worldflow bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldflow.cli import main
from worldflow.storage import save_world
from worldflow.testing import tiny_world


def test_bench_of_a_saved_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_world(tiny_world(), tmp_path / "world", "card")
    arguments = [f"world={tmp_path / 'world'}", "rows=[1,3]", "steps=2", "warmup=1"]
    assert main(["bench", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["1", "3"]
    assert all(float(line.split()[1]) > 0 for line in lines[2:])


def test_bench_of_random_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "world.config=catch", "rows=[1]", "steps=1", "warmup=0"]) == 0
    assert "catch.yaml, random weights" in capsys.readouterr().out


def test_bench_refuses_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "rows=[]"]) == 2
    assert "at least 1" in capsys.readouterr().err
