"""The command line: `worldflow COMMAND [key=value ...]`.

Every command is one function that takes one dataclass; both are looked up by name when the command
runs, so that this package needs neither Gymnasium's environments nor Stable-Baselines3 to start.
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from omegaconf import OmegaConf

from worldflow.config import choices, compose_config, groups_of, load_config
from worldflow.errors import ConfigError, WorldflowError
from worldflow.saved_config import restore_config, resumed_folder

MULTIRUN = {"-m", "--multirun"}
USER_ERROR = 2  # exit codes
INTERRUPTED = 130
OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        config: its YAML file in `configs/`.
        function: "module:name".
        help: a line.
        positional: settings that may be given without their name, in this order.
        resumes: whether `resume=FOLDER` takes the settings of an earlier run.
        sweeps: whether --multirun runs it; it then has a folder `out`.
    """

    config: str
    function: str
    help: str
    positional: tuple[str, ...] = ()
    resumes: bool = False
    sweeps: bool = True

    def load(self) -> tuple[Callable[[Any], object], type[Any]]:
        """The function and the dataclass of its only parameter, `config`."""
        module, name = self.function.split(":")
        function = getattr(importlib.import_module(module), name)
        return function, get_type_hints(function)["config"]


COMMANDS = {
    "collect": Command("collect", "worldflow.envs.collect:main", "record episodes of a real env"),
    "pretrain": Command(
        "pretrain",
        "worldflow.training.pretrain:main",
        "learn a world from recorded episodes",
        resumes=True,
    ),
    "evaluate": Command(
        "evaluate",
        "worldflow.agents.evaluate_world:main",
        "measure a world on held-out episodes, and beside its real game",
    ),
    "calibrate": Command(
        "calibrate", "worldflow.calibrate:main", "measure anew what a world finds typical"
    ),
    "generate": Command(
        "generate", "worldflow.generation.generate:main", "video from a prompt, an image or a clip"
    ),
    "train-agent": Command(
        "train_agent", "worldflow.agents.train:main", "train an agent inside a world"
    ),
    "evaluate-agent": Command(
        "evaluate_agent", "worldflow.agents.evaluate:main", "play an agent, dreamed and real"
    ),
    "train-loop": Command(
        "train_loop",
        "worldflow.agents.loop:main",
        "collect, learn the world, train an agent in it, evaluate; and again",
    ),
    "data inspect": Command(
        "data_inspect",
        "worldflow.data.inspect:main",
        "say what a folder of videos holds",
        ("src",),
        sweeps=False,
    ),
    "data convert": Command(
        "data_convert",
        "worldflow.data.convert:main",
        "write it as another format",
        ("src", "dst"),
        sweeps=False,
    ),
    "data merge": Command(
        "data_merge",
        "worldflow.data.merging:main",
        "make one dataset of several, with captions",
        ("dst",),
        sweeps=False,
    ),
    "data pair": Command(
        "data_pair",
        "worldflow.data.pairing:main",
        "put clips behind their edges, greys or mirror images, to learn translation from",
        ("src", "dst"),
        sweeps=False,
    ),
    "data label": Command(
        "data_label", "worldflow.labelling.label:main", "infer the actions of videos", ("src",)
    ),
    "demo": Command("demo", "worldflow.agents.demo:main", "the whole road on Catch, with a report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0, 2 for an error that the user can mend, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        from worldflow import __version__

        print(f"worldflow {__version__}")
        return 0
    rest = arguments[1:]
    if name in {command.split()[0] for command in COMMANDS if " " in command} and rest:
        name, rest = f"{name} {rest[0]}", rest[1:]
    try:
        run(name, rest)
    except WorldflowError as error:
        print(f"worldflow {name}: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"\nworldflow {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(name: str, arguments: Sequence[str]) -> None:
    """Run the command `name`, or print its help (`--help`) or its configuration (`--cfg`).

    With `--multirun` (`-m`) it runs once for each combination of the values of the overrides.

    Raises:
        ConfigError: unknown command, option or key.
        WorldflowError: whatever the command itself reports.
    """
    command = COMMANDS.get(name)
    if command is None:
        raise ConfigError(f"unknown command; choose one of {', '.join(COMMANDS)}")
    options = {text for text in arguments if text.startswith("-")}
    overrides = _named([text for text in arguments if text not in options], command.positional)
    if unknown := sorted(options - {"-h", "--help", "--cfg", *MULTIRUN}):
        raise ConfigError(
            f"unknown option {unknown[0]}; use --help, --cfg, --multirun or key=value"
        )
    function, schema = command.load()
    if options & {"-h", "--help"}:
        print(command_help(name, command, schema))
    elif "--cfg" in options and options & MULTIRUN:
        raise ConfigError("--cfg shows one configuration; leave out --multirun")
    elif "--cfg" in options:
        print(OmegaConf.to_yaml(compose_config(command.config, schema, overrides)).rstrip())
    elif options & MULTIRUN:
        if not command.sweeps:
            raise ConfigError("--multirun does not go with this command; run it once for each")
        from worldflow.sweep import run_sweep

        run_sweep(name, command.config, schema, overrides)
    elif command.resumes and resumed_folder(overrides) is not None:
        function(restore_config(command.config, schema, overrides))
    else:
        function(load_config(command.config, schema, overrides))


def _named(arguments: Sequence[str], positional: Sequence[str]) -> list[str]:
    """The overrides, with their names before the leading ones that have none."""
    bare = list(itertools.takewhile(lambda text: not OVERRIDE.match(text), arguments))
    bare = bare[: len(positional)]
    names = [f"{name}={text}" for name, text in zip(positional, bare, strict=False)]
    return [*names, *arguments[len(bare) :]]


def usage() -> str:
    """The text of `worldflow --help`."""
    lines = [
        "usage: worldflow COMMAND [key=value ...]",
        "",
        *(f"  {name:<16}{command.help}" for name, command in COMMANDS.items()),
        "",
        "worldflow COMMAND --help    the settings of a command and their defaults",
        "worldflow COMMAND --cfg     the settings with the given overrides, without running",
        "worldflow COMMAND -m a=1,2 b=3,4    a job for each combination (--multirun)",
        "worldflow --version",
    ]
    return "\n".join(lines)


def command_help(name: str, command: Command, schema: type[Any]) -> str:
    """The text of `worldflow COMMAND --help`: the groups' choices and the default settings."""
    given = "".join(f" {key.upper()}" for key in command.positional)
    lines = [f"usage: worldflow {name}{given} [key=value ...]", "", f"  {command.help}", ""]
    groups = sorted(groups_of(command.config))
    lines += [f"  {group}=  {', '.join(choices(group))}" for group in groups]
    lines += [""] * bool(groups) + ["settings and their defaults (??? must be given):", ""]
    lines.append(OmegaConf.to_yaml(compose_config(command.config, schema, [])).rstrip())
    return "\n".join(lines)
