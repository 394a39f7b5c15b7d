"""A world on disk: weights, config, calibration, contexts and card in one folder. No pickle."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from worldflow.actions import ActionSpec
from worldflow.calibration import REMEDY, UNCALIBRATED, Calibration
from worldflow.data.metadata import write_atomically
from worldflow.errors import MissingHeadError, WorldflowError, WorldFormatError
from worldflow.heads.termination import FRAME
from worldflow.text.spec import TextSpec
from worldflow.world_model import WorldModel
from worldflow.world_spec import Contexts, HeldOut, WorldConfig, WorldSpec

FORMAT_VERSION = 1
WEIGHTS, CONFIG, CALIBRATION, CONTEXTS, CARD = (
    "world.safetensors",
    "config.yaml",
    "calibration.json",
    "contexts.safetensors",
    "card.md",
)
PIXEL_SCALE = "codec.likelihood.log_scale"
WHITENING = ("conditioning.text_mean", "conditioning.text_whitening")
SHIPPED = Path(__file__).parent / "worlds"


def shipped_worlds() -> list[str]:
    """Names of the worlds that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def save_world(
    world: WorldModel, folder: str | Path, card: str, dtype: torch.dtype = torch.float32
) -> None:
    """Write a world's folder: complete under a temporary name first, then renamed.

    Args:
        world: calibrated and with contexts.
        folder: is replaced if it holds a world, and refused if it holds anything else.
        card: Markdown that says what the world learned from.
        dtype: of the stored weights, float32 or, for half the size, float16.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG).is_file():
        raise WorldFormatError(
            f"{folder} exists and holds no world ({CONFIG} is missing); choose another folder"
        )
    new, old = _beside(folder, "new"), _beside(folder, "old")
    for leftover in (new, old):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    weights = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for name, value in world.state_dict().items()
    }
    save_file(weights, new / WEIGHTS)
    spec = asdict(world.spec)
    config = {"format_version": FORMAT_VERSION, "spec": _plain(spec)}
    config["world"] = _plain(asdict(world.config))
    (new / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    write_calibration(new, world.calibration)
    contexts = world.context
    save_file(
        {
            "frames": torch.from_numpy(contexts.frames).contiguous(),
            "actions": torch.from_numpy(contexts.actions).contiguous(),
        },
        new / CONTEXTS,
    )
    (new / CARD).write_text(card)
    for path in new.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write or replace the calibration of a world's folder; returns the file."""
    text = json.dumps(calibration.to_dict(), indent=1) + "\n"
    write_atomically(folder / CALIBRATION, text.encode())
    return folder / CALIBRATION


def _beside(folder: Path, kind: str) -> Path:
    """Where a world is written before it takes its name, or kept while another takes it."""
    return folder.with_name(f".{folder.name}.{kind}")


def load_world(name: str | Path, calibrated: bool = True) -> WorldModel:
    """The world of a folder, or a shipped world by its name, in eval mode on the CPU.

    Args:
        name: of the world, or its folder.
        calibrated: False: `calibration.json` is not read, and novelty is NaN.

    Raises:
        WorldFormatError: there is no such world, or a file of it is missing, truncated, foreign, or
            has tensors of the wrong shape.
        MissingHeadError: the config names a head that the weights lack.
    """
    folder = find_world(name, calibrated)
    config = _read_config(folder / CONFIG)
    world_config, spec = config
    calibration = UNCALIBRATED
    if calibrated:
        path = folder / CALIBRATION
        calibration = Calibration.from_dict(_read_json(path), str(path))
    tensors = _read_tensors(folder / CONTEXTS)
    if set(tensors) != {"frames", "actions"}:
        raise WorldFormatError(
            f"{folder / CONTEXTS}: expected tensors `frames` and `actions`, found {sorted(tensors)}"
        )
    contexts = Contexts(tensors["frames"].numpy(), tensors["actions"].numpy())
    count, action_spec = len(contexts.frames), spec.action_spec
    for name, array, shape, dtype in (
        ("frames", contexts.frames, spec.frame_shape, np.uint8),
        ("actions", contexts.actions, action_spec.shape, action_spec.dtype),
    ):
        expected = (max(count, 1), world_config.context, *shape)
        if array.shape != expected or array.dtype != dtype:
            raise WorldFormatError(
                f"{folder / CONTEXTS}: `{name}` is {array.shape} {array.dtype}; config.yaml needs "
                f"{expected} {np.dtype(dtype)}"
            )
    with torch.random.fork_rng(devices=[]):  # initial weights, soon replaced, are random
        world = WorldModel(world_config, spec, calibration, contexts)
    if calibration.tokens not in (None, world.tokens):
        raise WorldFormatError(
            f"{folder / CALIBRATION}: `tokens` has {calibration.tokens} entries, the world "
            f"{world.tokens} tokens; {REMEDY}"
        )
    _load_weights(world, folder / WEIGHTS)
    return world.eval().requires_grad_(False)


