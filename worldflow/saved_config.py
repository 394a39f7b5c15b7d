"""The configuration of a run on disk: `resume=` continues it, and what differs from another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from worldflow.config import flatten, merge_schema, set_values, sort_overrides, to_config
from worldflow.data.metadata import write_atomically
from worldflow.errors import ConfigError

CONFIG = "config.yaml"
RESUME = "resume"

Config = TypeVar("Config")


def save_config(config: Any, folder: Path) -> None:
    """Write a run's configuration into its folder, atomically."""
    text = OmegaConf.to_yaml(OmegaConf.structured(config))
    write_atomically(folder / CONFIG, text.encode())


def differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """In which settings two runs differ: (saved, wanted) by dotted name, in its order.

    A setting that one of them does not name, as worldflow had none when it began, had its default.

    Args:
        saved: of the run on disk, nested, JSON-able.
        wanted: of the one that shall go on, likewise.
        defaults: of all settings that have one, likewise.
    """
    old, new, usual = (flatten(json.loads(json.dumps(each))) for each in (saved, wanted, defaults))
    pairs = {n: (old.get(n, usual.get(n)), new.get(n, usual.get(n))) for n in sorted(old | new)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def resumed_folder(overrides: Sequence[str]) -> Path | None:
    """What `resume=` names, if it is among the overrides."""
    found = [text.partition("=")[2] for text in overrides if text.startswith(f"{RESUME}=")]
    return Path(found[-1].strip("'\"")) if found and found[-1] != "null" else None


def restore_config(config_name: str, schema: type[Config], overrides: Sequence[str]) -> Config:
    """The configuration of the run that `resume=FOLDER` names, with the other overrides on top.

    `out` is FOLDER, unless it is overridden: a run's folder may have been moved.

    Args:
        config_name: name of the command's YAML file in `configs/`.
        schema: the command's dataclass, with `resume` and `out`.
        overrides: `key=value`, `resume=` among them; files of groups cannot be chosen again.

    Raises:
        ConfigError: FOLDER holds no run, or an override does not fit, see `load_config`.
    """
    folder = resumed_folder(overrides)
    assert folder is not None
    path = folder / CONFIG
    picked, values = sort_overrides(config_name, overrides)
    if picked:
        raise ConfigError(f"{picked[0]}: the run in {folder} has its own; override single settings")
    try:
        saved = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(
            f"resume={folder} holds no run: {path} cannot be read ({error.strerror})"
        ) from error
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(saved, DictConfig):
        raise ConfigError(f"{path} is damaged: it holds no settings")
    node = merge_schema(str(path), schema, saved)
    set_values(config_name, node, [("out", str(folder)), *values])
    return to_config(config_name, schema, node)
