"""Composition of configurations: known overrides, paths, and the messages for wrong ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from worldflow.cli import COMMANDS
from worldflow.config import choices, compose_config, groups_of, load_config
from worldflow.envs.collect import CollectConfig
from worldflow.errors import ConfigError
from worldflow.generation.generate import GenerateConfig
from worldflow.training.pretrain import PretrainConfig


def pretrain(*overrides: str) -> PretrainConfig:
    return load_config("pretrain", PretrainConfig, overrides)


def test_group_choice_path_and_value_become_the_dataclass() -> None:
    config = pretrain("data=runs/data", "world=catch", "training.flow.steps=7", "out=x")
    assert config.data.path == "runs/data"
    assert config.world.context == 1  # of configs/world/catch.yaml
    assert config.training.flow.steps == 7
    assert isinstance(config, PretrainConfig)


def test_a_later_override_wins() -> None:
    assert pretrain("data=a", "training.seed=1", "training.seed=2", "out=x").training.seed == 2


def test_source_takes_a_file_or_an_env_id() -> None:
    chosen = load_config("collect", CollectConfig, ["source=catch", "out=x"])
    assert chosen.source.env_id == "worldflow/Catch-v0"
    given = load_config("collect", CollectConfig, ["source=MiniGrid-Empty-8x8-v0", "out=x"])
    assert given.source.env_id == "MiniGrid-Empty-8x8-v0"


def test_free_mappings_take_new_keys() -> None:
    config = load_config(
        "collect", CollectConfig, ["source=catch", "source.kwargs.drift=0.3", "out=x"]
    )
    assert config.source.kwargs["drift"] == 0.3


def test_paths_may_be_quoted() -> None:
    assert pretrain("data='runs/my data'", "out=x").data.path == "runs/my data"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "world.flow.globl_block.past.depth=2",
            "did you mean 'world.flow.global_block.past.depth'?",
        ),
        ("wrld.sigma=0.2", "did you mean 'world.sigma'?"),
        ("sigma=0.2", "did you mean 'world.sigma'?"),
        (
            "xyzzy=1",
            "the keys here are data, world, initial_world, starts, text, training, growing, "
            "resume, out",
        ),
        ("world=smal", "unknown choice 'world=smal'; did you mean 'small'?"),
        ("training=xyzzy", "choose one of"),
        ("agent=runs/agent", "unknown key 'agent.path'"),
        ("training.flow.steps=many", "training.flow.steps='many'"),
        ("world={sgma: 1}", "did you mean 'world.sigma'?"),
        ("training.seed=1,2", "several values"),
        ("training.seed=[1", "quote"),
        ("+new=1", "write key=value"),
        ("~out", "write key=value"),
        ("out", "write key=value"),
        ("world.sigma=-1", "must be positive"),
    ],
)
def test_wrong_overrides_are_refused_with_a_remedy(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pretrain("data=x", "out=y", override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sentences_are_taken_as_they_are_and_null_is_none() -> None:
    config = load_config("generate", GenerateConfig, ["world=w", "prompt=a, b [c]", "image=null"])
    assert config.prompt == "a, b [c]" and config.image is None
    assert load_config("generate", GenerateConfig, ["world=w", "guidance=2"]).guidance.weight == 2.0


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{state}", "{state}"),
        ("'{state}'", "{state}"),
        ('the sign says "exit"', 'the sign says "exit"'),
        ("'left' or 'right'", "'left' or 'right'"),
        ("dogs'", "dogs'"),
        ("'", "'"),
        ("''", ""),
        ("null", None),
    ],
)
def test_sentences_keep_braces_and_inner_quotes(written: str, meant: str | None) -> None:
    config = load_config("collect", CollectConfig, ["source=catch", f"caption={written}", "out=x"])
    assert config.caption == meant


def test_a_missing_value_is_named_in_its_shortest_form() -> None:
    with pytest.raises(ConfigError, match=r"missing value: data.path; give data=\.\.\."):
        pretrain("out=x")


@dataclass
class Wrong:
    """A dataclass that does not fit `configs/evaluate.yaml`."""

    world: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    horizons: int = 1


def test_a_yaml_key_that_no_code_reads_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"configs/evaluate.yaml: unknown key"):
        compose_config("evaluate", Wrong, [])


def test_groups_and_choices() -> None:
    assert {"world", "training"} <= groups_of("pretrain")
    assert {"catch", "small"} <= set(choices("world"))
    assert choices("no_such_group") == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_yaml_fits_its_dataclass_and_sets_every_field(name: str) -> None:
    command = COMMANDS[name]
    _, schema = command.load()
    node = compose_config(command.config, schema, [])
    assert set(schema.__dataclass_fields__) == set(node)
