"""One file a measurement: arrays, figures and what they depend on. What is there is not redone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from worldflow.config import flatten
from worldflow.data.metadata import write_atomically
from worldflow.errors import ConfigError, DataError

Measured = tuple[dict[str, np.ndarray], dict[str, Any]]


def measured(path: Path, settings: Mapping[str, Any], measure: Callable[[], Measured]) -> Measured:
    """Arrays and JSON-able figures of a file; measured and written first where there is none.

    Args:
        path: of the file.
        settings: what the measurement depends on; JSON-able.
        measure: makes both.

    Raises:
        ConfigError: the file is of other settings.
        DataError: it is damaged.
    """
    fixed = json.loads(json.dumps(settings))
    if not path.is_file():
        arrays, figures = measure()
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        facts = json.dumps({"settings": fixed, "figures": figures})
        write_atomically(path, save(whole, {"measured": facts}))
        return arrays, json.loads(facts)["figures"]
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["measured"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it to measure anew") from error
    before, now = flatten(facts["settings"]), flatten(fixed)
    if changed := sorted(k for k in before | now if before.get(k) != now.get(k)):
        name = changed[0]
        raise ConfigError(
            f"{path} was measured with {name}={before.get(name)}, now it is {now.get(name)}; "
            "delete the file, or choose another out="
        )
    return arrays, facts["figures"]
