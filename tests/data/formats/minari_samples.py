"""Minari datasets of known content, written by Minari itself."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

IMAGE = spaces.Box(0, 255, (32, 40, 3), np.uint8)
DISCRETE = spaces.Discrete(4)
LENGTHS = (3, 5)  # actions


def frame(episode: int, t: int) -> np.ndarray:
    """Smooth, so that JPEG keeps it nearly; red throughout, and no two frames are alike."""
    rows, columns = np.mgrid[:32, :40]
    red = 150 + 3 * columns - 20 * episode + rows
    return np.stack([red, rows * 2 + 10 * t, 4 * t + 0 * rows], axis=-1).clip(0, 255).astype("u1")


def frames(episode: int) -> np.ndarray:
    return np.stack([frame(episode, t) for t in range(LENGTHS[episode] + 1)])


def write_minari(
    observation_space: spaces.Space = IMAGE,
    action_space: spaces.Space = DISCRETE,
    observations: Callable[[np.ndarray], Any] = lambda images: images,
    actions: Callable[[int], Any] = lambda length: np.arange(length) % 4,
    **options: Any,
) -> Path:
    """Write two episodes, the first terminated, the second truncated."""
    buffers = []
    for episode, length in enumerate(LENGTHS):
        last = np.arange(length) == length - 1
        buffers.append(
            EpisodeBuffer(
                observations=observations(frames(episode)),
                actions=actions(length),
                rewards=list(np.arange(length) / 2 + episode),
                terminations=list(last & (episode == 0)),
                truncations=list(last & (episode == 1)),
            )
        )
    root = Path(os.environ["MINARI_DATASETS_PATH"])
    name = f"world/set{len(list(root.glob('world/*')))}-v0"  # a name can be taken once
    minari.create_dataset_from_buffers(
        name,
        buffers,
        observation_space=observation_space,
        action_space=action_space,
        **options,
    )
    return root / name


def edited(folder: Path, edit: Callable[[h5py.File], None]) -> Path:
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        edit(file)
    return folder


def described(folder: Path, **changes: object) -> Path:
    about = folder / "data" / "metadata.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), **changes}))
    return folder


def replaced(name: str, values: Any) -> Callable[[h5py.File], None]:
    """An edit that puts other values in a place."""

    def edit(file: h5py.File) -> None:
        del file[name]
        if values is not None:
            file[name] = values

    return edit
