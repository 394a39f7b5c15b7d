"""From a command's YAML and the user's overrides to one dataclass; unknown keys are refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from worldflow.errors import ConfigError

CONFIGS = "worldflow.configs"
# `world=catch` sets `world.path` wherever it does not choose the file configs/world/catch.yaml.
PATH_KEYS = {"world": "path", "data": "path", "source": "env_id", "agent": "path"}
SHORTHANDS = {
    "from": "initial_world",
    "codec": "training.codec_mode",
    "detection": "detection.enabled",
    "guidance": "guidance.weight",
}
# Paths and sentences too: taken as they are, whatever characters they hold.
PLAIN_PATHS = {"src", "dst", "resume", "image", "video", "actions"}
PLAIN_PATHS |= {"caption", "prompt", "world.prompt"}

Config = TypeVar("Config")


def choices(group: str) -> list[str]:
    """Names of the YAML files of a config group, sorted; empty when there is no such group."""
    folder = files(CONFIGS) / group
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def groups_of(config_name: str) -> set[str]:
    """Groups in the defaults list of `configs/<config_name>.yaml`."""
    node = OmegaConf.create((files(CONFIGS) / f"{config_name}.yaml").read_text())
    if not isinstance(node, DictConfig):
        raise ConfigError(f"configs/{config_name}.yaml must hold a mapping")
    groups: set[str] = set()
    for entry in node.get("defaults", []):
        if isinstance(entry, DictConfig):
            groups.update(str(key).removeprefix("override ") for key in entry)
    return groups


def load_config(config_name: str, schema: type[Config], overrides: Sequence[str]) -> Config:
    """The configuration of a command as an instance of its dataclass.

    Args:
        config_name: name of the YAML file in `configs/`, without the suffix.
        schema: the dataclass that names and types every setting.
        overrides: `key=value` in Hydra's grammar; `group=choice` picks a YAML file of a group, and
            `world=`, `data=`, `source=`, `agent=` take a path (an env id) where no file is meant.

    Raises:
        ConfigError: an override does not parse, names an unknown key (the message gives the
            nearest valid one), has a value of the wrong type, or a mandatory value is missing.
    """
    return to_config(config_name, schema, compose_config(config_name, schema, overrides))


def to_config(config_name: str, schema: type[Config], node: DictConfig) -> Config:
    """What `merge_schema` or `compose_config` gave, as the dataclass.

    Raises:
        ConfigError: a mandatory value is missing, or the dataclass refuses a value.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(node))
        if missing:
            wanted = " ".join(f"{_short(key)}=..." for key in missing)
            raise ConfigError(f"missing value: {', '.join(missing)}; give {wanted}")
        config = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    except (TypeError, ValueError) as error:  # raised by a dataclass's own __post_init__
        raise ConfigError(str(error)) from error
    if not isinstance(config, schema):
        raise ConfigError(f"configs/{config_name}.yaml does not describe a {schema.__name__}")
    return config


def compose_config(config_name: str, schema: type[Any], overrides: Sequence[str]) -> DictConfig:
    """As `load_config`, before it becomes a dataclass: missing values (`???`) are allowed."""
    picked, values = sort_overrides(config_name, overrides)
    yaml = compose_yaml(config_name, picked)
    node = merge_schema(f"configs/{config_name}.yaml", schema, yaml)
    set_values(config_name, node, values)
    return node


