"""Training of a part of the world alone, on pasts that are read once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import tiny_pretraining, write_dataset

from worldflow.actions import ActionSpec
from worldflow.data.episodes import EpisodeDataset
from worldflow.errors import ConfigError, DataError
from worldflow.storage import load_world
from worldflow.training.denoiser_stage import DenoiserStage
from worldflow.training.engine import Engine
from worldflow.training.flow_stage import FlowTraining
from worldflow.training.frozen_past import FrozenPastStage
from worldflow.training.heads_stage import HeadsStage
from worldflow.training.latents import LatentEpisodes
from worldflow.training.losses import DenoiserLoss, FlowLoss
from worldflow.training.past_features import PastFeatures, _cuts, tensors
from worldflow.training.pretrain import PretrainConfig, main
from worldflow.training.within_stage import WithinStage
from worldflow.world_model import WorldModel


def part(
    name: str, data: Path, base: Path, out: Path, outcomes: int = 1, **flow: object
) -> PretrainConfig:
    """Training of a part of `base`."""
    config = tiny_pretraining(data, out)
    block = replace(config.world.flow.global_block, outcomes=outcomes)
    world = replace(config.world, flow=replace(config.world.flow, global_block=block))
    settings = replace(config.training.flow, part=name, **flow)
    training = replace(config.training, flow=settings)
    return replace(config, world=world, training=training, initial_world=str(base))


def within(data: Path, base: Path, out: Path, **flow: object) -> PretrainConfig:
    """Training of the maps within a frame, with three outcomes."""
    return part("within", data, base, out, outcomes=3, **flow)


def pasts(world: WorldModel, data: Path, folder: Path, clip: int, dropout: float) -> PastFeatures:
    dataset = EpisodeDataset(data)
    episodes = LatentEpisodes(world.codec, dataset, folder)
    index = np.arange(len(dataset))
    return PastFeatures(
        world, episodes, episodes.key, index, dataset.lengths, clip, (dropout, 0.0), 0, folder
    )


def test_every_frame_is_cut_once_with_a_window_before_it() -> None:
    lengths = np.array([1, 5, 6, 23])
    seen = {int(i): [] for i in range(4)}
    for index, begin, first, stop in _cuts(np.arange(4), lengths, 6, 3):
        assert stop - begin <= 6 and stop <= lengths[index]
        assert begin == max(first - 3, 0)
        seen[index] += range(first, stop)
    assert all(frames == list(range(lengths[i])) for i, frames in seen.items())


def test_likelihoods_on_kept_pasts_are_those_of_whole_clips(
    data: Path, base: Path, tmp_path: Path
) -> None:
    """All but without noise, an episode's first clip has the likelihood that the flow gives it."""
    world = load_world(base)
    world.config = replace(world.config, sigma=1e-6)
    dataset, clip = EpisodeDataset(data), 6
    frames = pasts(world, data, tmp_path, clip, 0.0)
    assert len(frames) == dataset.lengths.sum()
    cuts = [cut[1:] for cut in _cuts(np.arange(1), dataset.lengths, clip, 3)]
    assert len(cuts) > 1 and cuts[1][0] > 0  # later clips have a window before them
    for begin, first, stop in cuts:
        past, latents = tensors(frames.past[first:stop], frames.latents[begin:stop])
        actions = torch.from_numpy(dataset.read(0).actions[None, begin:stop])
        with torch.no_grad():
            found = world.flow.log_prob_given(latents[first - begin :], past)
            whole = world.flow(latents[None], world.conditioning(actions)).log_prob[0]
        assert whole.std() > 0.1
        # kept in half precision
        torch.testing.assert_close(found, whole[first - begin :], rtol=0, atol=0.02)


def test_kept_pasts_are_read_again_and_written_anew_for_others(
    data: Path, base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world = load_world(base)
    once = np.array(pasts(world, data, tmp_path, 6, 0.0).past)
    assert "read pasts" in capfd.readouterr().err
    assert np.array_equal(np.array(pasts(world, data, tmp_path, 6, 0.0).past), once)
    assert "read pasts" not in capfd.readouterr().err
    other = np.array(pasts(world, data, tmp_path, 6, 1.0).past)
    assert "read pasts" in capfd.readouterr().err
    assert not np.array_equal(other, once)


def test_only_the_maps_within_a_frame_are_trained(data: Path, base: Path, tmp_path: Path) -> None:
    config = within(data, base, tmp_path, rare=0.5)
    before, after = load_world(base).state_dict(), load_world(main(config)).state_dict()
    trained = ("within.", "project.", "head.", "outcomes.")
    inside = tuple(f"flow.global_block.{name}" for name in trained)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(inside) for name in moved)
    assert {name for name in after if name not in before} == {
        f"flow.global_block.outcomes.{layer}.{kind}"
        for layer in ("norm", "others", "weights")
        for kind in ("weight", "bias")
    }


