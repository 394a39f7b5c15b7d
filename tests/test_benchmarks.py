"""The benchmark commands run and say what is wrong; their figures are not tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from worldflow.storage import save_world
from worldflow.testing import tiny_world

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/step.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_step_prints_a_row_for_each_batch(tmp_path: Path) -> None:
    save_world(tiny_world(), tmp_path / "world", "card")
    result = run(f"world={tmp_path / 'world'}", "rows=[1,3]", "steps=3", "warmup=1")
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1:-1] for line in result.stdout.splitlines()[3:]]
    assert [int(row[0]) for row in rows] == [1, 3]
    assert all(float(cell) > 0 for row in rows for cell in row[1:5])
    assert all(1 <= float(n) <= 16 for row in rows for n in row[5].split(","))


def test_step_names_bad_settings() -> None:
    missing = run("world=atlantis")
    assert missing.returncode == 1 and "no world 'atlantis'" in missing.stderr
    unknown = run("wrold=x")
    assert unknown.returncode == 1 and "wrold" in unknown.stderr
    assert "Traceback" not in missing.stderr + unknown.stderr