def set_values(config_name: str, node: DictConfig, values: Sequence[tuple[str, Any]]) -> None:
    """Set the values of `sort_overrides` in a command's configuration.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    for key, value in values:
        _set(node, key, value, groups_of(config_name))


def compose_yaml(
    config_name: str, overrides: Sequence[str], with_hydra: bool = False
) -> DictConfig:
    """The YAML of a command as Hydra composes it, with overrides that Hydra knows.

    Args:
        config_name: name of the YAML file in `configs/`, without the suffix.
        overrides: in Hydra's grammar, without sweeps.
        with_hydra: whether Hydra's own settings are in the node `hydra`.

    Raises:
        ConfigError: Hydra refuses.
    """
    try:
        with initialize_config_module(CONFIGS, version_base="1.3"):
            return compose(config_name, list(overrides), return_hydra_config=with_hydra)
    except HydraException as error:
        raise ConfigError(" ".join(str(error).split())) from error


def merge_schema(origin: str, schema: type[Any], composed: DictConfig) -> DictConfig:
    """Composed YAML, with the types of its dataclass.

    Args:
        origin: the file, for errors.
        schema: the dataclass.
        composed: what the file holds.

    Raises:
        ConfigError: a key that the dataclass does not have, or a value of the wrong type.
    """
    node = OmegaConf.structured(schema)
    try:
        node = OmegaConf.merge(node, composed)
    except ConfigKeyError as error:
        key = str(error.full_key)
        raise ConfigError(f"{origin}: {_unknown(key, node)}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{origin}: {error.full_key}: {_first_line(error)}") from error
    assert isinstance(node, DictConfig)
    return node


def sort_overrides(
    config_name: str, overrides: Sequence[str]
) -> tuple[list[str], list[tuple[str, Any]]]:
    """Group choices for Hydra, and the values to set, apart."""
    groups = groups_of(config_name)
    picked: list[str] = []
    values: list[tuple[str, Any]] = []
    for text in overrides:
        name, equals, raw = text.partition("=")
        if not equals or not name or name[0] in "~+":
            raise ConfigError(f"{text!r} is not an override; write key=value")
        if name in groups and raw in choices(name):
            picked.append(text)
        elif name in PLAIN_PATHS:
            values.append((name, None if raw == "null" else _unquoted(raw)))
        elif raw.startswith("{"):  # several settings of a node at once
            values.append((name, _value(text)))
        elif name in SHORTHANDS:
            values.append((SHORTHANDS[name], _unquoted(raw)))
        elif name in PATH_KEYS:
            values.append((f"{name}.{PATH_KEYS[name]}", _unquoted(raw)))
        elif name in groups:
            raise ConfigError(_no_choice(name, raw))
        else:
            values.append((name, _value(text)))
    return picked, values


def _unquoted(raw: str) -> str:
    """Without the quotes around the whole; others belong to the value."""
    quote = raw[:1]
    if len(raw) > 1 and quote in ("'", '"') and raw[1:].find(quote) == len(raw) - 2:
        return raw[1:-1]
    return raw


def _set(node: DictConfig, key: str, value: Any, groups: set[str]) -> None:
    """Set one key that exists, or a new one of a free-form mapping.

    Raises:
        ConfigError: the key is unknown or the value has the wrong type.
    """
    group, _, rest = key.partition(".")
    above = key.rpartition(".")[0]
    parent = OmegaConf.select(node, above) if above else node
    free = isinstance(parent, DictConfig) and OmegaConf.get_type(parent) is dict
    if not free and key not in set(keys_of(node)):
        if group in groups and rest == PATH_KEYS.get(group):
            raise ConfigError(_no_choice(group, str(value)))
        raise ConfigError(_unknown(key, node))
    try:
        OmegaConf.update(node, key, value, merge=True, force_add=free)
    except ConfigKeyError as error:
        raise ConfigError(_unknown(str(error.full_key), node)) from error
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(f"{key}={value!r}: {_first_line(error)}") from error


def _value(text: str) -> Any:
    """The value of one override, parsed by Hydra's grammar."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        hint = "quote a value that holds spaces, commas, brackets or `=`"
        raise ConfigError(f"cannot read {text!r}; {hint}") from error
    if override.is_sweep_override():
        raise ConfigError(f"{text!r} holds several values; --multirun runs a job for each")
    return override.value()


def keys_of(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a config, inner nodes included."""
    for name in map(str, node):
        key = f"{prefix}{name}"
        yield key
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            continue
        if isinstance(child := node[name], DictConfig):
            yield from keys_of(child, f"{key}.")


def _unknown(key: str, node: DictConfig) -> str:
    """The message for a key that is not there, with the nearest one that is."""
    known = list(keys_of(node))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    leaf = key.rsplit(".", 1)[-1]
    near = near or [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    if near:
        return f"unknown key '{key}'; did you mean '{near[0]}'?"
    return f"unknown key '{key}'; the keys here are {', '.join(map(str, node))}"


def _no_choice(group: str, raw: str) -> str:
    known = choices(group)
    near = difflib.get_close_matches(raw, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(known)}"
    return f"unknown choice '{group}={raw}'; {hint}"


def _short(key: str) -> str:
    """`data` for `data.path`: the shortest form in which a user may give this key."""
    group, _, rest = key.partition(".")
    return group if PATH_KEYS.get(group) == rest else key


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys joined by dots: {"a": {"b": 1}} to {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def typed_settings(schema: type[Config], values: Mapping[str, Any], name: str) -> Config:
    """Settings that are known only once another one is, as an instance of their dataclass.

    Args:
        schema: the dataclass.
        values: what is not given has the dataclass's default.
        name: where they stand in the configuration, for messages.

    Raises:
        ConfigError: an unknown key (the message gives the nearest valid one) or a wrong type.
    """
    node = OmegaConf.structured(schema)
    for key, value in values.items():
        if key not in node:
            raise ConfigError(f"{name}: {_unknown(str(key), node)}")
        try:
            OmegaConf.update(node, str(key), value)
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            raise ConfigError(f"{name}.{key}={value!r}: {_first_line(error)}") from error
    config = OmegaConf.to_object(node)
    assert isinstance(config, schema)
    return config
