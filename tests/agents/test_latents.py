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
from worldflow.agents.reality import make_real
from worldflow.agents.saved import AgentCard, load_agent, load_player
from worldflow.agents.train import TrainAgentConfig, train_agent
from worldflow.cli import main as command_line
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


def test_latents_belong_to_one_world(quick: Quick, tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    save_world(tiny_world(), own, "a tiny world\n")
    save_world(tiny_world(seed=5), other, "another\n")
    out = train_agent(quick(16, observation="latents", world=own))
    with pytest.raises(ConfigError, match=r"other is another one.*train the agent again"):
        evaluate_agent(settings(out, world=EvaluationWorld(path=str(other))))
    own.rename(tmp_path / "moved")
    told = EvaluationWorld(path=str(tmp_path / "moved"))
    assert len(evaluate_agent(settings(out, dream=False, world=told))) == 2
    save_world(tiny_world(seed=5), own, "another\n")
    with pytest.raises(ConfigError, match=r"own is another one or has changed"):
        evaluate_agent(settings(out))


def test_what_needs_pixels_refuses_it(quick: Quick) -> None:
    out = train_agent(quick(16, observation="latents"))
    with pytest.raises(ConfigError, match="set eyes=raw"):
        evaluate_agent(settings(out, eyes="codec"))
    with pytest.raises(ConfigError, match="must see uint8 colour frames"):
        load_player(str(out))
