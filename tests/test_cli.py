"""The command line: help, exit codes and messages."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from worldflow import __version__, cli
from worldflow.cli import COMMANDS, INTERRUPTED, USER_ERROR, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", listed, re.MULTILINE) for name in COMMANDS)
    assert main([]) == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"worldflow {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: worldflow {name}" in out
    assert "settings and their defaults" in out


def test_cfg_prints_the_overrides_without_running(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "world=w", "horizon=3", "--cfg"]) == 0
    out = capsys.readouterr().out
    assert "path: w" in out
    assert "horizon: 3" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "unknown command; choose one of collect"),
        (["evaluate", "--fast"], "unknown option --fast"),
        (["evaluate", "horizn=3"], "did you mean 'horizon'?"),
        (["evaluate", "world=w"], "missing value: data.path, out; give data=... out=..."),
        (["evaluate", "world=/no/world", "data=/no/data", "out=x"], "no world '/no/world'"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == USER_ERROR
    captured = capsys.readouterr()
    assert captured.err.startswith(f"worldflow {arguments[0]}: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""


def test_an_interrupt_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str, arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert main(["collect"]) == INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_python_m_worldflow() -> None:
    command = [sys.executable, "-m", "worldflow", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"worldflow {__version__}\n"