def find_world(name: str | Path, calibrated: bool = True) -> Path:
    """The folder of a world, see `load_world`."""
    files = (CONFIG, WEIGHTS, CALIBRATION, CONTEXTS) if calibrated else (CONFIG, WEIGHTS, CONTEXTS)
    for folder in (Path(name), SHIPPED / str(name)):
        if not folder.exists() and _beside(folder, "old").is_dir():
            _beside(folder, "old").rename(folder)  # a kill came between the two renames
        if folder.is_dir():
            for file in files:
                if not (folder / file).is_file():
                    remedy = REMEDY if file == CALIBRATION else "restore it or pretrain again"
                    raise WorldFormatError(
                        f"{folder} is not a complete world: {file} is missing; {remedy}"
                    )
            return folder
    raise WorldFormatError(
        f"there is no world {str(name)!r}: neither a folder nor one of the shipped worlds "
        f"({', '.join(shipped_worlds()) or 'none'})"
    )


def _read_config(path: Path) -> tuple[WorldConfig, WorldSpec]:
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorldFormatError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(raw, dict) or raw.get("format_version") != FORMAT_VERSION:
        raise WorldFormatError(
            f"{path}: `format_version` must be {FORMAT_VERSION}; the file is foreign or was "
            "written by another version of worldflow"
        )
    try:
        # worlds of before do not say
        for part, name, value in (
            (raw["world"]["flow"]["global_block"], "outcomes", 1),
            (raw["world"]["heads"], "termination_reads", FRAME),
        ):
            if isinstance(part, dict):
                part.setdefault(name, value)
        merged = OmegaConf.merge(OmegaConf.structured(WorldConfig), raw["world"])
        config = OmegaConf.to_object(merged)
        assert isinstance(config, WorldConfig)
        _refuse_differences(raw["world"], _plain(asdict(config)), "world")
        values = raw["spec"]
        for name in ("recordings", "frames"):  # worlds of before do not say
            values["held_out"].setdefault(name, None)
        values["held_out"].setdefault("growing", False)
        text = values.setdefault("text", None)
        unknown = values.setdefault("knows_unknown_actions", None)
        low, high = values["reward_range"]
        height, width, colours = values["frame_shape"]
        spec = WorldSpec(
            action_spec=ActionSpec.from_dict(values["action_spec"]),
            frame_shape=(int(height), int(width), int(colours)),
            fps=float(values["fps"]),
            source=dict(values["source"]),
            reward_range=(float(low), float(high)),
            held_out=HeldOut(**values["held_out"]),
            text=None if text is None else _text_spec(text),
            knows_unknown_actions=None if unknown is None else bool(unknown),
        )
        _refuse_differences(values, _plain(asdict(spec)), "spec")
    except (KeyError, TypeError, ValueError, OmegaConfBaseException, WorldflowError) as error:
        first = str(error).splitlines()[0]
        raise WorldFormatError(f"{path}: a field is missing or unknown: {first}") from error
    return config, spec


def _text_spec(values: dict[str, Any]) -> TextSpec:
    encoder, digest, width = (values[name] for name in ("encoder", "digest", "width"))
    examples = tuple(str(text) for text in values["examples"])
    return TextSpec(str(encoder), str(digest), int(width), examples)


def _refuse_differences(found: Any, understood: Any, where: str) -> None:
    """Raise KeyError unless the file says all that was understood and nothing else."""
    if not isinstance(found, dict) or not isinstance(understood, dict):
        return
    if where.endswith(".source"):  # free-form
        return
    if set(found) != set(understood):
        names = sorted(set(found) ^ set(understood))
        raise KeyError(", ".join(f"{where}.{name}" for name in names))
    for name, value in understood.items():
        _refuse_differences(found[name], value, f"{where}.{name}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise WorldFormatError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise WorldFormatError(f"{path} must hold one JSON object")
    return values


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WorldFormatError(
            f"{path} is truncated or not a safetensors file ({error}); restore it"
        ) from error


def _load_weights(world: WorldModel, path: Path) -> None:
    found, expected = _read_tensors(path), world.state_dict()
    # worlds of a time before it have no likelihood of pixels
    found.setdefault(PIXEL_SCALE, torch.full_like(expected[PIXEL_SCALE], math.nan))
    if not set(WHITENING) & set(found):  # nor was text whitened, which a new world does not do yet
        found |= {name: expected[name] for name in WHITENING if name in expected}
    for head in ("reward_head", "termination_head"):
        needs = any(name.startswith(head) for name in expected)
        if needs and not any(name.startswith(head) for name in found):
            raise MissingHeadError(
                f"{path} has no {head.replace('_', ' ')}, though config.yaml says it has; "
                f"restore the file, or set world.heads.{head.split('_')[0]}: false in config.yaml"
            )
    missing, foreign = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or foreign:
        raise WorldFormatError(
            f"{path} does not belong to its config.yaml: {len(missing)} tensors are missing "
            f"(first: {missing[:1]}), {len(foreign)} are foreign (first: {foreign[:1]})"
        )
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise WorldFormatError(
                f"{path}: tensor {name} has shape {tuple(found[name].shape)}, config.yaml needs "
                f"{tuple(value.shape)}"
            )
        if found[name].dtype not in (value.dtype, torch.float16):
            raise WorldFormatError(
                f"{path}: tensor {name} is {found[name].dtype}, expected {value.dtype} or float16"
            )
    world.load_state_dict(found, strict=True)


def _plain(value: Any) -> Any:
    """Tuples as lists, so that safe YAML can write them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
