"""Agents on latents: trained in the dream, saved, loaded, played in the dream and in reality."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from worldflow.agents.evaluate import (
    AgentPath,
    EvaluateAgentConfig,
    EvaluationWorld,
    evaluate_agent,
)
from worldflow.agents.player import load_player
from worldflow.agents.reality import make_real
from worldflow.agents.saved import AgentCard, load_agent
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.cli import main as command_line
from worldflow.envs.collect import CollectConfig, collect
from worldflow.envs.latent_observation import LatentObservation
from worldflow.envs.policy_config import PolicyConfig
from worldflow.envs.sources import SourceConfig
from worldflow.errors import ConfigError
from worldflow.storage import save_world
from worldflow.testing import tiny_world
from worldflow.world_model import WorldModel

Quick = Callable[..., TrainAgentConfig]


def settings(agent: Path, **changes: object) -> EvaluateAgentConfig:
    return EvaluateAgentConfig(
        **{"agent": AgentPath(str(agent)), "episodes": 5, "num_envs": 3, "progress": False}
        | changes  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("frame_stack", [1, 2])
def test_the_whole_road(quick: Quick, monkeypatch: pytest.MonkeyPatch, frame_stack: int) -> None:
    def decode(world: WorldModel, latents: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the decoder ran")

    monkeypatch.setattr(WorldModel, "decode", decode)
    out = train_agent(quick(16, observation="latents", frame_stack=frame_stack))
    model, card = load_agent(out, "cpu")
    assert card.agent.observation == "latents"
    assert model.observation_space.shape == (16, 2 * frame_stack)
    results = evaluate_agent(settings(out))
    assert [(row.place, row.policy) for row in results] == [
        ("dream", "random"), ("dream", "agent"), ("real", "random"), ("real", "agent"),
    ]  # fmt: skip
    for row in results[2:]:  # Catch: seven steps to the ground
        assert row.lengths == [7] * 5
        assert set(row.returns) <= {-1.0, 1.0}
    # what is real does not depend on the number of rows
    assert evaluate_agent(settings(out, dream=False, num_envs=2)) == results[2:]
    again = train_agent(quick(32, observation="latents", frame_stack=frame_stack, resume=True))
    assert load_agent(again, "cpu")[1].steps == 32


def test_reality_is_seen_through_the_encoder_of_the_world() -> None:
    world = tiny_world()
    everyone, actions = np.ones(2, bool), np.array([0, 2])
    frames, latents = (make_real(world, 2, kind) for kind in ("frames", "latents"))
    for shown, coded in (
        (frames.reset(everyone, [3, 4]), latents.reset(everyone, [3, 4])),
        (frames.step(actions, everyone)[0], latents.step(actions, everyone)[0]),
    ):
        for frame, found in zip(shown, coded, strict=True):
            expected = world.codec.encode_frames(torch.from_numpy(frame)).numpy()
            np.testing.assert_array_equal(found, expected, strict=True)
    for batch in (frames, latents):
        batch.close()


def test_the_command_takes_it_and_resume_remembers_it(
    world_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "agent"
    command = ["train-agent", f"world={world_folder}", f"out={out}", "progress=false"]
    command += ["total_steps=16", "agent.num_envs=2", "agent.hyperparameters.n_steps=8"]
    command += ["agent.hyperparameters.batch_size=16", "agent.hyperparameters.features_dim=8"]
    assert command_line([*command, "agent.observation=pixels"]) == 2
    assert "use one of frames, latents" in capsys.readouterr().err
    assert command_line([*command, "agent.observation=latents"]) == 0
    assert AgentCard.load(out).agent.observation == "latents"
    capsys.readouterr()
    assert command_line([*command, "resume=true"]) == 2
    assert "agent.observation=latents, not frames" in capsys.readouterr().err


def test_a_card_from_before_latents_is_of_frames(quick: Quick) -> None:
    out = train_agent(quick(16))
    card = OmegaConf.load(out / "agent.yaml")
    del card.agent["observation"]
    OmegaConf.save(card, out / "agent.yaml")
    assert load_agent(out, "cpu")[1].agent.observation == "frames"
    assert len(evaluate_agent(settings(out, dream=False))) == 2


def test_latents_are_those_of_worlds_with_the_same_codec(quick: Quick, tmp_path: Path) -> None:
    """A world that went on learning without its codec still shows the agent what it knows."""
    own, more = tmp_path / "own", tmp_path / "more"
    save_world(tiny_world(), own, "a tiny world\n")
    world = tiny_world()
    with torch.no_grad():
        next(world.flow.parameters()).add_(1.0)
    save_world(world, more, "that learned more\n")
    out = train_agent(quick(16, observation="latents", world=own))
    told = EvaluationWorld(path=str(more))
    assert len(evaluate_agent(settings(out, world=told))) == 4
    with torch.no_grad():
        next(world.codec.decoder.parameters()).add_(1.0)
    save_world(world, more, "that shows them otherwise\n")
    assert len(evaluate_agent(settings(out, world=told))) == 4
    with torch.no_grad():
        next(world.codec.encoder.parameters()).add_(1.0)
    save_world(world, tmp_path / "other", "with another codec\n")
    with pytest.raises(ConfigError, match="codec of its training only"):
        evaluate_agent(settings(out, world=EvaluationWorld(path=str(tmp_path / "other"))))


def test_they_act_on_latents_while_episodes_are_collected(quick: Quick, tmp_path: Path) -> None:
    world, folder = tiny_world(), tmp_path / "own"
    save_world(world, folder, "a tiny world\n")
    out = train_agent(quick(16, observation="latents", frame_stack=2, world=folder))
    model, _ = load_agent(out, "cpu")
    policy = PolicyConfig(kind="agent", agent=str(out))
    source = SourceConfig("worldflow/Catch-v0")
    data = str(tmp_path / "data")
    dataset = collect(CollectConfig(source, 14, 3, data, policy, progress=False))
    for index in range(2):
        episode = dataset.read(index)
        latents = world.codec.encode_frames(torch.from_numpy(episode.frames)).detach().numpy()
        before = np.concatenate((np.zeros_like(latents[:1]), latents[:-1]))
        seen = np.concatenate((before, latents), axis=-1)[:-1]
        expected = model.predict(seen, deterministic=True)[0]
        assert episode.actions[1:].tolist() == expected.tolist()
    # a checkpoint in the agent's folder is known by the folder's card, one elsewhere is not
    file = out / "agent.zip"
    checkpoint = out / "checkpoints" / "000000000016.zip"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_bytes(file.read_bytes())
    assert load_player(str(checkpoint), "ppo").frame_stack == 2
    alone = tmp_path / "alone.zip"
    alone.write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="must see uint8 colour frames"):
        load_player(str(alone), "ppo")
    save_world(tiny_world(seed=5), folder, "another\n")
    with pytest.raises(ConfigError, match=r"codec of the world .* has changed"):
        load_player(str(out))


def test_latents_belong_to_one_codec(quick: Quick, tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    save_world(tiny_world(), own, "a tiny world\n")
    save_world(tiny_world(seed=5), other, "another\n")
    out = train_agent(quick(16, observation="latents", world=own))
    with pytest.raises(ConfigError, match=r"other is another one or has changed"):
        evaluate_agent(settings(out, world=EvaluationWorld(path=str(other))))
    own.rename(tmp_path / "moved")
    told = EvaluationWorld(path=str(tmp_path / "moved"))
    assert len(evaluate_agent(settings(out, dream=False, world=told))) == 2
    save_world(tiny_world(seed=5), own, "another\n")
    with pytest.raises(ConfigError, match=r"own is another one or has changed"):
        evaluate_agent(settings(out))


def test_what_needs_pixels_refuses_it(quick: Quick) -> None:
    out = train_agent(quick(16, observation="latents"))
    with pytest.raises(ConfigError, match="set eyes=raw or eyes=denoised"):
        evaluate_agent(settings(out, eyes="codec"))
    with pytest.raises(ConfigError, match="eyes=denoised shows latents"):
        evaluate_agent(settings(train_agent(quick(16, out="frames")), eyes="denoised"))


def test_in_reality_they_may_see_what_they_see_in_dreams(
    quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = train_agent(quick(16, observation="latents")), []
    denoise = LatentObservation._denoise

    def watched(self: LatentObservation, latents: torch.Tensor, action: object) -> torch.Tensor:
        seen.append(action)
        return denoise(self, latents, action)

    monkeypatch.setattr(LatentObservation, "_denoise", watched)
    evaluate_agent(settings(out, dream=False))
    assert not seen
    played = [
        evaluate_agent(settings(out, dream=False, eyes="denoised", num_envs=rows))
        for rows in (2, 3)
    ]
    assert played[0] == played[1] and len(played[0]) == 2  # the same noise in any number of rows
    assert len(seen) == 2 * 2 * 5 * (7 + 1)  # of Catch's 7 steps and the reset
