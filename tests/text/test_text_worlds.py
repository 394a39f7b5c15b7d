"""Worlds that know text: what a condition is, strict loading, scoring, stepping, guidance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from worldflow.actions import ActionSpec
from worldflow.conditioning import Conditioning
from worldflow.errors import ConfigError, DataError, WorldFormatError
from worldflow.flow.guidance import Guidance
from worldflow.storage import load_world, save_world
from worldflow.testing import tiny_world
from worldflow.text.encoder import embed, encoder_of
from worldflow.text.spec import TextSpec
from worldflow.world_model import WorldModel

CAPTIONS = ("the ball falls left", "the ball falls right")
SPECS = [
    ActionSpec("discrete", n=3),
    ActionSpec("box", low=(-1.0,), high=(1.0,)),
    ActionSpec("none"),
]


def texts(world: WorldModel, *captions: str | None) -> torch.Tensor:
    return embed(encoder_of(world.spec.text), captions)


def clip(rows: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (rows, frames, 64, 64, 3), generator=generator)
    return pixels.to(torch.uint8), torch.randint(0, 3, (rows, frames), generator=generator)


@pytest.mark.parametrize("spec", SPECS)
def test_text_and_actions_are_given_together_or_alone(spec: ActionSpec) -> None:
    conditioning = Conditioning(spec, 8, TextSpec("words", "x", 4))
    actions = torch.ones(2, 3, *spec.shape).to(torch.float32 if spec.kind == "box" else torch.int64)
    text = torch.nn.functional.normalize(torch.randn(2, 4), dim=1)
    unknown = torch.zeros(2, 3, dtype=torch.bool)
    both = conditioning(actions, None, text)
    alone = conditioning(actions, unknown, text)
    nothing = conditioning(actions, unknown)
    assert both.shape == (2, 3, 8)
    assert not torch.allclose(alone, nothing)
    torch.testing.assert_close(both[:, 0], alone[:, 0])  # a first frame has no action
    assert torch.allclose(both[:, 1:], alone[:, 1:]) == (spec.kind == "none")
    # zeros are no text, row by row
    some = torch.stack((text[0], torch.zeros(4)))
    mixed = conditioning(actions, unknown, some)
    torch.testing.assert_close(mixed[0], alone[0])
    torch.testing.assert_close(mixed[1], nothing[1])
    # frame by frame it is the same
    torch.testing.assert_close(conditioning.embed(actions[:, 1], None, text), both[:, 1])
    torch.testing.assert_close(conditioning.initial(2, text), both[:, 0])


def test_the_null_of_text_is_learned() -> None:
    conditioning = Conditioning(SPECS[0], 8, TextSpec("words", "x", 4))
    text = torch.tensor([[0.0] * 4, [1.0, 0.0, 0.0, 0.0]])
    conditioning(torch.zeros(2, 3).long(), None, text).square().sum().backward()
    assert conditioning.text_null.grad is not None and conditioning.text_null.grad.any()
    assert conditioning.text_projection.weight.grad is not None
    assert conditioning.text_projection.weight.grad[:, 0].any()


def test_a_world_without_text_has_no_weights_of_it() -> None:
    names = set(tiny_world().state_dict())
    with_text = set(tiny_world(captions=CAPTIONS).state_dict())
    new = {"conditioning.text_projection.weight", "conditioning.text_projection.bias"}
    new |= {f"conditioning.text_{name}" for name in ("null", "mean", "whitening")}
    assert with_text - names == new
    assert names < with_text


def test_saved_worlds_keep_their_text(tmp_path: Path) -> None:
    world = tiny_world(captions=CAPTIONS)
    save_world(world, tmp_path / "w", "card")
    loaded = load_world(tmp_path / "w")
    assert loaded.spec.text == world.spec.text
    frames, actions = clip(1, 4)
    text = texts(world, CAPTIONS[0])
    assert torch.equal(
        world.log_prob(frames, actions, text=text), loaded.log_prob(frames, actions, text=text)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": None}, "digest"),
        ({"colour": "red"}, "text.colour"),
        ({"width": 32}, r"text_mean has shape \(64,\)"),
    ],
)
def test_damaged_text_settings_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_world(tiny_world(captions=CAPTIONS), tmp_path / "w", "card")
    path = tmp_path / "w" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    text = config["spec"]["text"]
    config["spec"]["text"] = {k: v for k, v in {**text, **change}.items() if v is not None}
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(WorldFormatError, match=message):
        load_world(tmp_path / "w")


def test_missing_weights_of_text_are_refused(tmp_path: Path) -> None:
    save_world(tiny_world(captions=CAPTIONS), tmp_path / "w", "card")
    path = tmp_path / "w" / "world.safetensors"
    weights = load_file(path)
    del weights["conditioning.text_null"]
    save_file(weights, path)
    with pytest.raises(WorldFormatError, match=r"1 tensors are missing .*text_null"):
        load_world(tmp_path / "w")


def test_another_encoder_is_refused_when_a_prompt_is_given(tmp_path: Path) -> None:
    save_world(tiny_world(captions=CAPTIONS), tmp_path / "w", "card")
    path = tmp_path / "w" / "config.yaml"
    digest = tiny_world(captions=CAPTIONS).spec.text.digest  # type: ignore[union-attr]
    path.write_text(path.read_text().replace(digest, "f" * 16))
    with pytest.raises(WorldFormatError, match="this world learned with words: ffff"):
        encoder_of(load_world(tmp_path / "w").spec.text)


def test_likelihood_depends_on_text_and_no_text_is_zeros() -> None:
    world = tiny_world(captions=CAPTIONS)
    frames, actions = clip(2, 4)
    left = world.log_prob(frames, actions, text=texts(world, CAPTIONS[0], CAPTIONS[0]))
    right = world.log_prob(frames, actions, text=texts(world, CAPTIONS[1], CAPTIONS[1]))
    none = world.log_prob(frames, actions)
    assert not torch.allclose(left, right)
    torch.testing.assert_close(none, world.log_prob(frames, actions, text=texts(world, None, None)))
    torch.testing.assert_close(
        left, world.score(frames, actions, text=texts(world, *CAPTIONS[:1] * 2)).log_likelihood
    )


def test_a_dream_remembers_what_it_is_about() -> None:
    """Stepping under a text is scoring under it, row by row, also after a fork."""
    world = tiny_world(captions=CAPTIONS).double()
    frames, actions = clip(2, 2)
    text = texts(world, *CAPTIONS)
    noise = [torch.Generator().manual_seed(k) for k in range(2)]
    state = world.initial_state(frames, actions, noise, text=text)
    state = world.fork(state, [1, 0])
    torch.testing.assert_close(state.text, text.flip(0).double())
    action = torch.tensor([0, 2])
    drawn = []
    step = world.flow.step
    world.flow.step = lambda *a, **k: drawn.append(step(*a, **k)) or drawn[-1]  # type: ignore
    _, prediction = world.step(state, action, noise)
    noise = [torch.Generator().manual_seed(k) for k in range(2)]
    noisy = world.noisy_latents(frames, noise).flip(0)
    whole = torch.cat((noisy, drawn[0][2].noisy[:, None]), 1)
    condition = world.conditioning(
        torch.cat((actions.flip(0), action[:, None]), 1), None, text.flip(0).double()
    )
    expected = world.flow(whole, condition).log_prob[:, -1]
    torch.testing.assert_close(prediction.log_likelihood, expected)


@torch.inference_mode()
def test_kept_states_keep_their_text() -> None:
    """Neither a state's own past nor the caller's tensor is written to by `assign`."""
    world = tiny_world(captions=CAPTIONS)
    given = texts(world, *CAPTIONS)
    kept, _ = world.first_frame(2, torch.Generator().manual_seed(0), text=given)
    action = torch.tensor([0, 1])
    state, _ = world.step(kept, action, torch.Generator().manual_seed(1))
    before = world.step(kept, action, torch.Generator().manual_seed(1))[1].latents
    assert state.text is not None and kept.text is not None
    other = world.first_frame(1, torch.Generator().manual_seed(2), text=given[1:])[0]
    state.assign(torch.tensor([0]), other)
    assert torch.equal(state.text, given[[1, 1]])
    assert torch.equal(kept.text, given) and torch.equal(given, texts(world, *CAPTIONS))
    after = world.step(kept, action, torch.Generator().manual_seed(1))[1].latents
    assert torch.equal(before, after)


@torch.inference_mode()
def test_assigned_text_is_not_the_callers() -> None:
    world = tiny_world(captions=CAPTIONS)
    given = texts(world, *CAPTIONS)
    state = world.initial_state(*clip(2, 2), text=given)
    state.assign(torch.tensor([0]), state.rows(torch.tensor([1])))
    assert torch.equal(given, texts(world, *CAPTIONS))


def test_the_first_frame_from_nothing_has_the_likelihood_of_a_first_frame() -> None:
    world = tiny_world(captions=CAPTIONS).double()
    text = texts(world, *CAPTIONS)
    drawn = []
    step = world.flow.step
    world.flow.step = lambda *a, **k: drawn.append(step(*a, **k)) or drawn[-1]  # type: ignore
    state, prediction = world.first_frame(2, torch.Generator().manual_seed(0), text=text)
    noisy = drawn[0][2].noisy[:, None]
    condition = world.conditioning(torch.zeros(2, 1).long(), None, text.double())
    torch.testing.assert_close(
        prediction.log_likelihood, world.flow(noisy, condition).log_prob[:, 0]
    )
    assert state.flow.cache.time.tolist() == [1, 1]
    _, after = world.step(state, torch.tensor([0, 1]), torch.Generator().manual_seed(1))
    assert after.frame.shape == (2, 64, 64, 3)


def test_guidance_leads_towards_the_text() -> None:
    """The more weight, the likelier is the text given the frame, on average over dreams."""
    world = tiny_world(captions=CAPTIONS)
    rows = 64
    text = texts(world, CAPTIONS[0]).expand(rows, -1)

    def gain(weight: float) -> float:
        drawn = []
        step = world.flow.step
        world.flow.step = lambda *a, **k: drawn.append(step(*a, **k)) or drawn[-1]  # type: ignore
        generator = torch.Generator().manual_seed(0)
        world.first_frame(rows, generator, text=text, guidance=Guidance(weight, "text"))
        world.flow.step = step  # type: ignore[method-assign]
        noisy = drawn[0][2].noisy[:, None]
        actions = torch.zeros(rows, 1).long()
        told = world.flow(noisy, world.conditioning(actions, None, text)).log_prob
        untold = world.flow(noisy, world.conditioning(actions)).log_prob
        return float((told - untold).mean())

    assert gain(0.0) < gain(1.0) < gain(4.0)


def test_rows_of_guided_and_unguided_dreams_do_not_mix() -> None:
    world = tiny_world(captions=CAPTIONS)
    frames, actions = clip(1, 2)
    plain = world.initial_state(frames, actions)
    guided = world.initial_state(frames, actions, guidance=Guidance(1.0))
    with pytest.raises(ValueError, match="guidances"):
        plain.where(torch.tensor([True]), plain, guided)
    both = guided.where(torch.tensor([True]), guided, guided)
    assert both.guidance == Guidance(1.0) and both.flow.unguided is not None


def test_guidance_over_what_was_never_hidden_is_refused(tmp_path: Path) -> None:
    world = tiny_world(captions=CAPTIONS)
    frames, actions = clip(1, 2)
    for noted in (None, True, False):
        spec = replace(world.spec, knows_unknown_actions=noted)
        changed = WorldModel(world.config, spec, world.calibration, world.context).eval()
        save_world(changed, tmp_path / "w", "card")
        loaded = load_world(tmp_path / "w")
        assert loaded.spec.knows_unknown_actions is noted
        loaded.initial_state(frames, actions, guidance=Guidance(1.0, "text"))
        if noted is not False:
            loaded.initial_state(frames, actions, guidance=Guidance(1.0, "actions"))
            continue
        for over in ("actions", "both"):
            with pytest.raises(ConfigError, match="no action was hidden from this world"):
                loaded.initial_state(frames, actions, guidance=Guidance(1.0, over))
    path = tmp_path / "w" / "config.yaml"
    written = path.read_text()
    path.write_text(written.replace("  knows_unknown_actions: false\n", ""))
    assert path.read_text() != written
    assert load_world(tmp_path / "w").spec.knows_unknown_actions is None  # a world of before


def test_wrong_texts_are_refused() -> None:
    world = tiny_world(captions=CAPTIONS)
    frames, actions = clip(2, 2)
    with pytest.raises(DataError, match=r"text has shape \(1, 64\), needed is \(2, 64\)"):
        world.initial_state(frames, actions, text=texts(world, CAPTIONS[0]))
    video = tiny_world(ActionSpec("none"), captions=CAPTIONS)
    with pytest.raises(ConfigError, match="knows no actions"):
        video.initial_state(frames, actions, guidance=Guidance(1.0, "both"))
