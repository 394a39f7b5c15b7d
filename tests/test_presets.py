"""The presets of worlds compose and build, and the formulas of what they take are right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from footprint import (
    Stack,
    activation_bytes,
    copy_bytes,
    count,
    meta_world,
    parameters_by_part,
    sharded_bytes,
    stack_bytes,
    state_bytes,
    update_flop,
    with_both_heads,
)
from live_memory import LiveMemory

from worldflow.agents.demo import DemoConfig
from worldflow.config import choices, load_config
from worldflow.flow.transformer import TransformerConfig, VideoTransformer
from worldflow.testing import tiny_config, tiny_world
from worldflow.training.engine import EngineConfig
from worldflow.training.layers import prepare_layers
from worldflow.training.pretrain import PretrainConfig

SIZES = {"catch": 64, "multi": 64, "translation": 64, "small": 64, "base": 128, "large": 256}


def preset(name: str, *overrides: str) -> PretrainConfig:
    training = name if name in choices("training") else "default"
    given = ["data=x", f"world={name}", f"training={training}", *overrides]
    return load_config("pretrain", PretrainConfig, given)


def layers(width: int, depth: int, modulation: int = 0) -> int:
    """Weights and biases of transformer layers: 3 + 1 + 4 + 4 squares of the width."""
    norms = 0 if modulation else 4 * width
    one = 12 * width**2 + (3 + 1 + 4 + 1) * width + norms
    return depth * (one + 4 * width * (modulation + 1) * bool(modulation))


def test_every_world_has_its_sizes_here() -> None:
    assert set(choices("world")) == set(SIZES)


@pytest.mark.parametrize(
    ("name", "tokens", "least", "most"),
    [("small", 16, 5e6, 10e6), ("base", 64, 50e6, 100e6), ("large", 256, 300e6, 1e9)],
)
def test_presets_build(name: str, tokens: int, least: float, most: float) -> None:
    config = preset(name)
    world = meta_world(config.world, SIZES[name])
    assert world.tokens == tokens
    assert least < count(world) < most
    assert sum(parameters_by_part(world).values()) == count(world)
    assert all(parameter.is_meta for parameter in world.parameters())
    assert config.world.context < config.training.flow.clip
    assert config.training.flow.batch % config.training.flow.accumulate == 0


@pytest.mark.parametrize("name", ["freeway", "pendulum"])
def test_worlds_of_the_demo_take_at_most_30_megabytes(name: str) -> None:
    demo = load_config("demo", DemoConfig, [f"preset={name}"])
    config = load_config("pretrain", PretrainConfig, ["data=x", *demo.pretrain])
    assert 1e6 < count(meta_world(config.world, 64)) < 15e6  # two bytes each
    assert config.world.context < config.training.flow.clip


def test_the_world_for_pairs_sees_all_of_its_source() -> None:
    config = preset("translation")
    source = config.world.context
    assert config.training.flow.clip == config.training.joint.clip == 2 * source
    # position t reads frames t - window to t - 1, and its source is frame t - source
    assert config.world.flow.window >= source
    assert config.world.reach >= source  # so many frames of a clip are given by generate


def test_base_also_takes_smaller_frames() -> None:
    assert meta_world(preset("base").world, 96).tokens == 36
    assert meta_world(preset("base").world, 64).tokens == 16


def test_presets_train_jointly_in_one_piece() -> None:
    config = preset("large", "codec=joint", "training.flow.accumulate=1")
    assert config.training.is_joint
    assert config.training.joint.clip == config.training.flow.clip


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_parameters_are_those_of_the_formula(name: str) -> None:
    config = preset(name).world
    world = meta_world(config, SIZES[name])
    tokens, channels, condition = world.tokens, world.channels, config.condition
    past, within = config.flow.global_block.past, config.flow.global_block.within

    def linear(a: int, b: int) -> int:
        return (a + 1) * b

    def ends(width: int) -> int:  # position, and the norm and projection of an affine head
        return tokens * width + 2 * width + linear(width, 2 * channels)

    local = config.flow.local
    one = linear(channels, local.width) + layers(local.width, local.depth) + ends(local.width)
    assert count(world.flow.local_blocks) == config.flow.local_blocks * one
    deep = linear(channels, past.width) + tokens * past.width
    deep += layers(past.width, past.depth, condition)
    shallow = linear(channels, within.width) + layers(within.width, within.depth)
    shallow += linear(past.width, within.width) + ends(within.width)
    assert count(world.flow.global_block) == deep + shallow


def test_the_meta_world_is_the_built_one() -> None:
    config = with_both_heads(preset("small").world)
    built = tiny_world(config=config, frame_size=64)
    shapes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    meta = meta_world(config, 64).state_dict()
    rows = "conditioning.table.weight"  # as many as actions
    assert {n: t.shape for n, t in meta.items() if n != rows} == {
        n: s for n, s in shapes.items() if n != rows
    }


@pytest.mark.parametrize("clip", [8, 40])  # 128 and 640 tokens: attention is computed differently
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_layer_keeps_what_the_formula_says(
    precision: str, checkpointing: bool, clip: int
) -> None:
    """Of two transformers of different depths, as the ends of both are the same."""
    engine = EngineConfig(precision, activation_checkpointing=checkpointing)
    tokens, width = 16, 64
    kept, computed = [], []
    for depth in (2, 4):
        torch.manual_seed(0)
        size = TransformerConfig(width, depth, 2)
        transformer = VideoTransformer(size, tokens, 4, 8)
        prepare_layers([transformer], False, checkpointing)
        x = torch.randn(1, clip, tokens, width, requires_grad=True)
        memory = LiveMemory()
        memory.ignore([*transformer.parameters(), *transformer.buffers(), x])
        with memory, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = transformer(x, torch.randn(1, clip, 8))
            kept.append(memory.live)
        assert out.requires_grad
        copies = 2 * sum(layer.numel() for layer in transformer.parameters())
        weights = copies if precision == "bf16" else 0
        computed.append(stack_bytes(Stack(size, True), tokens, clip, engine) + weights)
    assert computed[1] - computed[0] == pytest.approx(kept[1] - kept[0], rel=0.01)


def test_live_memory_counts_storages_once_and_forgets_them() -> None:
    given = torch.zeros(1000)
    memory = LiveMemory()
    memory.ignore([given])
    with memory:
        view = given[:10] + 0.0  # 40 bytes
        alias = view.view(2, 5)
        assert memory.live == 40
        del view
        assert memory.live == 40  # the alias holds it
        large = torch.empty(250)
        del large, alias
    assert (memory.live, memory.peak) == (0, 1040)


def test_states_are_counted_by_hand() -> None:
    world = meta_world(tiny_config(), 64)
    codec, trained = count(world.codec), count(world) - count(world.codec)
    plain = state_bytes(world, EngineConfig())
    assert plain.total == 4 * codec + 16 * trained
    averaged = state_bytes(world, EngineConfig(ema=0.9))
    assert averaged.total == plain.total + 4 * (codec + trained) + 4 * trained


def test_sharding_divides_all_but_what_is_gathered() -> None:
    world, engine = meta_world(preset("large").world, 256), EngineConfig(ema=0.999)
    codec = count(world.codec)
    trained = count(world) - codec
    two, eight = (sharded_bytes(world, engine, ranks) for ranks in (2, 8))
    assert two - eight == pytest.approx(20 * trained * (1 / 2 - 1 / 8))
    assert eight < state_bytes(world, engine).total / 3


def test_longer_clips_and_fewer_savings_take_more() -> None:
    config = preset("base").world
    plain = EngineConfig()
    saving = EngineConfig("bf16", activation_checkpointing=True)
    short, long = (activation_bytes(config, 64, clip, plain) for clip in (4, 16))
    assert long > 4 * short
    assert activation_bytes(config, 64, 16, saving) < long / 3
    assert copy_bytes(meta_world(config, 128), plain) == 0
    ratio = update_flop(config, 64, 4, saving) / update_flop(config, 64, 4, plain)
    assert ratio == pytest.approx(4 / 3, rel=0.01)
