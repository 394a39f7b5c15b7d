"""`worldflow evaluate-agent`: an agent beside a random policy, in the dream and in reality."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from omegaconf import MISSING
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed

from worldflow.actions import ActionSpec
from worldflow.agents.dreams import DreamConfig, check_dream
from worldflow.agents.places import Places
from worldflow.agents.play import (
    AgentPolicy,
    Batch,
    DreamBatch,
    Eyes,
    Policy,
    RandomPolicy,
    play_episodes,
)
from worldflow.agents.reality import codec_eyes, make_real
from worldflow.agents.saved import AgentCard, knows_latents, load_agent, world_digest
from worldflow.agents.seeds import episode_seed
from worldflow.agents.summary import FOOTER, Summary, save_report, table
from worldflow.compiled import open_world
from worldflow.envs.spaces import action_space, observation_space
from worldflow.errors import ConfigError
from worldflow.world_model import WorldModel

REPORT = "evaluation.json"
EYES = ("raw", "codec", "denoised")


@dataclass
class AgentPath:
    """Which agent.

    Attributes:
        path: folder that `worldflow train-agent` wrote.
    """

    path: str = MISSING


@dataclass
class EvaluationWorld:
    """Which world; what is null is as in the agent's training, so that no prompt can be taken away.

    Attributes:
        path: a world's name or folder.
        horizon: steps after which an imagined episode is truncated.
        temperature: factor on the noise of imagined frames.
        prompt: what the dreams are about.
        guidance: of every frame towards the prompt.
    """

    path: str | None = None
    horizon: int | None = None
    temperature: float | None = None
    prompt: str | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        check_dream(self.horizon, self.temperature, self.guidance)

    def after(self, trained: DreamConfig) -> DreamConfig:
        """The dream of the training with what is said here in its place."""
        return replace(trained, **{k: v for k, v in vars(self).items() if v is not None})


@dataclass
class EvaluateAgentConfig:
    """Settings of `worldflow evaluate-agent`.

    Returns of dream and reality are not the same quantity where episodes are cut: a dream starts
    after the world's `context` frames and is cut after `world.horizon` steps, a real episode starts
    at its first frame and is cut at the environment's own limit. With a limit of N steps and
    `world.horizon=N-(context-1)` both are cut at the same frame; the dream's return still lacks the
    rewards of its context.

    Attributes:
        agent: the agent.
        world: the world for the dream, and from which the real environment is known unless the
            agent was trained in one.
        episodes: episodes of each of the four plays.
        seed: with the number of an episode, gives the seed from which that episode starts, apart
            from those of trainings, see `worldflow.agents.seeds`.
        num_envs: episodes that run side by side.
        deterministic: the agent takes its most probable action; otherwise it draws one.
        dream: play in the world.
        real: play in the environment from which the world was learned, or in which the agent was
            trained.
        eyes: what an agent sees in reality. On frames: "raw" ones, or those that passed the world's
            "codec", as all frames of its training did. On latents: those of the "raw" frames, or
            "denoised" ones, as those of its training in the dream were.
        world_device: where the world dreams: "cpu", "cuda" or "auto".
        out: where the report is written; `evaluation.json` in the agent's folder if null.
        progress: show progress bars.
    """

    agent: AgentPath = field(default_factory=AgentPath)
    world: EvaluationWorld = field(default_factory=EvaluationWorld)
    episodes: int = 100
    seed: int = 10_000
    num_envs: int = 16
    deterministic: bool = True
    dream: bool = True
    real: bool = True
    eyes: str = "raw"
    world_device: str = "auto"
    out: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("num_envs", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.eyes not in EYES:
            raise ConfigError(f"eyes is {self.eyes!r}; use one of {', '.join(EYES)}")


def check_world(card: AgentCard, agent: str, told: str | None) -> None:
    """Refuse a world in which the agent was not trained, unless the user told so and it can play.

    An agent that learned in a real environment without a world may play in any that fits.

    Args:
        card: the agent's.
        agent: its folder.
        told: the world that the user names; None for the agent's own.
    """
    path = card.world.path if told is None else told
    assert path is not None
    if card.world_sha256 in (None, world_digest(path)):
        return
    if card.agent.observation == "latents" and not knows_latents(card, path):
        raise ConfigError(
            f"the agent {agent} sees latents, which mean something under the codec of its training "
            f"only, and that of {path} is another one or has changed since: train the agent again"
        )
    if told is None:
        raise ConfigError(
            f"the world {path} has changed since the agent {agent} was trained in it: train the "
            f"agent again, or say world={path} to play it in this world nevertheless"
        )


def check_fit(
    model: BaseAlgorithm, card: AgentCard, space: gym.Space[Any], actions: ActionSpec
) -> None:
    """Refuse an agent that sees or does something else than a world or an environment offers."""
    *grid, channels = space.shape or ()
    wanted = (*grid, channels * card.agent.frame_stack)
    if card.agent.observation == "frames":  # Stable-Baselines3 turns images
        wanted = (wanted[2], *wanted[:2])
    if model.observation_space.shape != wanted or model.action_space != action_space(actions):
        raise ConfigError(
            f"the agent sees {model.observation_space.shape} and acts in {model.action_space}, but "
            f"this world gives {wanted} and takes {actions}: use the agent's own world"
        )


def _open_world(card: AgentCard, config: EvaluateAgentConfig) -> WorldModel | None:
    """The world to dream in; None for an agent that has none and plays in reality only."""
    told = config.world.path
    path = card.world.path if told is None else told
    if path is None:
        if config.dream:
            raise ConfigError(
                f"the agent {config.agent.path} was trained in a real environment and knows no "
                "world: say world=... to play it in that one's dream, or dream=false"
            )
        return None
    world = open_world(path, config.world_device)
    check_world(card, config.agent.path, told)
    return world


def evaluate_agent(config: EvaluateAgentConfig) -> list[Summary]:
    """Play the agent and a random policy on the same seeds, in the dream and in reality.

    Raises:
        ConfigError: no such agent, nothing to play in, no real environment for this world, the
            agent's own world was replaced by another, an agent on latents shall play in a world
            with another codec, or `eyes` do not fit what it sees.
        DataError: a prompt for a world that learned from no captions.
        WorldFormatError: the world cannot be loaded.
    """
    if not (config.dream or config.real):
        raise ConfigError("dream=false and real=false leave nothing to play in")
    model, card = load_agent(config.agent.path)
    observation = card.agent.observation
    world = _open_world(card, config)
    if config.eyes == "codec" and world is None:
        raise ConfigError("eyes=codec shows frames as a world's codec does: say world=... too")
    if config.eyes == "codec" and observation == "latents":
        raise ConfigError(
            f"eyes=codec shows decoded frames, but the agent {config.agent.path} sees latents, "
            "which the codec makes of real frames anyway: set eyes=raw or eyes=denoised"
        )
    if config.eyes == "denoised" and observation == "frames":
        raise ConfigError(
            f"eyes=denoised shows latents, but the agent {config.agent.path} sees frames: set "
            "eyes=raw or eyes=codec"
        )
    rows = min(config.num_envs, config.episodes)
    summaries: list[Summary] = []

    def play(place: str, batch: Batch, actions: ActionSpec, eyes: Eyes | None) -> None:
        policies: dict[str, Policy] = {
            "random": RandomPolicy(actions),
            "agent": AgentPolicy(model, config.deterministic),
        }
        for name, policy in policies.items():
            label = f"{name} in the {place}" if place == "dream" else f"{name} in reality"
            set_random_seed(episode_seed(config.seed, config.episodes))  # of actions that are drawn
            played = play_episodes(
                batch,
                policy,
                config.episodes,
                config.seed,
                card.agent.frame_stack,
                eyes,
                label if config.progress else None,
            )
            summaries.append(Summary.of(place, name, played))

    if world is not None:
        check_fit(model, card, observation_space(world, observation), world.action_spec)
        if config.dream:
            dream = config.world.after(card.world)
            places = Places(world, dream, None, False, world.action_spec)
            batch = DreamBatch(places.imagination(rows, observation))
            play("dream", batch, world.action_spec, None)
    if config.real:
        denoised = config.eyes == "denoised"
        reality = make_real(world, rows, observation, card.source, denoised=denoised)
        with contextlib.closing(reality) as real:
            check_fit(model, card, real.observation_space, real.action_spec)
            eyes = codec_eyes(world) if world is not None and config.eyes == "codec" else None
            play("real", real, real.action_spec, eyes)
    return summaries


def main(config: EvaluateAgentConfig) -> None:
    """The command `worldflow evaluate-agent`."""
    summaries = evaluate_agent(config)
    path = Path(config.agent.path) / REPORT if config.out is None else Path(config.out)
    save_report(summaries, asdict(config), path)
    print(table(summaries))
    print(FOOTER)
    print(f"report written to {path}")
