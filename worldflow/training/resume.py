"""Whether a run starts or continues, and what may differ when it continues."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldflow.data.metadata import write_atomically
from worldflow.errors import ConfigError, DataError
from worldflow.saved_config import differences
from worldflow.training.checkpoint import CHECKPOINT, Progress, read_progress
from worldflow.training.logger import METRICS, TENSORBOARD, VIDEOS

SETTINGS = "run.json"
RARE = "rare.json"  # which frames are rare, see `worldflow.training.frozen_past`


def fetch(source: Path, folder: Path) -> None:
    """Copy to `folder` what a run in `source` needs to go on, unless it goes on there already.

    Raises:
        DataError: there is no checkpoint in `source`.
    """
    if source.resolve() == folder.resolve():
        return
    if (folder / CHECKPOINT).exists():
        print(f"{folder} has a checkpoint of its own, which is continued; {source} is left alone")
        return
    if not (source / CHECKPOINT).is_file():
        raise DataError(f"{source} has no {CHECKPOINT}; nothing of its run can be continued")
    for name in (TENSORBOARD, VIDEOS):  # the report shows them
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
    for name in (METRICS, SETTINGS, RARE, CHECKPOINT):  # the last one makes the copy whole
        if (source / name).is_file():
            write_atomically(folder / name, (source / name).read_bytes())


def start_or_continue(
    folder: Path,
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any],
    setup: Mapping[str, Any],
    stage: str,
) -> Progress:
    """The progress of the run in `folder`, a new one if it has no checkpoint.

    A run is continued only under the settings and with the data that it was started with, since
    anything else would give a world that no command reproduces.

    Args:
        folder: of the run.
        settings: what the result depends on; JSON-able.
        defaults: of those which runs of before do not name, as there were none.
        setup: how it is computed, which the result does not depend on but for rounding; a change is
            said on the terminal.
        stage: with which a new run begins.

    Raises:
        ConfigError: the run was started with other settings.
        DataError: its checkpoint is damaged.
    """
    path, fingerprint = folder / SETTINGS, json.dumps(settings, sort_keys=True)
    checkpoint = folder / CHECKPOINT
    if not checkpoint.exists():
        (folder / RARE).unlink(missing_ok=True)  # of a run that began with other weights
        write_atomically(path, (json.dumps(settings, indent=2) + "\n").encode())
        return Progress(stage, 0, 0.0, fingerprint, dict(setup))
    progress = read_progress(checkpoint)
    if changes := _changes(json.loads(progress.fingerprint), settings, defaults):
        raise ConfigError(
            f"{folder} holds a run with other settings: {', '.join(changes[:5])}; "
            f"repeat the old settings or continue with resume={folder}, or choose another out="
        )
    if changes := _changes(progress.setup, setup, {}):
        print(f"{folder} continues with {', '.join(changes)}; the result is the same to rounding")
    return replace(progress, setup=dict(setup))


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    found = differences(before, after, defaults).items()
    return [f"{name} was {old} and is {new}" for name, (old, new) in found]