def test_only_denoiser_and_heads_are_trained(data: Path, base: Path, tmp_path: Path) -> None:
    before = load_world(base).state_dict()
    after = load_world(main(part("denoiser", data, base, tmp_path, rare=0.5))).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {"denoiser", "reward_head", "termination_head"}
    assert {name.split(".")[0] for name in moved} == parts and after.keys() == before.keys()


def hazard(
    data: Path, base: Path, out: Path, learning_rate: float = 1e-3, **flow: object
) -> PretrainConfig:
    """Training of the heads, of which that of termination reads the past."""
    config = part("heads", data, base, out, learning_rate=learning_rate, **flow)
    # whether there are heads is left to the data, as in the presets of `configs/world`
    heads = replace(config.world.heads, termination_reads="past", reward=None, termination=None)
    return replace(config, world=replace(config.world, heads=heads))


def test_only_heads_are_trained(data: Path, base: Path, tmp_path: Path) -> None:
    before = load_world(base)
    after = load_world(main(hazard(data, base, tmp_path, rare=0.5)))
    old, new = before.state_dict(), after.state_dict()
    moved = {name for name in old if old[name].shape != new[name].shape}
    assert moved == {"termination_head.trunk.0.weight"}  # it reads something else now
    moved |= {n for n in old if n not in moved and not torch.equal(old[n], new[n])}
    assert {name.split(".")[0] for name in moved} == {"reward_head", "termination_head"}
    assert after.config.heads.termination_reads == "past" and old.keys() == new.keys()


