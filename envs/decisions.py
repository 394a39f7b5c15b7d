"""Several plans from the same moments, in the real game and in the dream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from worldflow.envs.collect import environment_seed
from worldflow.envs.policies import RandomPolicy
from worldflow.envs.replay import Continuation, Replay, Start
from worldflow.errors import ConfigError
from worldflow.evaluation.association import ratio
from worldflow.evaluation.controllability import excess
from worldflow.evaluation.decisions import Outcomes, decided, fidelity_figures
from worldflow.pictures.strips import strip
from worldflow.randomness import generator_of
from worldflow.world_model import WorldModel

STICKY_START = 0.5  # of the play that leads to a start, as in `worldflow collect`
SHOWN = 2  # dreams of each plan whose frames are decoded


@dataclass
class DecisionsConfig:
    """How decision fidelity is measured.

    Attributes:
        starts: moments whose plans come out differently in reality.
        tries: moments looked at for each of them, at most.
        plans: action sequences from each moment.
        horizon: actions in a sequence.
        sticky: probability with which a sequence repeats its last action; otherwise it is random.
        given: real frames before a moment that the dream starts from, where there are as many.
        real: continuations of each plan in reality, where chance can be drawn anew; otherwise 1.
        dreams: of each plan.
        info: a number in the real environment's infos whose last value is a second outcome.
    """

    starts: int = 24
    tries: int = 20
    plans: int = 5
    horizon: int = 15
    sticky: float = 0.8
    given: int = 8
    real: int = 8
    dreams: int = 32
    info: str | None = None

    def __post_init__(self) -> None:
        for name in ("starts", "tries", "horizon", "given", "real", "dreams"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"decisions.{name} is {getattr(self, name)}; it must be at least 1"
                )
        if self.plans < 2 or not 0.0 <= self.sticky < 1.0:
            raise ConfigError(
                f"decisions.plans={self.plans} must be at least 2 and "
                f"decisions.sticky={self.sticky} in [0, 1), so that plans differ"
            )


@dataclass(frozen=True)
class Decision:
    """A moment, its plans (P, T, ...), and what reality made of them: [plan][continuation]."""

    start: Start
    plans: np.ndarray
    real: list[list[Continuation]]

    @property
    def returns(self) -> np.ndarray:
        """(P, R)."""
        return np.array([[c.rewards.sum() for c in row] for row in self.real])

    @property
    def values(self) -> np.ndarray:
        """The info's last values, (P, R)."""
        return np.array([[c.value for c in row] for row in self.real])


@dataclass(frozen=True)
class DreamedPlans:
    """M dreams of each of P plans.

    Attributes:
        expected: sum of rewards, each times the probability that the dream still runs, (P, M).
        drawn: sum of rewards up to the drawn end, (P, M).
        frames: of the first dreams, (P, SHOWN or M, T, H, W, 3) uint8.
    """

    expected: np.ndarray
    drawn: np.ndarray
    frames: np.ndarray


def find_decisions(
    replay: Replay, config: DecisionsConfig, context: int, seed: int, progress: bool = False
) -> tuple[list[Decision], int]:
    """Moments of random play whose plans have different mean returns in reality.

    They are chosen by reality alone: what a dream makes of them plays no part.

    Args:
        replay: the real game.
        config: see there.
        context: frames that a moment needs behind it.
        seed: of everything.
        progress: show a progress bar.

    Returns:
        the decisions, as many as were found, and how many moments were looked at.
    """
    spec = replay.action_spec
    found: list[Decision] = []
    looked = 0
    with tqdm(total=config.starts, desc="decisions", disable=not progress) as bar:
        for number in range(config.starts * config.tries):
            if len(found) == config.starts:
                break
            keys = np.random.SeedSequence(seed, spawn_key=(number,)).spawn(3 + config.real)
            rng = np.random.default_rng(keys[1])
            start = replay.start(environment_seed(keys[0]), context, STICKY_START, rng)
            if start is None:
                continue
            looked += 1
            plans = np.stack(
                [
                    _plan(RandomPolicy(spec, config.sticky), config.horizon, key)
                    for key in keys[2].spawn(config.plans)
                ]
            )
            chances = [environment_seed(key) for key in keys[3:]] if replay.has_chance else [None]
            real = [[replay.follow(start, plan, chance) for chance in chances] for plan in plans]
            decision = Decision(start, plans, real)
            if decided(decision.returns.mean(axis=1)[None])[0]:
                found.append(decision)
                bar.update()
    return found, looked


