"""What the documentation shows: examples are run, settings of commands are read."""

from __future__ import annotations

import copy
import doctest
import functools
import importlib
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from documented import PAGES, ROOT, SPAN, parts_of
from omegaconf import OmegaConf

from worldflow import cli, config, sweep_plan
from worldflow.agents.dream_grid import DreamGridConfig, chosen
from worldflow.agents.train import TrainAgentConfig
from worldflow.config import compose_config, compose_yaml, load_config
from worldflow.errors import ConfigError
from worldflow.saved_config import save_config
from worldflow.training.pretrain import PretrainConfig

MODULES = sorted(
    ("" if path.parts[len(ROOT.parts)] == "worldflow" else "worldflow.")
    + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("worldflow", "envs", "agents")
    for path in (ROOT / folder).rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)
VARIABLES = re.compile(r"(?:[A-Z_]+=\S+ )+")  # that may stand before a command
MODULE = re.compile(r".* -m worldflow\.(?=[a-z]+ )")  # that torchrun starts
COMMAND = re.compile(r"(?:worldflow |python benchmarks/)[a-z]")
PLACEHOLDER = re.compile(r"[A-Z]+")
FEWEST = 200  # commands that the pages have at least

# read and merged anew for each command, the files of configs/ would take a minute
groups_of, choices = functools.cache(config.groups_of), functools.cache(config.choices)
composed = functools.cache(lambda config_name, picked: compose_yaml(config_name, picked))
merged = functools.cache(config.merge_schema)


@dataclass(frozen=True)
class Documented:
    """A command of a page.

    Attributes:
        place: page and line.
        text: as it is written, on one line.
        inline: in a sentence, where settings that must be given may be left out.
    """

    place: str
    text: str
    inline: bool


class SettingsRead(Exception):  # noqa: N818  # no error
    """Ends a benchmark that has read its settings."""


def commands_of(page: str, text: str) -> Iterator[Documented]:
    """The commands of a page, in its code and in its sentences."""
    code, prose = parts_of(text)
    whole, first = "", 1
    for number, line in enumerate(code, start=1):
        first = first if whole else number
        whole += line.strip()
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        found = MODULE.sub("worldflow ", VARIABLES.sub("", whole, count=1))
        if COMMAND.match(found):
            yield Documented(f"{page}:{first}", found, inline=False)
        whole = ""
    sentences = "\n".join(prose)
    for span in SPAN.finditer(sentences):
        found = " ".join(span[2].split())
        if COMMAND.match(found):
            number = sentences.count("\n", 0, span.start()) + 1
            yield Documented(f"{page}:{number}", found, inline=True)


