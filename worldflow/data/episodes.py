"""The lossless episode store: a folder with `dataset.json` and one safetensors file per episode.

`actions[t]` led to `frames[t]`; `rewards[t]` and `terminated[t]` arrived with it. Index 0 of an
episode is its reset frame, with a zero action, zero reward and `terminated` False. `known[t]` says
whether the action was recorded; a file without it is of a time when all were. An episode that is a
part of a longer recording names it, and one with a caption holds it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from worldflow.actions import ActionSpec
from worldflow.data.episode import Episode, EpisodeSteps
from worldflow.data.formats.files import inside
from worldflow.data.journal import is_unfinished
from worldflow.data.metadata import (
    DatasetMetadata,
    check_same,
    read_metadata,
    without_place,
    write_atomically,
)
from worldflow.errors import DataError

TENSORS = ("frames", "actions", "rewards", "terminated", "known")
_FILE_NAME = re.compile(r"\d{6,}\.safetensors")


def episode_files(folder: Path) -> list[Path]:
    """The finished episode files of a dataset, in order of their index.

    Raises:
        DataError: a safetensors file there has a name that no episode has, or is a link that leads
            out of the folder.
    """
    paths = list((folder / "episodes").glob("*.safetensors"))
    for path in paths:
        if not _FILE_NAME.fullmatch(path.name):
            raise DataError(f"{path}: not an episode's name (000000.safetensors); move it away")
        inside(folder, path)
    return sorted(paths, key=lambda path: int(path.stem))


class EpisodeWriter:
    """Adds episodes to a dataset folder, which is made or, with equal metadata, continued.

    Raises:
        DataError: the folder holds a dataset with other metadata.
    """

    def __init__(self, folder: str | Path, metadata: DatasetMetadata) -> None:
        self.folder = Path(folder)
        self.metadata = metadata
        path = self.folder / "dataset.json"
        (self.folder / "episodes").mkdir(parents=True, exist_ok=True)
        check_same(self.folder, metadata)
        if path.exists():
            return
        if episode_files(self.folder):
            raise DataError(f"{path} is missing beside episodes; use another output folder")
        text = json.dumps(metadata.to_dict(), indent=2, sort_keys=True) + "\n"
        write_atomically(path, text.encode())

    def finished_indices(self) -> list[int]:
        """Indices of the episodes already on disk, ascending."""
        return [int(path.stem) for path in episode_files(self.folder)]

    def add(self, index: int, episode: Episode) -> Path:
        """Write one episode under its index; equal episodes give equal bytes.

        Raises:
            DataError: the episode does not fit the dataset's frame shape or action spec.
        """
        spec = self.metadata.action_spec
        if episode.frames.shape[1:] != self.metadata.frame_shape:
            raise DataError(
                f"episode {index}: frames {episode.frames.shape[1:]}, but the dataset "
                f"{self.folder} has {self.metadata.frame_shape}"
            )
        if episode.actions.dtype != spec.dtype or episode.actions.shape[1:] != spec.shape:
            raise DataError(
                f"episode {index}: actions {episode.actions.shape} {episode.actions.dtype} do not "
                f"fit the dataset's action spec {spec}"
            )
        tensors = {name: np.ascontiguousarray(getattr(episode, name)) for name in TENSORS}
        # One metadata key only: safetensors writes several keys in a random order.
        facts: dict[str, Any] = {"seed": episode.seed, "truncated": episode.truncated}
        if episode.recording is not None:
            facts["recording"] = episode.recording
        if episode.caption is not None:
            facts["caption"] = episode.caption
        path = self._path(index)
        write_atomically(path, save(tensors, {"episode": json.dumps(facts, sort_keys=True)}))
        return path

    def remove(self, index: int) -> None:
        """Take back an episode."""
        self._path(index).unlink()

    def _path(self, index: int) -> Path:
        return self.folder / "episodes" / f"{index:06d}.safetensors"


class EpisodeDataset:
    """A dataset folder, read lazily: opening it reads the headers of its episodes only.

    Attributes:
        lengths: frames of each episode, (E,).
        recordings: of each episode, the number of the recording that it is (a part of), (E,).
        captions: of each episode, None where it has none.

    Raises:
        DataError: the folder, `dataset.json` or all episodes are missing, or a file is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is no folder; make a dataset: worldflow collect")
        if is_unfinished(self.folder):
            raise DataError(
                f"{self.folder} holds an import or a labelling that did not come to its end; run "
                "the command that began it again"
            )
        self.metadata = read_metadata(self.folder)
        self.action_spec: ActionSpec = self.metadata.action_spec
        self.frame_shape: tuple[int, int, int] = self.metadata.frame_shape
        self.paths = episode_files(self.folder)
        if not self.paths:
            raise DataError(f"{self.folder} holds no episodes; run worldflow collect to its end")
        headers = [self._header(path) for path in self.paths]
        self.lengths = np.array([length for length, _ in headers], dtype=np.int64)
        self._recordings = [facts.recording for _, facts in headers]
        self.captions = [facts.caption for _, facts in headers]
        numbers: dict[str | int, int] = {}
        for index, name in enumerate(self._recordings):
            numbers.setdefault(index if name is None else name, len(numbers))
        self.recordings = np.array(
            [numbers[k if name is None else name] for k, name in enumerate(self._recordings)]
        )

    @property
    def steps(self) -> int:
        """Environment steps in all episodes: frames less one reset frame per episode."""
        return int(self.lengths.sum()) - len(self)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int, start: int = 0, stop: int | None = None) -> Episode:
        """Frames `start` to `stop` (excluded; None: the end) of the i-th episode.

        Returns:
            Episode: `truncated` is True only where the slice holds the cut episode's last frame.

        Raises:
            DataError: the file is damaged.
            IndexError: no such episode or an empty range.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"episode {i} of {len(self)} in {self.folder}")
        length = int(self.lengths[i])
        stop = length if stop is None else min(stop, length)
        if not 0 <= start < stop:
            raise IndexError(f"frames {start}..{stop} of an episode of {length} frames")
        path = self.paths[i]
        try:
            with safe_open(path, framework="numpy") as file:
                facts = _facts(path, file.metadata())
                arrays = {name: file.get_slice(name)[start:stop] for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from error
        arrays.setdefault("known", np.ones(stop - start, dtype=np.bool_))
        return Episode(
            **arrays,
            seed=facts.seed,
            truncated=facts.truncated and stop == length,
            recording=self._recordings[i],
            caption=self.captions[i],
        )

    def steps_of(self, i: int) -> EpisodeSteps:
        """All but the frames of the i-th episode.

        Raises:
            DataError: the file is damaged.
        """
        try:
            with safe_open(self.paths[i], framework="numpy") as file:
                facts = _facts(self.paths[i], file.metadata())
                arrays = {name: file.get_tensor(name) for name in file.keys() if name != "frames"}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _damaged(self.paths[i], str(error)) from error
        arrays.setdefault("known", np.ones(int(self.lengths[i]), dtype=np.bool_))
        return EpisodeSteps(**arrays, truncated=facts.truncated)

    def recording_of(self, i: int) -> str | None:
        """Name of the recording that the i-th episode is a part of; None: it is a whole one."""
        return self._recordings[i]

    def fingerprint(self) -> str:
        """A digest that another dataset does not share.

        It is of the metadata, the steps, first and last frames, captions, and which are parts of a
        recording; not of where the recordings lay that were imported.

        Raises:
            DataError: a file is damaged.
        """
        metadata = self.metadata.to_dict()
        metadata["source"] = without_place(self.metadata.source)
        digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
        for index, length in enumerate(self.lengths.tolist()):
            digest.update(f"{length}:".encode())
            steps = self.steps_of(index)
            for values in (steps.actions, steps.rewards, steps.terminated, steps.known):
                digest.update(values.tobytes())
            for frame in (0, length - 1):
                digest.update(self.read(index, frame, frame + 1).frames.tobytes())
        if len(np.unique(self.recordings)) < len(self):
            digest.update(self.recordings.tobytes())
        if any(caption is not None for caption in self.captions):
            digest.update(json.dumps(self.captions).encode())
        return digest.hexdigest()[:16]

    def _header(self, path: Path) -> tuple[int, _Facts]:
        """Length and facts of one episode file, its header checked against the dataset's."""
        try:
            with safe_open(path, framework="numpy") as file:
                keys = set(file.keys()) | {"known"}
                if keys != set(TENSORS):
                    raise _damaged(path, f"holds {sorted(file.keys())}, needs {list(TENSORS)}")
                facts = _facts(path, file.metadata())
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from error
        length = shapes["frames"][0] if shapes["frames"] else 0
        expected = {
            "frames": (length, *self.frame_shape),
            "actions": (length, *self.action_spec.shape),
            "rewards": (length,),
            "terminated": (length,),
            "known": (length,),
        }
        for name in shapes:
            if shapes[name] != expected[name] or length == 0:
                raise _damaged(path, f"{name} is {shapes[name]}, must be {expected[name]}")
        return int(length), facts


class _Facts(NamedTuple):
    """What an episode's file says beside its tensors."""

    seed: int
    truncated: bool
    recording: str | None
    caption: str | None


def _facts(path: Path, metadata: dict[str, str] | None) -> _Facts:
    """From the metadata of a file's header."""
    try:
        facts = json.loads((metadata or {})["episode"])
        seed, truncated = int(facts["seed"]), bool(facts["truncated"])
        texts = (facts.get(name) for name in ("recording", "caption"))
        return _Facts(seed, truncated, *(None if text is None else str(text) for text in texts))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"its header's `episode` cannot be read: {error!r}"
        raise _damaged(path, reason) from error


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: not a whole episode of this dataset ({reason}); delete the file and run the "
        "same worldflow collect again, which writes only what is missing"
    )
