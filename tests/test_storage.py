"""A world on disk: what is written comes back, and every kind of damage has its own message."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import worldflow
from worldflow.actions import ActionSpec
from worldflow.errors import MissingHeadError, WorldFormatError
from worldflow.storage import save_world
from worldflow.testing import tiny_world


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_world(tiny_world(), tmp_path / "world", "# A card\n")
    return tmp_path / "world"


@pytest.mark.parametrize(
    "spec",
    [ActionSpec("discrete", n=3), ActionSpec("box", low=(-1.0,), high=(1.0,)), ActionSpec("none")],
    ids=lambda s: s.kind,
)
def test_a_saved_world_dreams_the_same(tmp_path: Path, spec: ActionSpec) -> None:
    world = tiny_world(spec)
    save_world(world, tmp_path / "w", "card")
    loaded = worldflow.load_world(tmp_path / "w")
    assert loaded.spec == world.spec and loaded.config == world.config
    assert loaded.calibration == world.calibration
    results = []
    for w in (world, loaded):
        frames, actions = (torch.from_numpy(x) for x in (w.context.frames, w.context.actions))
        state = w.initial_state(frames, actions, torch.Generator().manual_seed(0))
        _, prediction = w.step(state, actions[:, -1], torch.Generator().manual_seed(1))
        results.append(prediction)
    assert torch.equal(results[0].frame, results[1].frame)
    assert torch.equal(results[0].log_likelihood, results[1].log_likelihood)


def test_the_folder_holds_no_pickle_and_can_be_replaced(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "calibration.json",
        "card.md",
        "config.yaml",
        "contexts.safetensors",
        "world.safetensors",
    ]
    save_world(tiny_world(seed=1), folder, "another")
    assert (folder / "card.md").read_text() == "another"
    assert [path.name for path in folder.parent.iterdir()] == ["world"]


def test_a_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(WorldFormatError, match="holds no world"):
        save_world(tiny_world(), tmp_path / "thesis", "card")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(WorldFormatError, match=r"no world 'atlantis'.*shipped worlds"):
        worldflow.load_world("atlantis")


@pytest.mark.parametrize(
    "name", ["world.safetensors", "config.yaml", "calibration.json", "contexts.safetensors"]
)
def test_missing_and_damaged_files_are_named(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(WorldFormatError, match=name):
        worldflow.load_world(folder)
    path.write_bytes(b"\x80\x04PK not this")
    with pytest.raises(WorldFormatError, match=name):
        worldflow.load_world(folder)
    path.unlink()
    with pytest.raises(WorldFormatError, match=f"{name} is missing"):
        worldflow.load_world(folder)


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    weights = load_file(folder / "world.safetensors")
    for name, value in changes.items():
        if value is None:
            weights = {k: v for k, v in weights.items() if not k.startswith(name)}
        else:
            weights[name] = value
    save_file(weights, folder / "world.safetensors")


def test_a_missing_head_is_its_own_error(folder: Path) -> None:
    change_weights(folder, termination_head=None)
    with pytest.raises(MissingHeadError, match="termination head"):
        worldflow.load_world(folder)


def test_a_wrong_shape_names_tensor_and_shapes(folder: Path) -> None:
    change_weights(folder, **{"conditioning.null": torch.zeros(3)})
    with pytest.raises(WorldFormatError, match=r"conditioning.null has shape \(3,\).*\(8,\)"):
        worldflow.load_world(folder)


def test_half_precision_weights_load_and_other_types_do_not(tmp_path: Path, folder: Path) -> None:
    world = worldflow.load_world(folder)
    save_world(world, tmp_path / "half", "card", dtype=torch.float16)
    half = worldflow.load_world(tmp_path / "half")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    for one, two in zip(world.parameters(), half.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)
    size = [(f / "world.safetensors").stat().st_size for f in (folder, tmp_path / "half")]
    assert size[1] < 0.8 * size[0]
    change_weights(folder, **{"conditioning.null": torch.zeros(8, dtype=torch.int64)})
    with pytest.raises(WorldFormatError, match=r"conditioning\.null is torch\.int64"):
        worldflow.load_world(folder)


def test_a_foreign_tensor_is_refused(folder: Path) -> None:
    change_weights(folder, stranger=torch.zeros(3))
    with pytest.raises(WorldFormatError, match=r"1 are foreign.*stranger"):
        worldflow.load_world(folder)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("world", "sigma", ..., r"world\.sigma"),
        ("spec", "fps", ..., "fps"),
        ("spec", "colour", "red", r"spec\.colour"),
        ("world", "sgima", 0.3, "sgima"),
        ("world", "sigma", -1.0, "sigma"),
        ("world", "sigma", "much", "much"),
        ("spec", "fps", "fast", "fast"),
        ("spec", "reward_range", [1.0], "unpack"),
    ],
)
def test_bad_config_fields_are_named(
    folder: Path, section: str, key: str, value: object, message: str
) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    if value is ...:
        del config[section][key]
    else:
        config[section][key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(WorldFormatError, match=message):
        worldflow.load_world(folder)


def test_another_format_version_is_refused(folder: Path) -> None:
    text = (folder / "config.yaml").read_text().replace("format_version: 1", "format_version: 99")
    (folder / "config.yaml").write_text(text)
    with pytest.raises(WorldFormatError, match="format_version"):
        worldflow.load_world(folder)


def test_config_truncated_after_any_line_is_refused(folder: Path) -> None:
    lines = (folder / "config.yaml").read_text().splitlines(keepends=True)
    for count in range(len(lines)):
        (folder / "config.yaml").write_text("".join(lines[:count]))
        with pytest.raises(WorldFormatError, match=r"config\.yaml"):
            worldflow.load_world(folder)


def test_a_kill_between_the_renames_loses_nothing(folder: Path) -> None:
    folder.rename(folder.with_name(".world.old"))
    assert worldflow.load_world(folder).frame_shape == (64, 64, 3)
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frames", torch.zeros(0, 2, 64, 64, 3, dtype=torch.uint8)),
        ("frames", torch.zeros(5, 2, 64, 64, 3)),
        ("actions", torch.zeros(3, 2, dtype=torch.int64)),
        ("actions", torch.zeros(5, 2)),
    ],
)
def test_contexts_that_do_not_fit_are_refused(folder: Path, name: str, value: torch.Tensor) -> None:
    tensors = load_file(folder / "contexts.safetensors")
    save_file({**tensors, name: value}, folder / "contexts.safetensors")
    with pytest.raises(WorldFormatError, match=r"contexts\.safetensors: `"):
        worldflow.load_world(folder)