COMMANDS = [command for page, text in PAGES.items() for command in commands_of(page, text)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `worldflow pretrain` that can be resumed."""
    folder = tmp_path_factory.mktemp("run")
    save_config(load_config("pretrain", PretrainConfig, ["data=data", f"out={folder}"]), folder)
    return folder


@pytest.fixture
def refusal(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Documented], str]:
    """Says what a command says against its settings; nothing of it is run."""
    monkeypatch.chdir(tmp_path)  # what a command names need not be there
    for module in (config, cli, sweep_plan):
        monkeypatch.setattr(module, "groups_of", groups_of)
        monkeypatch.setattr(module, "choices", choices)
    monkeypatch.setattr(config, "compose_yaml", lambda name, picked: composed(name, tuple(picked)))
    monkeypatch.setattr(config, "merge_schema", lambda *node: copy.deepcopy(merged(*node)))
    load = cli.Command.load
    monkeypatch.setattr(cli.Command, "load", lambda self: (lambda config: None, load(self)[1]))
    monkeypatch.setattr("worldflow.sweep.run_sweep", plan_only)

    def refuse(command: Documented) -> str:
        program, name, *words = shlex.split(command.text, comments=True)
        words = [word for word in words if word != "..."]
        if program == "python":
            said = refusal_of_benchmark(name, words, monkeypatch)
        else:
            words = [filled(name, word, run) for word in words]
            if find_spec("submitit") is None:  # without which Hydra lacks its launcher's settings
                words = [word for word in words if not word.startswith(("hydra/", "hydra."))]
            code, said = cli.main([name, *words]), capsys.readouterr().err
            assert (code == 0) == (said == "")
        missing = "missing value" in said or "missing mandatory value" in said
        return "" if command.inline and missing else said

    return refuse


def plan_only(name: str, config_name: str, schema: type[Any], overrides: list[str]) -> None:
    """In the place of `run_sweep`: checks all jobs and runs none."""
    sweep_plan.plan_sweep(config_name, schema, overrides)


def filled(name: str, word: str, run: Path) -> str:
    """A setting of a command, with a value in the place of one like NAME or STEPS.

    Args:
        name: of the command.
        word: the setting.
        run: what `resume=` continues.
    """
    key, equals, value = word.partition("=")
    if key == "resume" and equals:
        return f"resume={run}"
    command = cli.COMMANDS.get(name)
    if command is None or not PLACEHOLDER.fullmatch(value):
        return word
    if key in groups_of(command.config):
        return f"{key}={choices(key)[0]}"
    default = OmegaConf.select(compose_config(command.config, command.load()[1], []), key)
    return f"{key}={default}" if isinstance(default, int | float) else word


def refusal_of_benchmark(path: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a benchmark says against its settings; it ends as soon as it has read them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", [path, *words])
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)  # of the tests after it
    script = importlib.import_module(Path(path).stem)
    reader = "read_settings" if hasattr(script, "read_settings") else "load_config"
    read = getattr(script, reader)

    def read_only(*arguments: Any) -> None:
        settings = read(*arguments)
        for name in ("train", "train_real"):  # lists of settings of `worldflow train-agent`
            words = [*getattr(settings, name, ()), "out=agent"]
            load_config("train_agent", TrainAgentConfig, words)
        if isinstance(settings, DreamGridConfig):
            chosen(settings)
        raise SettingsRead

    monkeypatch.setattr(script, reader, read_only)
    try:
        script.main()
    except SettingsRead:
        return ""
    except (ConfigError, SystemExit) as error:
        return str(error)
    raise AssertionError(f"{path} has read no settings")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0


def test_there_are_examples() -> None:
    assert "worldflow.envs.star_flow_world" in MODULES


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.place)
def test_documented_commands_are_accepted(
    command: Documented, refusal: Callable[[Documented], str], tmp_path: Path
) -> None:
    assert refusal(command) == "", command.text
    assert not list(tmp_path.iterdir())


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= FEWEST
    programs = Counter(command.text.split()[0] for command in COMMANDS)
    assert min(programs["worldflow"], programs["python"]) > 20
    named = {" ".join(command.text.split()[1:3]) for command in COMMANDS}
    assert {name for name in cli.COMMANDS if not any(n.startswith(name) for n in named)} == set()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("worldflow pretend data=d", "unknown command"),
        ("worldflow pretrain data=d out=o training.flow.stepz=3", "unknown key"),
        ("worldflow pretrain data=d out=o world=smal", "unknown choice"),
        ("worldflow pretrain data=d out=o training.flow.steps=many", "training.flow.steps"),
        ("worldflow pretrain resume=runs/x training.flow.stepz=3", "unknown key"),
        ("worldflow pretrain -m data=d out=o training.sead=0,1", "unknown key"),
        ("worldflow train-agent world.temperatur=TEMP out=o", "unknown key"),
        ("worldflow train-agent --nonsense", "unknown option"),
        ("worldflow evaluate world=catch", "missing value: data.path"),
        ("python benchmarks/step.py world=catch rowz=[1]", "rowz"),
        ("python benchmarks/train.py world=small training.flow.stepz=3", "unknown key"),
        ("python benchmarks/rounds.py world=w out=o train='[agent.gama=1]'", "unknown key"),
        ("python benchmarks/dream_table.py world=w out=o cells=[t9_*]", "names none"),
    ],
)
def test_wrong_commands_are_refused(
    text: str, reason: str, refusal: Callable[[Documented], str]
) -> None:
    assert reason in refusal(Documented("", text, inline=False))


def test_commands_are_found() -> None:
    text = r"""
`worldflow collect
steps=5` and `worldflow COMMAND --help`, ``worldflow demo``.
    worldflow is here a word of a paragraph

    OMP_NUM_THREADS=1 worldflow demo   # a comment
    worldflow evaluate "a=b c" \
        d=e

    srun torchrun --nproc-per-node 8 \
        -m worldflow.pretrain data=d ...

- a list

      python benchmarks/step.py rows=[1]

```
worldflow calibrate
import worldflow
```
"""
    assert [(command.place, command.text) for command in commands_of("page", text)] == [
        ("page:6", "worldflow demo   # a comment"),
        ("page:7", 'worldflow evaluate "a=b c" d=e'),
        ("page:10", "worldflow pretrain data=d ..."),
        ("page:15", "python benchmarks/step.py rows=[1]"),
        ("page:18", "worldflow calibrate"),
        ("page:2", "worldflow collect steps=5"),
        ("page:3", "worldflow demo"),
    ]
