"""Rounds of dreams and real play: by known answers, and killed and continued."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import rounds
import torch
from ends.head import HeadTraining, head_of, held_out, log_loss, probabilities, teach
from ends.play import Play, RealGame
from gymnasium import spaces
from rounds import Rounds, Run
from safetensors.torch import load_file
from stable_baselines3.common.base_class import BaseAlgorithm

from worldflow.actions import ActionSpec
from worldflow.agents.saved import load_agent
from worldflow.errors import ConfigError
from worldflow.storage import load_world, save_world
from worldflow.termination import TerminationHead
from worldflow.testing import tiny_config, tiny_world
from worldflow.world_model import WorldModel

SEED = np.random.SeedSequence(5)
TRAIN = [
    "agent=ppo",
    "agent.observation=latents",
    "agent.num_envs=2",
    "agent.frame_stack=2",
    "agent.reward.normalize=true",
    "agent.hyperparameters.n_steps=8",
    "agent.hyperparameters.batch_size=16",
    "world.horizon=6",
    "world.expected_ends=2.0",
]


class SixSteps(gym.Env[np.ndarray, Any]):
    """Noise that depends on the actions, for six steps."""

    metadata = {"render_modes": [], "render_fps": 8}  # noqa: RUF012
    made: list[SixSteps] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.frames: list[list[np.ndarray]] = []
        self.actions: list[list[int]] = []
        self.made.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.frames.append([self._frame(0)])
        self.actions.append([0])
        return self.frames[-1][-1], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.frames[-1].append(self._frame(int(action)))
        self.actions[-1].append(int(action))
        return self.frames[-1][-1], 1.0, len(self.frames[-1]) == 7, False, {}

    def _frame(self, action: int) -> np.ndarray:
        return self.np_random.integers(80 * action, 80 * action + 90, (64, 64, 3), dtype=np.uint8)


gym.register("test/SixSteps-v0", entry_point=SixSteps)


def past_world(sigma: float = 0.3) -> WorldModel:
    config = tiny_config()
    config = replace(config, sigma=sigma, heads=replace(config.heads, termination_reads="past"))
    world = tiny_world(ActionSpec("discrete", n=3), config=config)
    world.spec.source.update({"env_id": "test/SixSteps-v0"})
    return world


def test_real_play_is_read_as_whole_clips_are() -> None:
    world, seen = past_world(sigma=1e-6), []
    SixSteps.made.clear()
    game = RealGame(world, 2, frame_stack=2)
    rng = np.random.default_rng(0)

    def choose(stacked: np.ndarray) -> np.ndarray:
        seen.append(stacked)
        return rng.integers(0, 3, len(stacked))

    play = game.play(choose, 2 * 14, SEED)
    game.close()
    assert len(play) == 28 and play.ended.reshape(14, 2).sum(0).tolist() == [2, 2]
    for row, env in enumerate(SixSteps.made[-2:]):
        own = play.past.reshape(14, 2, *play.past.shape[1:])[:, row]
        latents = []
        for number, (frames, actions) in enumerate(
            zip(env.frames[:2], env.actions[:2], strict=True)
        ):
            clip = torch.from_numpy(np.stack(frames))
            encoded = world.codec.encode_frames(clip)[None]
            condition = world.conditioning(torch.tensor([actions]))
            expected = world.flow(encoded, condition).features[0, 1:]
            found = own[6 * number : 6 * number + 6].float()
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
            latents.append(encoded[0])
        # what the agent saw: the last two frames' latents, none before an episode's first
        first = np.concatenate((np.zeros_like(latents[0][0]), latents[0][0]), axis=-1)
        np.testing.assert_allclose(seen[0][row], first, atol=1e-5)
        third = np.concatenate((latents[1][1], latents[1][2]), axis=-1)
        np.testing.assert_allclose(seen[8][row], third, atol=1e-5)


def true_chance(past: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(2 * past[:, 0, 0].float() - 1)


def made_up(steps: int, seed: int) -> Play:
    """Ends whose chance the first feature knows."""
    generator = torch.Generator().manual_seed(seed)
    past = torch.randn(steps, 4, 3, generator=generator).half()
    ended = torch.rand(steps, generator=generator) < true_chance(past)
    return Play(past, ended, torch.arange(steps) // 7)


def test_a_head_learns_the_chance_of_the_end() -> None:
    torch.manual_seed(0)
    head = TerminationHead(4, (5, 3), 32, "past")
    plays = [made_up(7000, 0), made_up(7000, 1)]
    before, losses = log_loss(head, plays), []
    for play in plays:
        p = true_chance(play.past).double()
        losses.append(-torch.where(play.ended, p.log(), (1 - p).log())[held_out(play)])
    best = float(torch.cat(losses).mean())  # of one who knows
    teach(head, plays, HeadTraining(epochs=8, learning_rate=3e-3), SEED)
    after = log_loss(head, plays)
    assert before is not None and after is not None
    assert best - 0.02 < after < best + 0.02 < before - 0.1
    fresh = made_up(4000, 2)
    assert (probabilities(head, fresh) - true_chance(fresh.past)).abs().mean() < 0.06
    assert not any(p.requires_grad for p in head.parameters())


def test_what_is_held_out_teaches_nothing() -> None:
    play = made_up(700, 0)
    other = Play(play.past, torch.where(held_out(play), ~play.ended, play.ended), play.episode)
    heads = []
    for data in (play, other):
        torch.manual_seed(0)
        heads.append(TerminationHead(4, (5, 3), 8, "past"))
        teach(heads[-1], [data], HeadTraining(), SEED)
    one, two = (h.state_dict() for h in heads)
    assert held_out(play).sum() == 70 and all(torch.equal(one[k], two[k]) for k in one)


def settings(tmp_path: Path, out: str) -> Rounds:
    folder = tmp_path / "world"
    if not folder.exists():
        save_world(past_world(), folder, "tiny\n")
    return Rounds(
        world=str(folder),
        out=str(tmp_path / out),
        rounds=2,
        dream_steps=16,
        real_steps=20,
        first_steps=40,
        real_envs=2,
        train=list(TRAIN),
    )


def weights(folder: Path) -> Sequence[torch.Tensor]:
    model, _ = load_agent(folder, "cpu")
    return list(model.policy.state_dict().values())


def test_a_killed_run_continues_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run(settings(tmp_path, "whole")).run()
    real = rounds.save_checkpoint

    def killed(model: BaseAlgorithm, path: Path) -> Path:
        if "002" in str(path):
            raise KeyboardInterrupt
        return real(model, path)

    monkeypatch.setattr(rounds, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        Run(settings(tmp_path, "pieces")).run()
    monkeypatch.undo()
    pieces = Run(settings(tmp_path, "pieces")).run()
    for one, two in zip(whole, pieces, strict=True):
        assert one | {"seconds": 0} == two | {"seconds": 0}
    assert [row["real_steps"] for row in whole] == [40, 60, 80]
    assert [row["dream_steps"] for row in whole] == [0, 16, 32]
    outs = [tmp_path / "whole", tmp_path / "pieces"]
    one, two = (load_file(out / "world" / "world.safetensors") for out in outs)
    assert all(torch.equal(one[k], two[k]) for k in one)
    for a, b in zip(*(weights(out / "agent") for out in outs), strict=True):
        assert torch.equal(a, b)
    before = load_world(tmp_path / "world").state_dict()
    changed = {k for k in before if not torch.equal(before[k], one[k])}
    assert changed and all(k.startswith("termination_head.") for k in changed)
    report = json.loads((outs[0] / "rounds" / "002" / "round.json").read_text())
    assert report == json.loads(json.dumps(whole[2]))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path, "out")
    with pytest.raises(ConfigError, match="the agent must see latents"):
        Run(replace(config, train=["agent=ppo"]))
    Run(config)
    with pytest.raises(ConfigError, match="was begun with other real_steps"):
        Run(replace(config, real_steps=30))
    with pytest.raises(ConfigError, match="does not read the end of an episode from the past"):
        head_of(tiny_world(), "tiny")
    with pytest.raises(ConfigError, match="one at least in each real env"):
        replace(config, first_steps=1)
    for word in ("real=true", "seed=3", "world.prompt=x", "agent.hyperparameters.anneal=false"):
        with pytest.raises(ConfigError, match="is nothing that rounds can have"):
            replace(config, train=[*TRAIN, word])
    dqn = ["agent=dqn", "agent.observation=latents"]
    with pytest.raises(ConfigError, match="a replay buffer does not outlast a round"):
        Run(replace(config, train=dqn, out=str(tmp_path / "dqn")))
    with pytest.raises(ConfigError, match="has 0 ends to learn from"):
        calm = Play(torch.zeros(50, 4, 3).half(), torch.zeros(50).bool(), torch.zeros(50).long())
        teach(TerminationHead(4, (5, 3), 8, "past"), [calm], HeadTraining(), SEED)
    with pytest.raises(ConfigError, match=r"head\.noise not negative"):
        HeadTraining(noise=-1.0)


def test_the_dream_ends_as_the_taught_head_says(tmp_path: Path) -> None:
    run = Run(settings(tmp_path, "out"))
    venv = run.places.training_env(run.training.agent)
    with torch.no_grad():
        for parameter in run.head.parameters():
            parameter.zero_()
        run.head.trunk[-1].bias.fill_(20.0)  # an end for sure
    venv.reset()
    _, _, dones, infos = venv.step(np.zeros(2, np.int64))
    assert dones.all() and all(info["termination_probability"] > 0.999 for info in infos)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    config = replace(settings(tmp_path, "out"), rounds=1)
    rows = Run(config).run()
    (tmp_path / "out" / "world" / "card.md").unlink()  # killed while it finished
    assert Run(config).run() == rows
    assert (tmp_path / "out" / "world" / "card.md").exists()