def test_a_hazard_is_learned_from_kept_pasts_as_from_clips(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the stage is that of `FlowStage` on the same frames, under the same noise."""
    base = main(hazard(data, base, tmp_path / "run"))
    stage = frozen_stage(HeadsStage, data, base, tmp_path, head_weight=0.5, action_dropout=0.0)
    world, frames, picks, clip = stage.world, stage.frames, [(1, 0), (4, 0)], 6
    monkeypatch.setattr(stage, "picks", lambda step: picks)
    found = stage.update(0)
    noisy = torch.stack([next(tensors(frames.noisy[frames.numbers([p], clip)[0]])) for p in picks])
    batch = stage.episodes.batch(picks, clip)
    with torch.no_grad():
        nll, past = FlowLoss(world)(noisy, batch)
        sums = DenoiserLoss(world)(noisy, past, torch.zeros_like(noisy), batch)
    assert nll.isfinite()
    for name in ("reward", "termination"):
        expected = float(sums[name] / batch.valid[:, 1:].sum())
        assert found[name].item() == pytest.approx(expected, rel=0.01)  # kept in half precision


def test_a_hazard_is_learned_with_the_whole_world_and_does_not_teach_the_flow(
    data: Path, tmp_path: Path
) -> None:
    config = tiny_pretraining(data, tmp_path)
    heads = replace(config.world.heads, termination_reads="past")
    world = load_world(main(replace(config, world=replace(config.world, heads=heads))))
    assert world.termination_head is not None and world.termination_head.reads == "past"
    dataset = EpisodeDataset(data)
    batch = LatentEpisodes(world.codec, dataset, tmp_path).batch([(0, 0)], 6)
    world.requires_grad_(True)
    _, past = FlowLoss(world)(batch.latents, batch)
    sums = DenoiserLoss(world)(batch.latents, past, torch.zeros_like(batch.latents), batch)
    sums["termination"].backward()
    assert all(p.grad is None for p in world.flow.parameters())
    assert all(p.grad is not None for p in world.termination_head.parameters())


def frozen_stage(
    kind: type[DenoiserStage], data: Path, base: Path, folder: Path, **flow: object
) -> DenoiserStage:
    dataset, world = EpisodeDataset(data), load_world(base)
    episodes = LatentEpisodes(world.codec, dataset, folder)
    config = FlowTraining(part="denoiser" if kind is DenoiserStage else "heads", clip=6, **flow)
    train, held_out = np.array([4, 1, 2]), np.array([0, 3])
    return kind(world, config, episodes, dataset, train, held_out, 0, Engine(), folder)


def denoiser_stage(data: Path, base: Path, folder: Path, **flow: object) -> DenoiserStage:
    return frozen_stage(DenoiserStage, data, base, folder, **flow)


def test_frames_have_numbers(data: Path, base: Path, tmp_path: Path) -> None:
    stage = denoiser_stage(data, base, tmp_path)
    frames, picks = stage.frames, [(1, 3), (4, 0), (2, 5), (1, 0)]
    numbers, batch = frames.numbers(picks, 6), stage.episodes.batch(picks, 6)
    found = torch.from_numpy(np.array(frames.latents[numbers], np.float32))
    difference = (found - batch.latents).abs().amax((2, 3))[batch.valid]
    assert difference.max() < 0.01  # kept in half precision
    episodes, places = frames.places(numbers[:, 2])
    assert episodes.tolist() == [1, 4, 2, 1] and places.tolist() == [5, 2, 7, 2]


def test_pasts_are_of_the_noise_that_is_kept(data: Path, base: Path, tmp_path: Path) -> None:
    """Across the border of a clip too: read again from the kept noisy frames they are the same."""
    stage = denoiser_stage(data, base, tmp_path, action_dropout=0.5)
    world, frames, lengths = stage.world, stage.frames, EpisodeDataset(data).lengths
    for episode in (4, 1, 2):
        assert lengths[episode] > 6  # of more than one clip
        numbers = frames.numbers([(episode, 0)], int(lengths[episode]))
        past, noisy, condition = tensors(
            frames.past[numbers], frames.noisy[numbers], frames.condition[numbers]
        )
        with torch.no_grad():
            again = world.flow.global_block.past_of(world.flow.hidden(noisy), condition)
        assert world.config.flow.global_block.past.depth == 1  # a clip has all that it reads
        assert (again - past).abs().max() < 0.05  # kept in half precision


def test_the_losses_are_those_of_clips_from_anywhere(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a clip across the border of two that were read, and of one that ends early."""
    stage = denoiser_stage(data, base, tmp_path, head_weight=0.5)
    world, picks, clip = stage.world, [(1, 2), (4, 6)], 6
    monkeypatch.setattr(stage, "picks", lambda step: picks)
    figures = stage.update(0)
    sums = dict.fromkeys(figures, 0.0)
    frames = later = 0
    for (episode, start), count in zip(picks, (6, 2), strict=True):
        numbers = stage.frames.numbers([(episode, start)], count)
        past, noisy, condition = tensors(
            stage.frames.past[numbers], stage.frames.noisy[numbers], stage.frames.condition[numbers]
        )
        condition[:, 0] = world.conditioning.initial(1)
        target = stage.score(noisy.clone(), past)
        with torch.no_grad():
            prediction, features = world.denoiser(noisy, condition)
            known = world.flow.global_block.project_past(past)
            rewards = world.reward_head(features)
            ends = world.termination_head(features, known[None])
        steps = EpisodeDataset(data).steps_of(episode)
        for t in range(count):
            sums["denoiser"] += float((prediction - target)[0, t].square().mean())
            if t > 0:
                reward = torch.tensor(steps.rewards[start + t])
                end = torch.tensor(bool(steps.terminated[start + t]))
                sums["reward"] += float(world.reward_head.loss(rewards[0, t], reward))
                sums["termination"] += float(world.termination_head.loss(ends[0, t], end))
        frames, later = frames + count, later + count - 1
    for name, value in figures.items():
        expected = sums[name] / (frames if name == "denoiser" else later)
        assert float(value) == pytest.approx(expected, rel=1e-3)
    assert clip == stage.config.clip


def test_the_denoisers_target_is_the_score_of_each_frame_given_its_past(
    data: Path, base: Path, tmp_path: Path
) -> None:
    """By autograd through the whole flow, of one frame's likelihood at a time."""
    stage = denoiser_stage(data, base, tmp_path, action_dropout=0.0)
    world, clip = stage.world, 6
    rows = stage.frames.numbers([(2, 0)], clip)
    past, noisy = tensors(stage.frames.past[rows], stage.frames.noisy[rows])
    found = stage.score(noisy, past)
    actions = torch.from_numpy(stage.episodes.actions[2][None, :clip])
    for t in range(clip):
        frames = noisy.detach().clone().requires_grad_()
        log_prob = world.flow(frames, world.conditioning(actions)).log_prob[0, t]
        (gradient,) = torch.autograd.grad(log_prob, frames)
        expected = -world.config.sigma * gradient[0, t]
        assert expected.abs().max() > 0.1
        # kept in half precision
        torch.testing.assert_close(found[0, t], expected, rtol=0.02, atol=0.01)


def test_the_denoisers_error_falls(data: Path, base: Path, tmp_path: Path) -> None:
    stage = denoiser_stage(data, base, tmp_path, batch=16, rare=0.5)
    optimizer = torch.optim.Adam([p for m in stage.modules() for p in m.parameters()], 1e-2)
    errors = []
    for step in range(20):
        optimizer.zero_grad()
        errors.append(stage.update(step)["denoiser"].item())
        optimizer.step()
    assert np.mean(errors[-3:]) < 0.9 * np.mean(errors[:3])


def test_clips_of_rare_frames_have_them(data: Path, base: Path, tmp_path: Path) -> None:
    stage = denoiser_stage(data, base, tmp_path, batch=64, rare=1.0)
    rare = set(stage.rare.tolist())
    for pick in stage.picks(0):
        assert rare & set(stage.frames.numbers([pick], stage.config.clip)[0].tolist())
    late = stage.picks(stage.config.steps - 1)
    assert any(
        not rare & set(stage.frames.numbers([p], stage.config.clip)[0].tolist()) for p in late
    )


@pytest.mark.parametrize("kind", [WithinStage, DenoiserStage, HeadsStage])
def test_a_killed_run_goes_on_to_the_same_bits(
    data: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[FrozenPastStage],
) -> None:
    name = {WithinStage: "within", DenoiserStage: "denoiser", HeadsStage: "heads"}[kind]
    config = part(name, data, base, tmp_path / "whole", rare=0.5)
    config = replace(config, training=replace(config.training, ema=0.9))
    whole = (main(config) / "world.safetensors").read_bytes()
    update, killed = kind.update, replace(config, out=str(tmp_path / "killed"))

    def until_fourth(stage: FrozenPastStage, step: int) -> dict[str, torch.Tensor]:
        if step == 4:
            raise KeyboardInterrupt
        return update(stage, step)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "update", until_fourth)
        with pytest.raises(KeyboardInterrupt):
            main(killed)
    moved = replace(killed, resume=killed.out, out=str(tmp_path / "moved"))  # pasts are read anew
    assert (main(moved) / "world.safetensors").read_bytes() == whole
    assert (main(killed) / "world.safetensors").read_bytes() == whole
    (tmp_path / "killed" / "rare.json").unlink()
    with pytest.raises(DataError, match=r"rare\.json is missing or of other pasts"):
        main(killed)


