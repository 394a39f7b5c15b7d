"""What a sweep (`--multirun`) asks Hydra for: every job checked, and a folder of its own for each.

Users write the same overrides as for one run, with several values for some of them. Hydra knows
neither the short forms (`data=FOLDER`, `from=`, `codec=joint`) nor the dataclasses: the former are
written out, and each job's configuration is built once before the first job starts.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from worldflow.config import (
    PATH_KEYS,
    PLAIN_PATHS,
    SHORTHANDS,
    choices,
    compose_config,
    compose_yaml,
    groups_of,
    keys_of,
    sort_overrides,
    to_config,
)
from worldflow.errors import ConfigError
from worldflow.saved_config import resumed_folder

JOB_FOLDER = "${hydra:runtime.output_dir}"
# what differs from job to job whatever is swept
JOB_NAMES = ("hydra:job.num", "hydra:job.id", "hydra:runtime.output_dir", "hydra.job.num")
FOLDER_NAME = re.compile(r"[\w.+-]+")  # values that may stand in the name of a folder
LONGEST_NAME = 200  # file systems take 255 bytes


@dataclass(frozen=True)
class Setting:
    """A setting of a sweep, under its full name.

    Attributes:
        key: dotted key, or name of a group.
        group: whether it chooses a file of a group.
        values: in Hydra's grammar, one for each job if there are several; empty where only the
            sweeper knows them (`interval(0, 1)`).
        text: all of them in Hydra's grammar.
    """

    key: str
    group: bool
    values: tuple[str, ...]
    text: str

    @property
    def swept(self) -> bool:
        """Whether jobs differ in it."""
        return len(self.values) != 1


def plan_sweep(config_name: str, schema: type[Any], overrides: Sequence[str]) -> list[str]:
    """The overrides of a command for `hydra.main` in multirun mode.

    `out` becomes the sweep's folder (`hydra.sweep.dir`), in which each job has a folder named after
    what is swept, for example `training.seed=0,world=small`, or by its number where that would be
    no good name. An `out` that is swept or holds an interpolation is left as it is. Settings of
    Hydra itself (`hydra/launcher=submitit_slurm`, `hydra.launcher.timeout_min=60`) are passed on.

    Raises:
        ConfigError: a job's configuration is wrong, or two jobs would write to one folder.
    """
    if resumed_folder(overrides) is not None:
        raise ConfigError("resume= continues one run with its settings: leave out --multirun")
    of_hydra = [text for text in overrides if re.match(r"\+{0,2}hydra[./]", text)]
    settings = {}
    for text in overrides:
        if text not in of_hydra:
            setting = _setting(config_name, text)
            settings[setting.key] = setting  # a later one wins
    of_hydra = [*_folders(config_name, schema, settings, of_hydra), *of_hydra]
    first = [f"{s.key}={s.values[0]}" for s in settings.values() if s.values]
    own_sweeper = any(re.match(r"\+{0,2}hydra[./]sweeper", text) for text in of_hydra)
    if own_sweeper or not all(setting.values for setting in settings.values()):
        _require_numbers(settings["out"], of_hydra)
        compose_config(config_name, schema, first)
    else:
        _check_jobs(config_name, schema, list(settings.values()), of_hydra)
    # free-form mappings take keys that the YAML does not have; the schema has been asked by now
    picked, _ = sort_overrides(config_name, first)
    known = {*keys_of(compose_yaml(config_name, picked)), *groups_of(config_name)}
    return [
        *of_hydra,
        *(f"{'' if key in known else '++'}{key}={s.text}" for key, s in settings.items()),
    ]


def _setting(config_name: str, text: str) -> Setting:
    """One override, with its short form written out and its values apart.

    Raises:
        ConfigError: it does not parse, names no choice of its group, or mixes choices and paths.
    """
    name, _, raw = text.partition("=")
    override = _parse(text)
    if override is not None and override.is_sweep_override():
        if not override.is_discrete_sweep():
            return Setting(name, False, (), raw)
        try:
            values = list(override.sweep_string_iterator())
        except HydraException as error:
            raise ConfigError(f"{text!r} cannot be swept; list the values: a,b") from error
        if len(set(values)) < len(values):
            raise ConfigError(f"{text!r} holds a value twice; two jobs would be the same")
    else:
        values = [raw]
    found: dict[tuple[str, bool], list[str]] = {}
    for value in values:
        single = f"{name}={value}"
        picked, others = sort_overrides(config_name, [single])
        if picked:
            found.setdefault((name, True), []).append(value)
            continue
        [(key, parsed)] = others
        plain = name in (*PLAIN_PATHS, *SHORTHANDS, *PATH_KEYS)
        literal = plain and parsed is not None and not value.startswith("{")
        written = QuotedString(str(parsed), Quote.single).with_quotes() if literal else value
        found.setdefault((key, False), []).append(written)
    if len(found) > 1:
        raise ConfigError(
            f"{text!r} mixes files of configs/{name}/ ({', '.join(choices(name))}) with paths; "
            "sweep over either"
        )
    [((key, group), written_values)] = found.items()
    # a range or a shuffled choice is written out
    return Setting(key, group, tuple(written_values), ",".join(written_values))


def _parse(text: str) -> Override | None:
    """An override in Hydra's grammar; None for a path of any characters, which is none."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def _folders(
    config_name: str, schema: type[Any], settings: dict[str, Setting], of_hydra: Sequence[str]
) -> list[str]:
    """Hydra's settings for the folders of sweep and jobs; sets `out` of the jobs, if it is free."""
    given = settings.get("out")
    if given is not None and (given.swept or "${" in given.text):
        return []
    overrides = []
    own_folder = any(text.startswith("hydra.sweep.dir=") for text in of_hydra)
    if given is not None and own_folder:
        raise ConfigError("out= and hydra.sweep.dir= both name the sweep's folder; give one")
    default = OmegaConf.select(compose_config(config_name, schema, []), "out")
    if given is not None:
        overrides.append(f"hydra.sweep.dir={given.text}")
    elif default is not None and not own_folder:
        overrides.append(f"hydra.sweep.dir={default}")
    overrides.append(f"hydra.sweep.subdir='{_job_folder(list(settings.values()))}'")
    settings["out"] = Setting("out", False, (JOB_FOLDER,), JOB_FOLDER)
    return overrides