def dream_plans(
    world: WorldModel, decision: Decision, config: DecisionsConfig, heat: float, seed: int
) -> DreamedPlans:
    """Dream each plan several times; dream m has the same noise under every plan.

    Args:
        world: with both heads.
        decision: a moment and its plans.
        config: see there.
        heat: factor on the noise of dreamed frames.
        seed: of the noise.
    """
    start, (count, horizon) = decision.start, decision.plans.shape[:2]
    given = min(config.given, len(start.frames))
    samples = config.dreams

    def generators(kind: int) -> list[torch.Generator | None]:
        return [generator_of(np.random.SeedSequence([seed, kind, m])) for m in range(samples)]

    def repeated(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.repeat(values[None, -given:], samples, axis=0))

    state = world.initial_state(repeated(start.frames), repeated(start.actions), generators(0))
    state = world.fork(state, list(range(samples)) * count)
    noise = [generator for _ in range(count) for generator in generators(1)]
    shown = min(SHOWN, samples)
    rows = torch.tensor([p * samples + m for p in range(count) for m in range(shown)])
    expected, drawn = (torch.zeros(count * samples, dtype=torch.float64) for _ in range(2))
    running, alive = torch.ones_like(expected), torch.ones_like(expected)
    frames = []
    for t in range(horizon):
        actions = torch.from_numpy(np.repeat(decision.plans[:, t], samples, axis=0))
        state, made = world.step(state, actions, noise, heat)
        assert made.reward is not None and made.terminated is not None
        assert made.termination_probability is not None
        reward = made.reward.double()
        expected, drawn = expected + running * reward, drawn + alive * reward
        running = running * (1.0 - made.termination_probability.double())
        alive = alive * (~made.terminated).double()
        frames.append(world.decode(made.latents[rows]))
    size = (count, samples)
    return DreamedPlans(
        expected.reshape(size).numpy(),
        drawn.reshape(size).numpy(),
        torch.stack(frames, dim=1).reshape(count, shown, horizon, *world.frame_shape).numpy(),
    )


def decision_figures(
    decisions: list[Decision], dreamed: list[DreamedPlans], has_chance: bool
) -> dict[str, Any]:
    """Fidelity of the ranking by return (and by the info), and controllability; JSON-able.

    Args:
        decisions: one or more.
        dreamed: of each.
        has_chance: whether reality's continuations differ by chance.
    """
    expected, drawn = (np.stack([getattr(d, n) for d in dreamed]) for n in ("expected", "drawn"))
    real = np.stack([d.returns for d in decisions])
    figures = {
        "continuations": real.shape[-1],
        "has_chance": has_chance,
        "by_return": fidelity_figures(Outcomes(real, expected, drawn)),
        "by_info": None,
        "controllability": controllability(decisions, dreamed),
        "real_returns": real.mean(axis=-1).tolist(),
        "dreamed_returns": expected.mean(axis=-1).tolist(),
    }
    values = np.stack([d.values for d in decisions])
    if not np.isnan(values).any():
        figures["by_info"] = fidelity_figures(Outcomes(values, expected, drawn))
        figures["by_info"]["ceiling"] = None  # a dream has no such value
    return figures


def controllability(
    decisions: list[Decision], dreamed: list[DreamedPlans]
) -> dict[str, float] | None:
    """Excess of the dream over that of reality, see `worldflow.evaluation.controllability`.

    Over all ordered pairs of plans of a start, at steps that all continuations reach; reality as a
    simulator of itself is its second continuation, or the only one where it has no chance.
    """
    of_dream, of_reality = np.zeros(len(decisions)), np.zeros(len(decisions))
    for row, (decision, dream) in enumerate(zip(decisions, dreamed, strict=True)):
        again = min(1, len(decision.real[0]) - 1)
        used = [plan[i].frames for plan in decision.real for i in {0, again}]
        steps = min(len(frames) for frames in used)
        first = [plan[0].frames[:steps] for plan in decision.real]
        second = [plan[again].frames[:steps] for plan in decision.real]
        for a in range(len(first)):
            for b in range(len(first)):
                if a == b:
                    continue
                shown = dream.frames[:, :, :steps]
                of_dream[row] += excess(shown[b], shown[a], first[a][None]).sum(axis=-1).mean()
                of_reality[row] += excess(second[b], second[a], first[a]).sum()
    return ratio(of_dream, of_reality)


def decision_strip(decision: Decision, dreamed: DreamedPlans) -> np.ndarray:
    """The plans that reality finds best and worst, each real and dreamed; black after the end."""
    order = decision.returns.mean(axis=1).argsort(kind="stable")
    rows = {}
    horizon = dreamed.frames.shape[2]
    for name, plan in (("best", int(order[-1])), ("worst", int(order[0]))):
        frames = decision.real[plan][0].frames
        padded = np.zeros_like(dreamed.frames[plan, 0])
        padded[: len(frames)] = frames
        rows[f"real {name}"], rows[f"dream {name}"] = padded, dreamed.frames[plan, 0]
    return strip(rows, np.arange(1, horizon + 1), max(1, 64 // dreamed.frames.shape[3]))


def _plan(policy: RandomPolicy, horizon: int, key: np.random.SeedSequence) -> np.ndarray:
    """Actions of sticky, random play (horizon, ...), blind to what happens."""
    policy.begin(np.random.default_rng(key))
    unseen = np.zeros((0, 0, 3), np.uint8)
    return np.stack([policy.act(unseen) for _ in range(horizon)])
