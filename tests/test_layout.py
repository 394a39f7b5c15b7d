"""The rules of the layout: who imports whom, what is packaged, how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("worldflow", "envs", "agents", "configs")
LONGEST = 300  # lines
# Registration is by string and needs Gymnasium's registry, nothing else of it.
MAY_REGISTER = ROOT / "worldflow" / "registration.py"
WORLDS = sorted(path for path in (ROOT / "worldflow" / "worlds").iterdir() if path.is_dir())
# A point of a card: its lines up to the next one that is not indented.
POINT = re.compile(r"^- .*(?:\n(?:  .*)?)*", re.MULTILINE)
# What the points of each card must say.
CARD = {
    "data": r"- Source: `\{.*\"env_id\": .*\}`, [\d,]+ episodes, [\d,]+ steps, \d+%",
    "time": r"- Trained .*\b[\d.]+ (minutes|hours)\b",
    "seed": r"- Trained .*\bseeds? \d",
    "commands": r"- .*\bCommands\b.*\n      worldflow pretrain data=",
    "licence": r"- Licences?\b.*\bweights\b.*\bApache-2\.0\b",
    "limits": r"- Limits: \w+(\W+\w+){9}",
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def offenders(folder: str, banned: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(folder)
        if path != MAY_REGISTER
        for name in imports(path)
        if any(name == start or name.startswith(f"{start}.") for start in banned)
    ]


@pytest.mark.parametrize(
    ("folder", "banned"),
    [
        ("worldflow", ("gymnasium", "stable_baselines3", "worldflow.envs", "worldflow.agents")),
        ("envs", ("stable_baselines3", "worldflow.agents")),
        ("tests", ("envs", "agents", "configs")),
    ],
)
def test_import_rule(folder: str, banned: tuple[str, ...]) -> None:
    assert not offenders(folder, banned)


def test_training_needs_nothing_of_evaluation() -> None:
    """Neither does what it imports."""
    needed, waiting = set(), sources("worldflow/training")
    while waiting:
        path = waiting.pop()
        needed.add(path)
        for name in imports(path):
            parts = name.split(".")
            found = {ROOT.joinpath(*parts[:n]).with_suffix(".py") for n in range(2, len(parts) + 1)}
            waiting += [file for file in found - needed if file.is_file()]
    assert ROOT / "worldflow/world_model.py" in needed
    assert not {path for path in needed if path.parent.name in ("evaluation", "detectors")}


@pytest.mark.parametrize("folder", ["worldflow", "envs", "agents"])
def test_sibling_folders_are_imported_under_worldflow(folder: str) -> None:
    assert not offenders(folder, ("envs", "agents", "configs"))


def test_import_worldflow_is_light() -> None:
    heavy = ("vizdoom", "stable_baselines3", "torch", "cv2", "tensorboard", "pygame")
    code = f"import sys, worldflow; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", ["worldflow", "envs", "agents"])
def test_no_file_is_too_long(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(folder)}
    assert not {str(path): n for path, n in lengths.items() if n > LONGEST}


def test_every_package_is_listed_and_every_listed_package_exists() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = set()
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            found.add(".".join(parts if folder == "worldflow" else ("worldflow", *parts)))
    assert found == set(listed)


def test_every_folder_with_code_is_a_package() -> None:
    for folder in ("worldflow", "envs", "agents"):
        for path in sources(folder):
            assert (path.parent / "__init__.py").is_file(), path


def test_the_loader_of_agents_is_the_only_name_of_agents_in_envs() -> None:
    """An import by string would slip past the scan of imports."""
    named = [
        node.value
        for path in (ROOT / "envs").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and str(node.value).startswith("worldflow.agents")
    ]
    assert named == ["worldflow.agents.player:load_player"]


def unsaid(card: str) -> set[str]:
    """What no point of a world's card says."""
    points = POINT.findall(card)
    return {
        name
        for name, pattern in CARD.items()
        if not any(re.match(pattern, point, re.DOTALL) for point in points)
    }


def test_the_worlds_that_ship_fit_into_the_package() -> None:
    sizes = {w.name: sum(f.stat().st_size for f in w.iterdir()) for w in WORLDS}
    assert {"catch", "multi", "pendulum", "takecover"} <= set(sizes)
    assert max(sizes.values()) <= 30e6 and sum(sizes.values()) <= 60e6, sizes


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_cards_say_what_a_world_was_made_of(world: Path) -> None:
    card = (world / "card.md").read_text(encoding="utf-8")
    assert unsaid(card) == set()
    # each is said once, so that a card without it is refused
    lost = (unsaid(card.replace(point, "")) for point in POINT.findall(card))
    assert set().union(*lost) == set(CARD)
    for words, name in (
        (r"\bseeds? \d", "seed"),
        (r"\b(minutes|hours)\b", "time"),
        ("worldflow pretrain", "commands"),
    ):
        assert unsaid(re.sub(words, "", card)) == {name}
