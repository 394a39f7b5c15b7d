"""Rounds of dreams and real play: by known answers, and killed and continued."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreseen_ends
import gymnasium as gym
import numpy as np
import pytest
import rounds
import torch
from ends.head import (
    HeadTraining,
    _loss,
    _pieces,
    ends,
    head_of,
    held_out,
    log_loss,
    probabilities,
    teach,
)
from ends.play import Play, RealGame
from gymnasium import spaces
from rounds import Rounds, Run
from safetensors.torch import load_file
from stable_baselines3.common.base_class import BaseAlgorithm

from worldflow.actions import ActionSpec
from worldflow.agents.saved import load_agent
from worldflow.errors import ConfigError
from worldflow.heads.episode_memory import EpisodeTerminationHead
from worldflow.storage import load_world, save_world
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


def remembering_world(sigma: float = 0.3) -> WorldModel:
    config = tiny_config()
    config = replace(config, sigma=sigma, heads=replace(config.heads, termination_reads="episode"))
    world = tiny_world(ActionSpec("discrete", n=3), config=config)
    world.spec.source.update({"env_id": "test/SixSteps-v0"})
    return world


def test_real_play_is_kept_as_the_head_reads_it() -> None:
    world, seen = remembering_world(sigma=1e-6), []
    SixSteps.made.clear()
    game = RealGame(world, 2, frame_stack=2)
    rng = np.random.default_rng(0)

    def choose(stacked: np.ndarray) -> np.ndarray:
        seen.append(stacked)
        return rng.integers(0, 3, len(stacked))

    play = game.play(choose, 2 * 14, SEED)
    game.close()
    assert play.lengths.tolist() == [7, 7, 3] * 2 and play.steps == 28
    assert play.ended.tolist() == [True, True, False] * 2
    assert ends(play).nonzero().flatten().tolist() == [5, 11, 19, 25]
    for row, env in enumerate(SixSteps.made[-2:]):
        latents = []
        for number, (frames, actions) in enumerate(zip(env.frames, env.actions, strict=True)):
            encoded = world.codec.encode_frames(torch.from_numpy(np.stack(frames)))
            condition = world.conditioning(torch.tensor([actions]))[0]
            own = play.of(torch.arange(6) == 3 * row + number)
            kept = len(frames) - 1  # but for the last frame
            torch.testing.assert_close(own.noisy[:kept].float(), encoded[:kept], atol=2e-3, rtol=0)
            torch.testing.assert_close(own.condition.float(), condition, atol=2e-3, rtol=2e-3)
            # the chance of each step's end is the head's, of the whole episode
            expected = world.termination_head(encoded[None], condition[None])[0, 1:].sigmoid()
            found = probabilities(world.termination_head, own)
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
            latents.append(encoded)
        # what the agent saw: the last two frames' latents, none before an episode's first
        first = np.concatenate((np.zeros_like(latents[0][0]), latents[0][0]), axis=-1)
        np.testing.assert_allclose(seen[0][row], first, atol=1e-5)
        third = np.concatenate((latents[1][1], latents[1][2]), axis=-1)
        np.testing.assert_allclose(seen[8][row], third, atol=1e-5)


def made_up(episodes: int, seed: int) -> tuple[Play, torch.Tensor]:
    """Episodes that end, with a known chance, three steps after a mark; and the chances."""
    generator = torch.Generator().manual_seed(seed)
    plays, chances = [], []
    for _ in range(episodes):
        mark = int(torch.randint(0, 4, (), generator=generator))
        ended = bool(torch.rand((), generator=generator) < 0.7)
        noisy = torch.randn(mark + 4, 4, 3, generator=generator).half()
        noisy[mark, 2] = 4.0
        noisy[-1] = 0.0
        plays.append(
            Play(
                noisy,
                torch.zeros(mark + 4, 2).half(),
                torch.tensor([mark + 4]),
                torch.tensor([ended]),
            )
        )
        chances.append(torch.cat((torch.zeros(mark + 2), torch.tensor([0.7]))))
    return Play.joined(plays), torch.cat(chances)


def test_a_head_learns_the_chance_of_the_end() -> None:
    head = EpisodeTerminationHead(4, 3, 2, 16)
    (one, _), (two, _), (fresh, chance) = (made_up(1500, seed) for seed in (0, 1, 2))
    before = log_loss(head, [one, two])
    teach(head, [one, two], HeadTraining(epochs=4, learning_rate=3e-3), SEED)
    after = log_loss(head, [one, two])
    assert before is not None and after is not None
    steps = fresh.steps / len(fresh.lengths)
    best = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3)) / steps  # of one who knows
    assert best - 0.03 < after < best + 0.03 < before - 0.1
    assert (probabilities(head, fresh) - chance).abs().mean() < 0.06
    assert not any(p.requires_grad for p in head.parameters())


def test_each_step_is_in_one_piece() -> None:
    play, _ = made_up(9, 0)
    for clip in (2, 3, 5, 64):
        seen = [
            (episode, step)
            for episode, first, last in _pieces(play, clip, torch.Generator().manual_seed(0))
            for step in range(first + 1, last + 1)
            if last - first < clip
        ]
        whole = [n for n in play.lengths.tolist() if n <= clip]
        assert len(_pieces(play, clip, torch.Generator())) >= len(play.lengths)
        if len(whole) == len(play.lengths):
            assert len(_pieces(play, clip, torch.Generator())) == len(whole)
        expected = [(e, t) for e, n in enumerate(play.lengths.tolist()) for t in range(1, n)]
        assert seen == expected


def test_the_loss_of_pieces_is_that_of_their_steps() -> None:
    play, _ = made_up(6, 0)
    play = replace(play, condition=torch.randn_like(play.condition))
    head, begins = EpisodeTerminationHead(4, 3, 2, 8), play.begins.tolist()
    pieces = _pieces(play, 3, torch.Generator().manual_seed(1))
    assert any(first > 0 for _, first, _ in pieces)
    total, steps = 0.0, 0
    with torch.no_grad():
        found = _loss(head, play, pieces).item()
        for episode, first, last in pieces:
            begin = begins[episode]
            frames = play.noisy[begin + first : begin + last + 1].float()[:, None]
            led = play.condition[begin + first : begin + last + 1].float()[:, None]
            led[0] = play.condition[begin].float()  # no action led to the first frame
            memory = head.begin(frames[0])
            for t, frame in enumerate(frames):
                logits, memory = head.step(memory, frame, frame, frame, led[t])
                if t:
                    final = first + t + 1 == play.lengths[episode]
                    ended = torch.tensor([bool(final and play.ended[episode])])
                    total, steps = total + head.loss(logits, ended).item(), steps + 1
    assert steps == play.steps and found == pytest.approx(total / steps, rel=1e-4)


def test_what_is_held_out_teaches_nothing() -> None:
    play, _ = made_up(70, 0)
    other = replace(play, ended=torch.where(held_out(play), ~play.ended, play.ended))
    heads = []
    for data in (play, other):
        torch.manual_seed(0)
        heads.append(EpisodeTerminationHead(4, 3, 2, 8))
        teach(heads[-1], [data], HeadTraining(), SEED)
    one, two = (h.state_dict() for h in heads)
    assert held_out(play).sum() == 7 and all(torch.equal(one[k], two[k]) for k in one)


def settings(tmp_path: Path, out: str) -> Rounds:
    folder = tmp_path / "world"
    if not folder.exists():
        save_world(remembering_world(), folder, "tiny\n")
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


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path, "out")
    monkeypatch.setattr(Run, "_run", lambda run: [])
    with pytest.raises(ConfigError, match="the agent must see latents"):
        Run(replace(config, train=["agent=ppo"]))
    assert Run(config).run() == Run(config).run() == []
    with pytest.raises(ConfigError, match="was begun with other real_steps"):
        Run(replace(config, real_steps=30)).run()
    with pytest.raises(ConfigError, match=r"was begun with other agent\.frame_stack"):
        Run(replace(config, train=[*config.train, "agent.frame_stack=3"])).run()
    with pytest.raises(ConfigError, match="does not read the end of an episode from all of it"):
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
        calm = replace(made_up(20, 0)[0], ended=torch.zeros(20, dtype=torch.bool))
        teach(EpisodeTerminationHead(4, 3, 2, 8), [calm], HeadTraining(), SEED)
    with pytest.raises(ConfigError, match=r"head\.clip 2"):
        HeadTraining(clip=1)


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


def test_ends_foreseen_of_real_play_are_counted(tmp_path: Path) -> None:
    """Of a head that says one in four of every step, and a game that ends after six."""
    config = replace(settings(tmp_path, "out"), rounds=1)
    Run(config).run()
    world = load_world(tmp_path / "world")
    head = world.termination_head
    assert isinstance(head, EpisodeTerminationHead)
    with torch.no_grad():
        head.trunk[-1].weight.zero_()
        head.trunk[-1].bias.fill_(math.log(0.25 / 0.75))
    save_world(world, tmp_path / "constant", "tiny\n")
    agent, constant = str(tmp_path / "out" / "agent"), str(tmp_path / "constant")
    wanted = foreseen_ends.ForeseenEnds(world=constant, agents=[agent], steps=29, rows=2)
    (row,) = foreseen_ends.measure(wanted)
    assert (row["steps"], row["ends"], row["foreseen"]) == (28, 4, 7.0)
    assert row["ends_over_foreseen"] == pytest.approx(4 / 7, abs=1e-3)
    nats = -(4 * math.log(0.25) + 24 * math.log(0.75)) / 28
    assert row["log_loss"] == pytest.approx(nats, abs=1e-5)
    with torch.no_grad():
        next(world.codec.encoder.parameters()).add_(1.0)
    save_world(world, tmp_path / "other", "tiny\n")
    with pytest.raises(ConfigError, match="does not see latents"):
        foreseen_ends.measure(replace(wanted, world=str(tmp_path / "other")))
    with pytest.raises(ConfigError, match="give agents"):
        foreseen_ends.ForeseenEnds(world=constant)