def test_what_does_not_go_with_it_is_refused(data: Path, base: Path, tmp_path: Path) -> None:
    config = within(data, base, tmp_path)
    with pytest.raises(ConfigError, match="give it with from="):
        main(replace(config, initial_world=None))
    with pytest.raises(
        ConfigError, match=r"part is 'inside'; use one of all, within, denoiser, heads"
    ):
        FlowTraining(part="inside")
    with pytest.raises(ConfigError, match=r"0 with training\.flow\.part=all"):
        FlowTraining(rare=0.1)
    for flow in ({"clip": 3}, {"accumulate": 2}):  # the window has 3 frames
        for name in ("within", "denoiser"):
            with pytest.raises(ConfigError, match=f"part={name} needs"):
                main(part(name, data, base, tmp_path / "c", **flow))
    with pytest.raises(ConfigError, match=r"would leave flow\.global_block\.outcomes\..* untrain"):
        main(part("denoiser", data, base, tmp_path / "d", outcomes=3))
    learned = main(hazard(data, base, tmp_path / "g"))
    reads = hazard(data, base, tmp_path / "h").world.heads
    again = within(data, learned, tmp_path / "h")
    with pytest.raises(ConfigError, match="part=within changes what a head with"):
        main(replace(again, world=replace(again.world, heads=reads)))
    none = hazard(data, base, tmp_path / "i")
    heads = replace(none.world.heads, reward=False, termination=False)
    with pytest.raises(ConfigError, match="part=heads, but there are none"):
        main(replace(none, world=replace(none.world, heads=heads)))
    silent = tmp_path / "silent"
    shutil.copytree(data, silent)
    metadata = json.loads((silent / "dataset.json").read_text())
    metadata |= {"has_rewards": False, "has_terminations": False}
    (silent / "dataset.json").write_text(json.dumps(metadata))
    with pytest.raises(ConfigError, match="part=heads, but there are none"):
        main(hazard(silent, base, tmp_path / "j"))
    ahead = part("denoiser", data, base, tmp_path / "e")
    denoiser = replace(ahead.world.denoiser, lookahead=1)
    with pytest.raises(ConfigError, match=r"needs world\.denoiser\.lookahead=0"):
        main(replace(ahead, world=replace(ahead.world, denoiser=denoiser)))
    odd = part("denoiser", data, base, tmp_path / "f")
    wide = replace(odd.world, flow=replace(odd.world.flow, window=2))
    with pytest.raises(ConfigError, match=r"is built otherwise \(flow\.window\)"):
        main(replace(odd, world=wide))
    other = tmp_path / "other"
    write_dataset(other, ActionSpec("discrete", n=4))
    with pytest.raises(ConfigError, match=r"would leave conditioning\.table\.weight untrained"):
        main(within(other, base, tmp_path / "b"))
