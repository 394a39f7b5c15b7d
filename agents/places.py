"""Where an agent learns and is judged: inside a world, in a real environment, or both."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage

from worldflow.actions import ActionSpec
from worldflow.agents.algorithms import AgentConfig, check_actions
from worldflow.agents.dreams import DreamConfig
from worldflow.agents.reality import make_real_venv, source_of
from worldflow.agents.rewards import change_rewards, shape_rewards
from worldflow.agents.sb3 import ImaginedVecEnv, wrap
from worldflow.compiled import open_world
from worldflow.envs.imagination import Imagination
from worldflow.envs.sources import SourceConfig, make_source
from worldflow.errors import ConfigError
from worldflow.world_model import WorldModel


@dataclass(frozen=True)
class Places:
    """What a training may use.

    Attributes:
        world: where dreams are dreamed and latents come from; None where none was given.
        dream: what the dreams are like.
        source: the real environment; None where there is none.
        learns_in_reality: whether the agent learns there and not in the dream.
        actions: what an agent here does.
    """

    world: WorldModel | None
    dream: DreamConfig
    source: SourceConfig | None
    learns_in_reality: bool
    actions: ActionSpec

    @classmethod
    def of(
        cls, dream: DreamConfig, source: SourceConfig | None, real: bool, device: str = "auto"
    ) -> Places:
        """Open what the settings name.

        Args:
            dream: the world; its path may be None.
            source: a real environment to learn in.
            real: learn in the real environment of the world.
            device: where the world dreams, see `worldflow.compiled.open_world`.

        Raises:
            ConfigError: they name nothing to learn in, two real environments, or one that cannot
                be made; or they change a dream that nobody learns in, or lead dreams of no
                world.
            WorldFormatError: the world cannot be loaded.
        """
        if real and source is not None:
            raise ConfigError(
                f"real=true learns in the world's own game, source={source.env_id} in that one: "
                "set one of them"
            )
        if dream.path is None and source is None:
            raise ConfigError(
                "nothing to learn in: give world=... to learn in a dream (with real=true: in the "
                "game behind it), or source=... to learn in a real environment"
            )
        if (dream.uses_novelty or dream.expected_ends) and (real or source is not None):
            raise ConfigError(
                "world.novelty_window, max_novelty, pessimism, bonus and expected_ends change the "
                "dream that an agent learns in, and this one learns in a real environment: leave "
                "them out"
            )
        if dream.path is None:
            assert source is not None
            if dream.prompt is not None or dream.guidance:
                raise ConfigError(
                    "world.prompt and world.guidance lead dreams, and there is no world to dream "
                    "in: give world=..., or leave them out"
                )
            with contextlib.closing(make_source(source)) as env:
                return cls(None, dream, source, True, env.action_spec)
        world = open_world(dream.path, device)
        found = source
        if source is None and (real or world.spec.source.get("env_id")):
            found = source_of(world)
        return cls(world, dream, found, real or source is not None, world.action_spec)

    def training_env(self, agent: AgentConfig, processes: bool = False) -> VecEnv:
        """The environments that an agent learns on, wrapped as its settings say.

        Args:
            agent: its settings.
            processes: give each real environment a process of its own.

        Raises:
            ConfigError: they cannot be made, the algorithm cannot take their actions, the world is
                not calibrated for the window of novelty, guidance without a prompt, or processes
                are asked for in a dream.
            DataError: a prompt for a world that learned from no captions.
            WorldFormatError: the world is not calibrated for novelty.
        """
        check_actions(agent.algorithm, self.actions)
        if self.learns_in_reality:
            found = make_real_venv(
                self.world, agent.num_envs, agent.observation, self.source, processes
            )
            return for_agent(found, agent)
        if processes:
            raise ConfigError(
                "processes=true gives each real environment a process of its own, and this agent "
                "learns in a dream, which imagines all its episodes at once: leave it out, or set "
                "real=true or source=..."
            )
        assert self.world is not None
        dream = self.dream
        if dream.uses_novelty:
            measure = self.world.calibration.require("dreamed")
            measure.require_window(dream.novelty_window, "world.novelty_window")
        imagination = Imagination(
            self.world,
            agent.num_envs,
            dream.horizon,
            dream.temperature,
            agent.observation,
            dream.novelty_window,
            dream.max_novelty,
            dream.start,
        )
        return for_agent(ImaginedVecEnv(imagination), agent, dream)

    def imagination(self, num_envs: int, observation: str) -> Imagination:
        """Dreams to be judged in: novelty ends none of them, whatever the agent learns in."""
        assert self.world is not None
        dream = self.dream
        return Imagination(
            self.world,
            num_envs,
            dream.horizon,
            dream.temperature,
            observation,
            start=dream.start,
        )


def for_agent(venv: VecEnv, agent: AgentConfig, dream: DreamConfig | None = None) -> VecEnv:
    """Add what the settings say: episode statistics, stacked frames, changed rewards.

    Args:
        venv: the environment.
        agent: who learns in it.
        dream: whose shaping of rewards is added, where `venv` is one.
    """
    venv = wrap(venv, agent.frame_stack)
    if agent.observation == "frames":
        # Stable-Baselines3 would do it by itself, but outside of what normalises rewards, and would
        # then store frames that were not turned.
        venv = VecTransposeImage(venv)
    if dream is not None:
        venv = shape_rewards(venv, dream)
    return change_rewards(venv, agent.reward, agent.settings.gamma)
