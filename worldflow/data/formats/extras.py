"""Modules that only some formats need, imported when such a file is opened."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from worldflow.errors import ConfigError


def load_extra(module: str, path: Path) -> ModuleType:
    """An optional dependency that reading `path` needs.

    Raises:
        ConfigError: it is not installed. No DataError, since the file is not at fault: an import
            that leaves out damaged recordings shall stop.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{path}: reading it needs {module.split('.')[0]}: pip install 'worldflow[data]'"
        ) from error