def _job_folder(settings: Sequence[Setting]) -> str:
    """The name of a job's folder, with interpolations that Hydra fills in."""
    swept = [setting for setting in settings if setting.swept]
    values = [value.strip("'") for setting in swept for value in setting.values]
    longest = sum(len(s.key) + 2 + max(map(len, s.values), default=0) for s in swept)
    plain = all(setting.values for setting in swept) and all(map(FOLDER_NAME.fullmatch, values))
    if not swept or not plain or longest > LONGEST_NAME:
        return "${hydra.job.num}"
    return ",".join(
        f"{s.key}=${{{'hydra.runtime.choices.' if s.group else ''}{s.key}}}" for s in swept
    )


def _require_numbers(out: Setting, of_hydra: Sequence[str]) -> None:
    """Where nobody knows the jobs beforehand, only their numbers keep their folders apart."""
    texts = [out.text]
    if out.text == JOB_FOLDER:  # the last one wins
        texts = [text for text in of_hydra if text.startswith("hydra.sweep.subdir=")][-1:]
    if not any(name in text for name in JOB_NAMES for text in texts):
        raise ConfigError(
            f"{texts[0]!r} may name one folder for several jobs, as their settings are the "
            "sweeper's choice; put ${hydra:job.num} into out="
        )


def _check_jobs(
    config_name: str, schema: type[Any], settings: Sequence[Setting], of_hydra: Sequence[str]
) -> None:
    """Build every job's configuration, in the order in which Hydra numbers them."""
    folders: dict[Path, str] = {}
    alternatives = [[f"{s.key}={value}" for value in s.values] for s in settings]
    before = HydraConfig.instance().cfg
    try:
        for number, job in enumerate(itertools.product(*alternatives)):
            node = compose_config(config_name, schema, job)
            picked, _ = sort_overrides(config_name, job)
            _pretend(_hydra_of(config_name, node, [*of_hydra, *picked]), number)
            folder = Path(to_config(config_name, schema, node).out).resolve()
            what = " ".join(t for t, s in zip(job, settings, strict=True) if s.swept) or "the job"
            if folder in folders:
                raise ConfigError(
                    f"two jobs would write to {folder}: {folders[folder]} and {what}; let out= be "
                    "a folder for all, or hold every setting that is swept, ${training.seed}, or "
                    "${hydra:job.num}"
                )
            folders[folder] = what
    finally:
        HydraConfig.instance().cfg = before


def _hydra_of(config_name: str, node: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A job's configuration with Hydra's own beside it."""
    full = compose_yaml(config_name, overrides, with_hydra=True)
    with read_write(full), open_dict(full):
        for key in node:
            full[key] = node._get_node(key)
    return full


def _pretend(config: DictConfig, number: int) -> None:
    """What Hydra knows inside the job of this number."""
    with read_write(config.hydra.job), open_dict(config.hydra.job):
        config.hydra.job.num, config.hydra.job.id = number, f"job_{number}"
    HydraConfig.instance().set_config(config)
    folder = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.resolve())
    HydraConfig.instance().set_config(config)  # it keeps a copy
