"""What an engine saves and averages: the gradients stay those of the plain update."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from training_runs import tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.data.splitting import split
from worldflow.errors import ConfigError
from worldflow.flow.affine import AffineHead
from worldflow.storage import load_world
from worldflow.training.ema import Ema
from worldflow.training.engine import Engine, EngineConfig
from worldflow.training.flow_stage import FlowStage
from worldflow.training.pretrain import main


def with_engine(stage: FlowStage, accumulate: int = 1, **settings: object) -> FlowStage:
    """The same stage anew, of a copy of the world."""
    engine = Engine(config=EngineConfig(**settings))  # type: ignore[arg-type]
    return FlowStage(
        copy.deepcopy(stage.world),
        replace(stage.config, clip=4, accumulate=accumulate),
        stage.episodes,
        stage.dataset,
        *split(stage.dataset.recordings, 0.34, 0),
        0,
        engine,
    )


def gradients(stage: FlowStage) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Figures and gradients of an update whose clips are of unlike lengths."""
    figures = stage.update(1)
    named = stage.world.named_parameters()
    return figures, {name: p.grad for name, p in named if p.grad is not None}


@pytest.fixture
def plain(stage: FlowStage) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return gradients(with_engine(stage))


@pytest.mark.parametrize("pieces", [2, 4])
def test_pieces_give_the_gradients_of_the_whole(
    stage: FlowStage, plain: tuple[dict[str, Tensor], dict[str, Tensor]], pieces: int
) -> None:
    [piece] = with_engine(stage)._prepare(1).pieces
    assert len(set(piece.batch.valid.sum(dim=1).tolist())) > 1
    torch.testing.assert_close(gradients(with_engine(stage, pieces)), plain)


def test_layers_computed_again_give_the_same_gradients(
    stage: FlowStage, plain: tuple[dict[str, Tensor], dict[str, Tensor]], calls: list[str]
) -> None:
    again = with_engine(stage, activation_checkpointing=True)
    calls.clear()
    found = gradients(again)
    layers = 2 + 2 + 1  # local blocks, both parts of the global one, the denoiser
    assert len(calls) == 2 * layers
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    calls.clear()
    with torch.no_grad():
        again.world.flow(torch.zeros(1, 2, 4, 2), torch.zeros(1, 2, 8))
    assert len(calls) == 4


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each computation of a layer's attention."""
    made: list[str] = []
    inner = nn.functional.scaled_dot_product_attention

    def spy(*args: Tensor, **options: Tensor) -> Tensor:
        made.append("attention")
        return inner(*args, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    return made


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients(
    stage: FlowStage, plain: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = with_engine(stage, compile=True, activation_checkpointing=True)
        torch.testing.assert_close(gradients(compiled), plain, rtol=1e-3, atol=1e-5)


def test_autocast_leaves_affine_maps_and_weights_in_float32(
    stage: FlowStage, plain: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    half = with_engine(stage, precision="bf16")
    seen: dict[type[nn.Module], set[torch.dtype]] = {AffineHead: set(), nn.Linear: set()}

    def note(module: nn.Module, _: object, out: object) -> None:
        values = out if isinstance(out, tuple) else (out,)
        seen[type(module)] |= {value.dtype for value in values if isinstance(value, Tensor)}

    for module in half.world.denoiser.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(note)
    for module in half.world.flow.modules():
        if isinstance(module, AffineHead):
            module.register_forward_hook(note)
    figures, found = gradients(half)
    assert seen == {AffineHead: {torch.float32}, nn.Linear: {torch.bfloat16}}
    assert {value.dtype for value in found.values()} == {torch.float32}
    for name, value in plain[0].items():
        assert figures[name] == pytest.approx(float(value), rel=0.05)
    assert any(not torch.equal(found[name], plain[1][name]) for name in found)


def test_the_average_has_its_closed_form() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    ema = Ema({weight: "weight"}, decay=0.15)
    for step, value in enumerate((3.0, 5.0, 9.0)):
        with torch.no_grad():
            weight.fill_(value)
        ema.update(step)
    # decays 1 / 10, then 2 / 11 and 3 / 12, of which 0.15 is less
    start = torch.tensor([1.0, -2.0])
    expected = 0.15 * (0.15 * (0.1 * start + 0.9 * 3.0) + 0.85 * 5.0) + 0.85 * 9.0
    torch.testing.assert_close(ema.averages["weight"], expected)
    assert weight.tolist() == [9.0, 9.0]
    ema.apply()
    torch.testing.assert_close(weight.detach(), expected)


def test_no_decay_is_no_average() -> None:
    weight = nn.Parameter(torch.ones(2))
    ema = Ema({weight: "weight"}, decay=0.0)
    ema.update(0)
    ema.apply()
    assert ema.averages == {} and weight.tolist() == [1.0, 1.0]


def test_averaged_weights_are_measured_and_saved(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ActionSpec("discrete", n=3))
    worlds, figures = {}, {}
    for decay in (0.0, 0.5):
        config = tiny_pretraining(tmp_path / "data", tmp_path / f"run-{decay}")
        config.training.ema = decay
        config.training.flow.validate_every = 7
        worlds[decay] = load_world(main(config)).state_dict()
        entries = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").open()]
        figures[decay] = {entry["tag"]: entry["value"] for entry in entries}
    stored = load_file(tmp_path / "run-0.5/checkpoint.safetensors")
    averages = {k.removeprefix("average/"): v for k, v in stored.items() if "average/" in k}
    assert set(averages) == {name for name in worlds[0.5] if not name.startswith("codec")}
    for name, value in averages.items():
        assert torch.equal(worlds[0.5][name], value)
    assert any(not torch.equal(stored[f"model/{name}"], averages[name]) for name in averages)
    # averages are made of the updates, not put into them
    assert figures[0.0]["codec/loss"] == figures[0.5]["codec/loss"]
    assert figures[0.0]["codec/held_out_psnr"] != figures[0.5]["codec/held_out_psnr"]
    assert figures[0.0]["flow/held_out_nll"] != figures[0.5]["flow/held_out_nll"]


def test_gradients_are_exchanged_after_the_last_piece_only() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        replicated = DistributedDataParallel(nn.Linear(2, 1))
        sharded = nn.Sequential(fully_shard(nn.Linear(2, 1), mesh=init_device_mesh("cpu", (1,))))
        engine, exchanged = Engine(), []
        for last in (False, True):
            with engine.reduction((replicated, sharded), last):
                group = sharded[0]._get_fsdp_state()._fsdp_param_group
                exchanged.append((replicated.require_backward_grad_sync, group.reduce_grads))
        assert exchanged == [(False, False), (True, True)]
        assert replicated.require_backward_grad_sync
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "bad", [{"precision": "fp16"}, {"sharding": "half"}, {"ema": 1.0}, {"ema": -0.1}]
)
def test_bad_settings_are_named(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"training.{next(iter(bad))}"):
        EngineConfig(**bad)  # type: ignore[arg-type]
